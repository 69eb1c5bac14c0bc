//! What agent and shim tell each other through files: orders, state, and where everything of a container lies.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{ContainerSpec, Phase};

/// The agent's orders for one shim, written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) spec: ContainerSpec,
    /// The container's control group.
    pub(crate) cgroup: String,
    /// The control group in which the node's shims live.
    pub(crate) shims: String,
    /// The writable layer.
    pub(crate) data: PathBuf,
}

/// What a shim knows of its container; rewritten atomically.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) shim: Process,
    pub(crate) init: Option<Process>,
    pub(crate) phase: Phase,
    /// Limits that could not be set.
    pub(crate) problems: Vec<String>,
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks after boot.
    pub(crate) start: u64,
}

impl Process {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_start(&stat).map(|start| Process { pid, start })
    }

    /// A descriptor of this very process, if it still exists.
    pub(crate) fn open(self) -> Option<std::os::fd::OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        // The number was looked up after the descriptor existed: equal start times mean the same process.
        (Process::of(self.pid) == Some(self)).then_some(fd)
    }
}

/// Field 22; the second field is a name in parentheses that may hold anything.
fn parse_start(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The files of one container below the run directory.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
}

impl Paths {
    pub(crate) fn orders(&self) -> PathBuf {
        self.dir.join("orders.json")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Where the shim, in its own mount namespace, mounts the root file system.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("bundle/rootfs")
    }

    /// libcontainer's own state.
    pub(crate) fn library(&self) -> PathBuf {
        self.dir.join("library")
    }

    pub(crate) fn attach(&self) -> PathBuf {
        self.dir.join("attach.sock")
    }

    pub(crate) fn shim_log(&self) -> PathBuf {
        self.dir.join("shim.log")
    }
}

/// Nobody ever sees half a file.
pub(crate) fn write_atomically(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(value)?)?;
    fs::rename(partial, path)
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_after_a_strange_name() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8021 100 1";
        assert_eq!(parse_start(stat), Some(8021));
        assert_eq!(parse_start(""), None);
    }

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = Process::of(std::process::id() as i32).unwrap();
        assert!(me.open().is_some());
        assert!(Process { start: me.start + 1, ..me }.open().is_none());
    }
}
