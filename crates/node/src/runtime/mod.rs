//! Containers: what one is, and the door through which the agent starts, watches and ends them.
//!
//! The agent never makes a container itself: it starts a *shim* (`crate::shim`) for each, a single-threaded process
//! that outlives the agent. This room writes the shim's orders, watches shims by pidfd and their state files, and finds
//! all of them again after a crash.

mod exec;
pub(crate) mod record;
mod start;
mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use tokio::sync::{broadcast, watch as latest};

pub(crate) use self::exec::read_until;
pub use self::exec::{ExecSession, Resizer};
use self::record::{Orders, Paths};
use crate::{image::Image, shim::sys};

/// Everything needed to start one container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique on this node, `[A-Za-z0-9_.-]+`; a restarted container gets a new one.
    pub id: String,
    pub pod_uid: String,
    pub image: Image,
    /// The whole command line, `args[0]` the program.
    pub args: Vec<String>,
    /// `NAME=value`; the image's own are already merged in by the caller.
    pub env: Vec<String>,
    /// Empty: the image's, else `/`. Made when missing.
    pub cwd: String,
    pub user: User,
    pub supplemental_groups: Vec<u32>,
    pub hostname: Option<String>,
    /// Path of the network namespace to join; `None`: the agent's own.
    pub netns: Option<PathBuf>,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub privileged: bool,
    /// Names with or without `CAP_`; `ALL` is understood.
    pub caps_add: Vec<String>,
    pub caps_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub read_only_root: bool,
    pub tty: bool,
    pub stdin: bool,
    /// The first attached client that ends its stdin ends the container's.
    pub stdin_once: bool,
    /// The log file, in CRI's format; its directory is made when missing.
    pub log_path: PathBuf,
    /// Kept with the container and given back after a crash.
    pub annotations: BTreeMap<String, String>,
}

/// Who runs the process. Names are looked up in the image's `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// As in an image's config: `name`, `uid`, `name:group`, `uid:gid`; empty: root.
    pub name: String,
    /// Overrides `name` (runAsUser).
    pub uid: Option<u32>,
    /// Overrides the group (runAsGroup).
    pub gid: Option<u32>,
}

/// A file or directory of the host shown in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

/// Limits; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<u64>,
    /// Microseconds of CPU in each period.
    pub cpu_quota: Option<u64>,
    /// Microseconds; 100000 when `None`.
    pub cpu_period: Option<u64>,
    /// Weight in cgroup v1's scale: 1024 is one CPU's worth.
    pub cpu_shares: Option<u64>,
    pub pids: Option<u64>,
    pub oom_score_adj: Option<i32>,
}

/// Why a container did not start, in the words that a pod's status shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct StartError {
    /// `ContainerCannotRun`, `StartError`, `RunContainerError` or `CreateContainerError`.
    pub reason: String,
    pub message: String,
    /// What a shell would have answered: 127 not found, 126 not executable, 128 anything else.
    pub exit_code: i32,
}

/// A container as this node knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerState {
    pub spec: ContainerSpec,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The shim is still at work; nothing of the container runs yet.
    Starting,
    Running {
        pid: u32,
        started: jiff::Timestamp,
    },
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + signal when a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom: bool,
    pub started: Option<jiff::Timestamp>,
    pub finished: jiff::Timestamp,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `StartError` or `ContainerStatusUnknown` (the shim was
    /// killed, or the machine restarted).
    pub reason: String,
    pub message: String,
}

/// A container that has just ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitEvent {
    pub id: String,
    pub exit: Exit,
}

/// A command for a running container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecSpec {
    pub args: Vec<String>,
    /// Added to the container's own.
    pub env: Vec<String>,
    pub cwd: Option<String>,
    /// The container's own when `None`.
    pub user: Option<User>,
    pub tty: bool,
    pub stdin: bool,
    /// The terminal's first size, columns and rows.
    pub size: Option<(u16, u16)>,
}

/// What goes wrong with a container that is already known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("container {0}: there is none of that id on this node")]
    Unknown(String),
    #[error("container {0}: it is not running")]
    NotRunning(String),
    #[error("container {0}: signal {1}: {2}")]
    Signal(String, i32, io::Error),
    #[error("{what} {path}: {source}")]
    Disk { what: &'static str, path: PathBuf, source: io::Error },
}

/// The containers of one node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    shim: PathBuf,
    run_dir: PathBuf,
    data_dir: PathBuf,
    cgroup_root: String,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    exits: broadcast::Sender<ExitEvent>,
}

/// One container that a shim has been started for.
struct Container {
    orders: Orders,
    paths: Paths,
    phase: latest::Sender<Phase>,
    /// The first process, once it runs.
    init: Mutex<Option<OwnedFd>>,
}

impl Runtime {
    /// Finds the containers that a former agent left in `run_dir`, and watches them. Needs to be called in a tokio
    /// runtime. `cgroup_root` is the node's own group, as `skiff/<cluster>/<node>`.
    pub fn new(run_dir: PathBuf, data_dir: PathBuf, cgroup_root: &str) -> Result<Self, Error> {
        Runtime::with_shim(PathBuf::from("/proc/self/exe"), run_dir, data_dir, cgroup_root)
    }

    /// The same, with another program for shims than this very binary (its `argv[1]` must be taken as `shim`).
    pub fn with_shim(shim: PathBuf, run_dir: PathBuf, data_dir: PathBuf, cgroup_root: &str) -> Result<Self, Error> {
        let (exits, _) = broadcast::channel(1024);
        let cgroup_root = cgroup_root.trim_matches('/').to_owned();
        let inner = Inner { shim, run_dir, data_dir, cgroup_root, containers: Mutex::default(), exits };
        let runtime = Runtime { inner: Arc::new(inner) };
        runtime.take_over()?;
        Ok(runtime)
    }

    /// Every container not yet removed, exited ones too.
    pub fn containers(&self) -> Vec<ContainerState> {
        self.known().values().map(|c| c.state()).collect()
    }

    pub fn container(&self, id: &str) -> Option<ContainerState> {
        self.known().get(id).map(|c| c.state())
    }

    /// Exits from now on. A receiver that lagged behind reads `containers()` again.
    pub fn exits(&self) -> broadcast::Receiver<ExitEvent> {
        self.inner.exits.subscribe()
    }

    /// Waits until a container has ended.
    pub async fn wait(&self, id: &str) -> Result<Exit, Error> {
        let mut phase = self.get(id)?.phase.subscribe();
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Exited(_))).await;
        match ended.as_deref() {
            Ok(Phase::Exited(exit)) => Ok(exit.clone()),
            _ => Err(Error::Unknown(id.to_owned())),
        }
    }

    /// Sends a signal to the container's first process. `Ok` when it has already ended.
    pub fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        let container = self.get(id)?;
        let init = container.init.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(init) = init.as_ref() else { return Ok(()) };
        match sys::pidfd_signal(init.as_fd(), signal) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(Error::Signal(id.to_owned(), signal, e)),
            _ => Ok(()),
        }
    }

    fn get(&self, id: &str) -> Result<Arc<Container>, Error> {
        self.known().get(id).cloned().ok_or_else(|| Error::Unknown(id.to_owned()))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.inner.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paths(&self, id: &str) -> Paths {
        Paths { dir: self.inner.run_dir.join("containers").join(id) }
    }

    fn data(&self, id: &str) -> PathBuf {
        self.inner.data_dir.join("containers").join(id)
    }
}

impl Container {
    fn state(&self) -> ContainerState {
        ContainerState { spec: self.orders.spec.clone(), phase: self.phase.borrow().clone() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A container of an image without layers.
    pub(crate) fn spec(id: &str, args: &[&str]) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            pod_uid: "pod".to_owned(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            hostname: Some("host".to_owned()),
            log_path: PathBuf::from("/nowhere/log"),
            ..ContainerSpec::default()
        }
    }
}
