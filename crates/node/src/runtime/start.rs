//! Starting a container by starting its shim; ending and removing one.

use std::{
    fs,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{io::unix::AsyncFd, time};

use super::{
    ContainerSpec, Error, Phase, Runtime, StartError,
    record::{self, Orders, Paths, Process, State},
    watch,
};
use crate::{
    cgroup::{self, Group},
    shim::{sys, wire, wire::Report},
};

/// For a shim to report that its container runs.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For a killed container's shim to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// For the kernel to take the last dead process out of a group.
const CGROUP_TRIES: u32 = 50;

impl Runtime {
    /// Returns when the container's process runs. On error nothing of the container is left.
    pub async fn start(&self, spec: &ContainerSpec) -> Result<(), StartError> {
        let (runtime, spec) = (self.clone(), spec.clone());
        // Not to be left half done when the caller loses interest.
        let task = tokio::spawn(async move { runtime.start_whole(spec).await });
        task.await.unwrap_or_else(|e| Err(failure("start", &io::Error::other(e))))
    }

    async fn start_whole(&self, spec: ContainerSpec) -> Result<(), StartError> {
        let id = spec.id.clone();
        check_id(&id)?;
        if self.known().contains_key(&id) {
            return Err(failure("start", &io::Error::other(format!("there is a container {id} already"))));
        }
        let orders = self.orders(spec);
        let paths = self.paths(&id);
        let container = self.register(orders, paths.clone(), Phase::Starting, None);
        let started = match self.start_shim(&paths, &container.orders) {
            Ok((child, control)) => self.await_start(child, control, &container).await,
            Err(e) => Err(failure("start shim", &e)),
        };
        if let Err(error) = started {
            self.remove(&id).await.map_err(|e| failure("clean up", &io::Error::other(e.to_string())))?;
            return Err(error);
        }
        Ok(())
    }

    fn orders(&self, spec: ContainerSpec) -> Orders {
        let root = &self.inner.cgroup_root;
        let cgroup = format!("{root}/pod{}/{}", spec.pod_uid, spec.id);
        Orders { cgroup, shims: format!("{root}/shims"), data: self.data(&spec.id), spec }
    }

    fn start_shim(&self, paths: &Paths, orders: &Orders) -> io::Result<(Child, OwnedFd)> {
        fs::create_dir_all(paths.rootfs())?;
        record::write_atomically(&paths.orders(), orders)?;
        let log = File::create(paths.shim_log())?;
        let mut command = Command::new(&self.inner.shim);
        command.args(["shim", "run"]).arg(&paths.dir).stderr(log);
        spawn(&mut command)
    }

    async fn await_start(
        &self,
        mut child: Child,
        control: OwnedFd,
        container: &std::sync::Arc<super::Container>,
    ) -> Result<(), StartError> {
        let shim = pidfd(&child).map_err(|e| failure("pidfd_open", &e))?;
        let watched = shim.try_clone().map_err(|e| failure("pidfd", &e))?;
        let report = time::timeout(START_TIMEOUT, receive::<Report>(control)).await;
        let result = match report {
            Ok(Ok(Some((Report::Started { pid }, _)))) => {
                let state = record::read::<State>(&container.paths.state()).map_err(|e| failure("state file", &e))?;
                warn_once(&state.problems);
                *container.init.lock().unwrap_or_else(PoisonError::into_inner) =
                    Process::of(pid as i32).and_then(Process::open);
                container.phase.send_if_modified(|phase| {
                    *phase = state.phase.clone();
                    true
                });
                Ok(())
            }
            Ok(Ok(Some((Report::Failed(error), _)))) => Err(error),
            Ok(Ok(_)) => Err(failure("shim", &io::Error::other(last_words(&container.paths)))),
            Ok(Err(e)) => Err(failure("shim", &e)),
            Err(_) => Err(failure("shim", &io::Error::new(io::ErrorKind::TimedOut, "it did not report in a minute"))),
        };
        if result.is_err() {
            // Its init, if there is one, is killed by its group in `remove`.
            let _ = child.kill();
        }
        let runtime = self.clone();
        let container = container.clone();
        tokio::spawn(async move {
            runtime.watch(container, watched).await;
            reap(child, shim).await;
        });
        result
    }

    /// Kills what still runs and deletes everything of the container but its log. `Ok` when there is none.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let Ok(container) = self.get(id) else { return Ok(()) };
        self.signal(id, libc::SIGKILL)?;
        if time::timeout(KILL_TIMEOUT, self.wait(id)).await.is_err() {
            tracing::warn!(container = id, "its shim does not end after SIGKILL; it is killed too");
            let state: Result<State, _> = record::read(&container.paths.state());
            if let Some(shim) = state.ok().and_then(|s| s.shim.open()) {
                let _ = sys::pidfd_signal(shim.as_fd(), libc::SIGKILL);
            }
        }
        remove_group(&container.orders.cgroup).await;
        let (run, data) = (container.paths.dir.clone(), container.orders.data.clone());
        let removed =
            tokio::task::spawn_blocking(move || watch::remove_dir(&data).and_then(|()| watch::remove_dir(&run)));
        removed.await.unwrap_or(Ok(()))?;
        self.known().remove(id);
        Ok(())
    }
}

/// Everything in it is killed; then its directory and empty ones above it go.
async fn remove_group(path: &str) {
    let group = Group::find(path);
    for _ in 0..CGROUP_TRIES {
        for pid in group.processes() {
            // It may have ended meanwhile.
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        if group.remove().is_ok() {
            if let Some((pod, _)) = path.rsplit_once('/') {
                cgroup::remove_empty_parents(pod);
            }
            return;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    tracing::warn!("control group {path} cannot be removed; it is left, empty or not");
}

/// Starts a shim with one end of a new control socket as its stdin.
pub(super) fn spawn(command: &mut Command) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = wire::pair()?;
    rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK)?;
    // A container's environment comes from its orders, never from ours.
    let child = command.env_clear().stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
    Ok((child, ours))
}

pub(super) fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_child(child);
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Waits for the end of our child and buries it.
pub(super) async fn reap(mut child: Child, pidfd: OwnedFd) {
    if let Err(e) = watch::ended(pidfd).await.and_then(|()| child.try_wait().map(drop)) {
        tracing::warn!("shim {} cannot be waited for: {e}", child.id());
    }
}

/// The next message of a shim.
async fn receive<T: DeserializeOwned>(control: OwnedFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    receive_on(&sys::register(control)?).await
}

pub(super) async fn receive_on<T: DeserializeOwned>(
    control: &AsyncFd<OwnedFd>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    loop {
        let mut ready = control.readable().await?;
        match ready.try_io(|fd| wire::receive(fd.get_ref().as_fd())) {
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// Names become directories and control groups.
fn check_id(id: &str) -> Result<(), StartError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.chars().all(good) {
        return Err(failure(
            "container id",
            &io::Error::other(format!("{id:?} has other characters than [A-Za-z0-9_.-]")),
        ));
    }
    Ok(())
}

/// A machine without control groups has the same to say for every container.
fn warn_once(problems: &[String]) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !problems.is_empty() && !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!("containers run without some of their limits: {}", problems.join("; "));
    }
}

fn last_words(paths: &Paths) -> String {
    let text = fs::read_to_string(paths.shim_log()).unwrap_or_default();
    if text.is_empty() { "it ended without a report".to_owned() } else { text.trim().to_owned() }
}

pub(super) fn failure(what: &str, error: &io::Error) -> StartError {
    StartError { reason: "RunContainerError".to_owned(), message: format!("{what}: {error}"), exit_code: 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories() {
        for good in ["a", "web-0_nginx.1"] {
            assert_eq!(check_id(good), Ok(()));
        }
        for bad in ["", "..", ".a", "a/b", "a b", &"x".repeat(201)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
