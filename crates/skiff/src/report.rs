//! What the user reads while something takes its time, and when it fails.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// One line of a start's story, from the daemon to whoever started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Line {
    /// A step is done, after so many milliseconds.
    Step {
        what: String,
        ms: u64,
    },
    Warning(String),
    Ready,
    Failed(String),
}

/// Where the story goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sink {
    /// For a person: standard error.
    Human,
    /// For the process that started this one: JSON lines on standard output.
    Pipe,
}

pub(crate) struct Story {
    sink: Sink,
    since: Instant,
}

impl Story {
    pub(crate) fn new(sink: Sink) -> Self {
        Story { sink, since: Instant::now() }
    }

    /// Says that a step is done; its time counts from the step before.
    pub(crate) fn step(&mut self, what: impl Into<String>) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        self.tell(&Line::Step { what: what.into(), ms: took.as_millis() as u64 });
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.tell(&Line::Warning(text.into()));
    }

    pub(crate) fn tell(&self, line: &Line) {
        match self.sink {
            Sink::Human => show(line),
            Sink::Pipe => {
                let text = serde_json::to_string(line).expect("a line is plain data");
                // The reader may have given up waiting; the daemon goes on.
                let _ = writeln!(std::io::stdout(), "{text}");
            }
        }
    }
}

/// Prints a line for a person, on standard error: standard output is for results.
pub(crate) fn show(line: &Line) {
    let mut err = std::io::stderr();
    let _ = match line {
        Line::Step { what, ms } => {
            writeln!(err, "{} {what} {}", paint("32", "✓"), paint("2", &took(Duration::from_millis(*ms))))
        }
        Line::Warning(text) => writeln!(err, "{} {text}", paint("33", "warning:")),
        Line::Ready => Ok(()),
        Line::Failed(text) => writeln!(err, "{} {text}", paint("31", "error:")),
    };
}

pub(crate) fn took(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms => format!("{:.1} s", ms as f64 / 1000.0),
    }
}

/// Colour on a terminal, plain text elsewhere (and where NO_COLOR is set).
pub(crate) fn paint(code: &str, text: &str) -> String {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
}

/// The one place where an error reaches the user: the sentence and its causes on one line.
pub(crate) fn error(error: &anyhow::Error) {
    show(&Line::Failed(format!("{error:#}")));
}

/// Columns padded to their widest cell, three spaces apart.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}   "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}
