//! One daemon per cluster: it holds a lock on a file that names its process. The kernel drops the lock with the process,
//! however it ends, so the file can never lie about life.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// Held for the daemon's life.
pub(crate) struct Lock(#[expect(dead_code, reason = "dropping the file is what frees the lock")] File);

/// Takes the lock; None when another process has it.
pub(crate) fn take(path: &Path) -> io::Result<Option<Lock>> {
    fs::create_dir_all(path.parent().expect("a lock's path has a parent"))?;
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    if !try_lock(&file)? {
        return Ok(None);
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(Some(Lock(file)))
}

/// The process that holds the lock, if any does.
pub(crate) fn holder(path: &Path) -> io::Result<Option<u32>> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if try_lock(&file)? {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let pid = text.trim().parse();
    pid.map(Some).map_err(|_| io::Error::other(format!("{} is locked but names no process", path.display())))
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Asks the process to end, and kills it when it has not after `patience`.
pub(crate) fn end(pid: u32, patience: Duration) -> io::Result<()> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{pid} is no process id"));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(bad)?;
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(5))] {
        match pidfd_send_signal(&process, signal) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            other => other?,
        }
        let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))? > 0 {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {} does not end", pid.as_raw_nonzero())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/server.pid");
        assert_eq!(holder(&path).unwrap(), None);
        let lock = take(&path).unwrap().unwrap();
        assert!(take(&path).unwrap().is_none());
        assert_eq!(holder(&path).unwrap(), Some(std::process::id()));
        drop(lock);
        assert_eq!(holder(&path).unwrap(), None);
        assert!(take(&path).unwrap().is_some());
    }
}
