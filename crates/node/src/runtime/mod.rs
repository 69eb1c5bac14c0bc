//! Containers: what one is, and the door through which the agent starts, watches and ends them.
//!
//! The agent never makes a container itself: it starts a *shim* (`crate::shim`) for each, a single-threaded process
//! that outlives the agent. This room writes the shim's orders, watches shims by pidfd and their state files, and finds
//! all of them again after a crash.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::Image;

/// Everything needed to start one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    Running { pid: u32, started: jiff::Timestamp },
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

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::broadcast,
};

/// What goes wrong with a container that is already known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("container {0}: there is none of that id on this node")]
    Unknown(String),
    #[error("container {0}: it is not running")]
    NotRunning(String),
    #[error("container {0}: it was started without stdin and tty, there is nothing to attach to")]
    NoAttach(String),
    #[error("{what} {path}: {source}")]
    Disk { what: &'static str, path: PathBuf, source: std::io::Error },
}

/// The containers of one node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {}

impl Runtime {
    /// Finds the containers that a former agent left in `run_dir`, and watches them. Needs to be called in a tokio
    /// runtime. `cgroup_root` is the node's own group, as `skiff/<cluster>/<node>`.
    pub fn new(_run_dir: PathBuf, _data_dir: PathBuf, _cgroup_root: &str) -> Result<Self, Error> {
        unimplemented!()
    }

    /// The same, with another program for shims than this very binary (its `argv[1]` must be taken as `shim`).
    pub fn with_shim(_shim: PathBuf, _run_dir: PathBuf, _data_dir: PathBuf, _cgroup_root: &str) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Returns when the container's process runs. On error nothing of the container is left.
    pub async fn start(&self, _spec: &ContainerSpec) -> Result<(), StartError> {
        unimplemented!()
    }

    /// Every container not yet removed, exited ones too.
    pub fn containers(&self) -> Vec<ContainerState> {
        unimplemented!()
    }

    pub fn container(&self, _id: &str) -> Option<ContainerState> {
        unimplemented!()
    }

    /// Exits from now on. A receiver that lagged behind reads `containers()` again.
    pub fn exits(&self) -> broadcast::Receiver<ExitEvent> {
        unimplemented!()
    }

    /// Sends a signal to the container's first process. `Ok` when it has already ended.
    pub fn signal(&self, _id: &str, _signal: i32) -> Result<(), Error> {
        unimplemented!()
    }

    /// Kills what still runs and deletes everything of the container but its log. `Ok` when there is none.
    pub async fn remove(&self, _id: &str) -> Result<(), Error> {
        unimplemented!()
    }

    pub async fn exec(&self, _id: &str, _spec: ExecSpec) -> Result<ExecSession, StartError> {
        unimplemented!()
    }

    /// Attaches to a container started with stdin or tty; `wait()` answers with the container's own exit code.
    pub async fn attach(&self, _id: &str) -> Result<ExecSession, Error> {
        unimplemented!()
    }
}

/// A running command. Dropping it ends the command (SIGHUP, then SIGKILL); of an attach, only the attach.
pub struct ExecSession {
    /// `None` when not asked for; take and drop it to send end-of-file.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// With a tty both streams are one, here.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

impl ExecSession {
    /// A handle that changes the terminal's size from another task.
    pub fn resizer(&self) -> Resizer {
        unimplemented!()
    }

    /// The exit code, 128 + signal when a signal ended it. Read stdout and stderr to their ends for all output.
    pub async fn wait(&mut self) -> i32 {
        unimplemented!()
    }
}

/// Changes a terminal's size; does nothing without a terminal.
#[derive(Clone)]
pub struct Resizer {}

impl Resizer {
    pub fn resize(&self, _columns: u16, _rows: u16) {
        unimplemented!()
    }
}
