//! What a test needs of the machine. A lack is said, never passed over in silence: `SKIPPED: why`, and with
//! `SKIFF_TEST_ALL=1` it is a failure.

use std::{path::PathBuf, process::Command};

/// Says that a test cannot run here. With `SKIFF_TEST_ALL=1` that is a failure of the test.
pub fn skip(why: &str) {
    assert!(std::env::var("SKIFF_TEST_ALL").as_deref() != Ok("1"), "SKIFF_TEST_ALL=1 allows no skip, but: {why}");
    eprintln!("SKIPPED: {why}");
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program's path, if the machine has it.
pub fn find(program: &str) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&dirs).chain(usual).map(|d| d.join(program)).find(|p| p.is_file())
}

/// True when this process is root and the machine has all the programs; else says what is lacking.
pub fn root_with(programs: &[&str]) -> bool {
    if !is_root() {
        skip("this test needs root");
        return false;
    }
    match programs.iter().find(|p| find(p).is_none()) {
        Some(missing) => {
            skip(&format!("this test needs the program {missing}"));
            false
        }
        None => true,
    }
}

/// Runs a program to its end; what it printed, or an error that shows all of it.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))),
    }
}
