//! The process beside each container: starts it, writes its log, waits for it, leaves its exit in a file.
//!
//! libcontainer must not run in a multi-threaded process (its cloned child may meet a held allocator lock), and a
//! container must outlive the agent: so the binary re-executes itself as a single-threaded `shim` for each. A second
//! kind of shim lives as long as one `exec` in a container does.

mod attach;
mod exec;
mod executor;
mod log;
mod oci;
mod root;
mod run;
pub(crate) mod sys;
mod watch;
pub(crate) mod wire;

use std::{error::Error, path::Path};

use crate::runtime::StartError;

/// The whole life of a shim process: `argv[1]` is `shim`. To be called first in `main`, before any thread exists.
pub fn main() -> ! {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match args[..] {
        ["run", dir] => run::main(Path::new(dir)),
        ["exec", dir, request] => exec::main(Path::new(dir), Path::new(request)),
        _ => {
            eprintln!("skiff shim is started by skiff itself, not by hand");
            2
        }
    };
    std::process::exit(code)
}

/// An error with all its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A failure of ours rather than of the command.
fn failure(what: &str, error: &dyn Error) -> StartError {
    StartError { reason: "RunContainerError".to_owned(), message: format!("{what}: {}", chain(error)), exit_code: 128 }
}
