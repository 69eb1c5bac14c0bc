//! The last steps inside the container: find the program, become it, and say in well-known words why not.

use std::{
    io,
    io::{PipeReader, PipeWriter, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use libcontainer::{
    oci_spec::runtime::Spec,
    workload::{Executor, ExecutorError, ExecutorValidationError},
};
use rustix::fs::Access;

use super::{sys, wire};
use crate::runtime::StartError;

/// Reports on a pipe that closes when the program takes over.
#[derive(Clone)]
pub(super) struct Program {
    status: Arc<PipeWriter>,
    /// Of the terminal that is the program's stdin.
    size: Option<(u16, u16)>,
}

/// The other end of the pipe.
pub(super) struct Status(PipeReader);

pub(super) fn program(size: Option<(u16, u16)>) -> io::Result<(Program, Status)> {
    let (reader, writer) = io::pipe()?;
    Ok((Program { status: Arc::new(writer), size }, Status(reader)))
}

impl Status {
    /// What went wrong, if anything did; `None` also when the program runs.
    pub(super) fn wait(mut self, timeout_ms: i32) -> Option<StartError> {
        let mut bytes = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            let ready = sys::poll(&[sys::Wait { fd: self.0.as_fd(), write: false }], timeout_ms);
            match ready.map(|r| r.first() == Some(&true)) {
                Ok(true) => match self.0.read(&mut chunk) {
                    Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
                    _ => break,
                },
                _ => break,
            }
        }
        serde_json::from_slice(&bytes).ok()
    }
}

impl Program {
    fn report(&self, error: &StartError) {
        if let Ok(bytes) = serde_json::to_vec(error) {
            // When the shim is gone nobody is left to tell.
            let _ = (&*self.status).write_all(&bytes);
        }
    }
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (args, path) = command(spec);
        find(&args[0], &path).map(drop).map_err(|error| {
            self.report(&error);
            ExecutorValidationError::ArgValidationError(error.message)
        })
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, path) = command(spec);
        if let Some((columns, rows)) = self.size {
            wire::set_size(io::stdin().as_fd(), columns, rows);
        }
        let error = match find(&args[0], &path) {
            Ok(program) => {
                let error = Command::new(&program).arg0(&args[0]).args(&args[1..]).exec();
                cannot(126, format!("exec {}: {}", program.display(), words(&error)))
            }
            Err(error) => error,
        };
        self.report(&error);
        Err(ExecutorError::Other(error.message))
    }
}

fn command(spec: &Spec) -> (Vec<String>, String) {
    let process = spec.process().as_ref();
    let args = process.and_then(|p| p.args().clone()).filter(|a| !a.is_empty()).unwrap_or_else(|| vec![String::new()]);
    let env = process.and_then(|p| p.env().clone()).unwrap_or_default();
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default().to_owned();
    (args, path)
}

fn find(name: &str, path: &str) -> Result<PathBuf, StartError> {
    if name.is_empty() {
        return Err(cannot(127, "no command specified".to_owned()));
    }
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(name, &format!("stat {name}: {}", words(&e)))),
            Err(e) => Err(cannot(126, format!("exec: {name:?}: {}", words(&e)))),
        };
    }
    let mut denied = None;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let candidate = Path::new(dir).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => denied = Some(e),
        }
    }
    Err(denied.map_or_else(
        || missing(name, "executable file not found in $PATH"),
        |e| cannot(126, format!("exec: {name:?}: {}", words(&e))),
    ))
}

fn executable(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    Ok(rustix::fs::access(path, Access::EXEC_OK)?)
}

fn missing(name: &str, why: &str) -> StartError {
    cannot(127, format!("exec: {name:?}: {why}"))
}

fn cannot(exit_code: i32, message: String) -> StartError {
    let message = format!("unable to start container process: {message}");
    StartError { reason: "StartError".to_owned(), message, exit_code }
}

/// As other runtimes word it.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, path: &str, code: i32, message: &str) {
        let error = find(name, path).unwrap_err();
        assert_eq!((error.exit_code, error.message), (code, format!("unable to start container process: {message}")));
    }

    #[test]
    fn what_cannot_be_run() {
        check("foo", "/nowhere:/usr/bin", 127, "exec: \"foo\": executable file not found in $PATH");
        check("/no/foo", "", 127, "exec: \"/no/foo\": stat /no/foo: no such file or directory");
        check("/etc", "", 126, "exec: \"/etc\": is a directory");
        check("", "/bin", 127, "no command specified");
        check("/etc/passwd", "", 126, "exec: \"/etc/passwd\": permission denied");
        assert_eq!(find("sh", "/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
    }
}
