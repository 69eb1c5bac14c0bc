//! The guided tour: the chapter's main steps on a throw-away cluster, each a real command with its real output, each
//! checked. The image is made of this very program (see `sample`), so no registry is needed.

mod image;
mod steps;

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{cli::Demo, cluster::paths::Paths, report::paint};

pub(crate) fn run(args: &Demo) -> Result<ExitCode> {
    crate::commands::preflight::check()?;
    let name = format!("demo-{}", std::process::id());
    let tour = Tour { name: name.clone(), dir: tempfile::tempdir().context("make a temporary directory")? };
    let outcome = tour.walk();
    if args.keep && outcome.is_ok() {
        eprintln!("\nThe cluster is still there:");
        eprintln!("  export KUBECONFIG={}", Paths::of(&name).kubeconfig().display());
        eprintln!("  skiff kubectl get all            # or any kubectl");
        eprintln!("  sudo skiff down --delete -c {name}");
        return Ok(ExitCode::SUCCESS);
    }
    let cleaned = tour.skiff(&["down", "--delete", "--name", &name]);
    outcome?;
    cleaned?;
    eprintln!(
        "\nEvery step held. The cluster is gone again. To have one of your own: `sudo skiff up`; to look around in this one:"
    );
    eprintln!("`skiff demo --keep`.");
    Ok(ExitCode::SUCCESS)
}

struct Tour {
    name: String,
    dir: tempfile::TempDir,
}

/// What a command that ended well wrote to standard output.
type Said = String;

impl Tour {
    fn walk(&self) -> Result<()> {
        headline("A cluster");
        self.shown("skiff up", &["up", "--name", &self.name])?;
        image::install(&Paths::of(&self.name).images(), self.dir.path())?;
        for (file, text) in steps::MANIFESTS {
            std::fs::write(self.dir.path().join(file), text).context(file)?;
        }
        steps::all(self)
    }

    fn program(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("find this program's own file")?);
        command.env("SKIFF_CLUSTER", &self.name).env_remove("KUBECONFIG").current_dir(self.dir.path());
        Ok(command)
    }

    fn skiff(&self, args: &[&str]) -> Result<Said> {
        Ok(self.both(args)?.0)
    }

    /// What was written to standard output, and to standard error.
    fn both(&self, args: &[&str]) -> Result<(Said, String)> {
        let output = self.program()?.args(args).output().context("run this program")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (said, aside) = (text(&output.stdout), text(&output.stderr));
        if !output.status.success() {
            bail!("skiff {} failed: {}", args.join(" "), format!("{said}{aside}").trim());
        }
        Ok((said, aside))
    }

    /// Runs a command and shows it with what it says.
    fn shown(&self, as_typed: &str, args: &[&str]) -> Result<Said> {
        eprintln!("{}", paint("1", &format!("$ {as_typed}")));
        let (said, aside) = self.both(args)?;
        for line in said.lines().chain(aside.lines()) {
            eprintln!("{line}");
        }
        Ok(said)
    }

    /// A kubectl command line, shown. Words are parted by blanks; none of ours holds one.
    fn kubectl(&self, line: &str) -> Result<Said> {
        let args: Vec<&str> = std::iter::once("kubectl").chain(line.split_whitespace()).collect();
        self.shown(&format!("kubectl {line}"), &args)
    }

    /// The same, unseen.
    fn quietly(&self, line: &str) -> Result<Said> {
        let args: Vec<&str> = std::iter::once("kubectl").chain(line.split_whitespace()).collect();
        self.skiff(&args)
    }

    /// Asks unseen until the answer is right, for at most half a minute.
    fn until(&self, line: &str, right: impl Fn(&str) -> bool) -> Result<Said> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let said = self.quietly(line);
            match said {
                Ok(said) if right(&said) => return Ok(said),
                other if Instant::now() > end => {
                    bail!("`kubectl {line}` does not get there: {}", other.unwrap_or_else(|e| format!("{e:#}")).trim())
                }
                _ => std::thread::park_timeout(Duration::from_millis(50)),
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn headline(text: &str) {
    eprintln!("\n{}", paint("1;36", &format!("## {text}")));
}

fn explain(text: &str) {
    eprintln!("{}", paint("2", text));
}

/// What must hold of what was said.
fn check(holds: bool, what: &str) -> Result<()> {
    if !holds {
        bail!("this should hold and does not: {what}");
    }
    eprintln!("{} {what}", paint("32", "✓"));
    Ok(())
}
