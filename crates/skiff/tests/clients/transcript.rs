//! What a user types and what is said to it, as text:
//!
//! ```text
//! ## a heading
//! $ a command of bash
//! > its further lines
//! [1]             its exit code, where that is not 0
//! some words      which the output holds, each line after the one before
//! ! other words   which it does not hold
//! ```

use std::process::{Command, Stdio};

use super::common::text;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    heading: String,
    pub(crate) command: String,
    code: i32,
    holds: Vec<String>,
    holds_not: Vec<String>,
}

pub(crate) fn parse(transcript: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![];
    let mut heading = "";
    for line in transcript.lines() {
        if let Some(words) = line.strip_prefix("## ") {
            heading = words;
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { heading: heading.into(), command: command.into(), ..Step::default() });
        } else if !line.is_empty() {
            steps.last_mut().expect("a command before what it says").add(line);
        }
    }
    steps
}

impl Step {
    fn add(&mut self, line: &str) {
        let code = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')?.parse().ok());
        match (code, line.strip_prefix("> "), line.strip_prefix("! ")) {
            (Some(code), _, _) => self.code = code,
            (_, Some(more), _) => self.command.extend(["\n", more]),
            (_, _, Some(words)) => self.holds_not.push(words.into()),
            _ => self.holds.push(line.into()),
        }
    }

    /// Runs the command by the bash that `shell` prepares; what is wrong with the answer comes back.
    pub(crate) fn run(&self, mut shell: Command) -> Result<(), String> {
        let script = format!("exec 2>&1\n{}", self.command);
        let output = shell.args(["-o", "pipefail", "-c", &script]).stdin(Stdio::null()).output();
        let output = output.map_err(|e| format!("bash: {e}"))?;
        self.judge(output.status.code(), &text(&output.stdout))
    }

    fn judge(&self, code: Option<i32>, said: &str) -> Result<(), String> {
        let mut wrong = vec![];
        if code != Some(self.code) {
            wrong.push(format!("exit code {code:?}, not {}", self.code));
        }
        let mut rest = said;
        for words in &self.holds {
            match rest.find(words) {
                Some(at) => rest = &rest[at + words.len()..],
                None => wrong.push(format!("no {words:?}")),
            }
        }
        let unwanted = self.holds_not.iter().filter(|words| said.contains(*words));
        wrong.extend(unwanted.map(|words| format!("there is {words:?}")));
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("{}: $ {}\n{said}  ^ {}", self.heading, self.command, wrong.join("; "))),
        }
    }
}

#[test]
fn transcripts_are_read_and_judged() {
    let steps = parse("## some\n$ cat <<E\n> a\n> E\na\n[3]\n! b\n$ true\n");
    assert_eq!(steps.len(), 2);
    let step = &steps[0];
    assert_eq!((step.command.as_str(), step.code), ("cat <<E\na\nE", 3));
    assert_eq!(step.judge(Some(3), "xa\n"), Ok(()));
    assert!(step.judge(Some(0), "a").unwrap_err().contains("exit code Some(0), not 3"));
    assert!(step.judge(Some(3), "ab").unwrap_err().contains("there is \"b\""));
    assert!(step.judge(Some(3), "c").unwrap_err().contains("no \"a\""));
}
