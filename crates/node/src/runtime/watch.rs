//! Watching shims by pidfd, and finding them again after a crash of the agent.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch as latest;

use super::{
    Container, Error, Exit, ExitEvent, Phase, Runtime,
    record::{self, Orders, Paths, State},
};
use crate::{cgroup::Group, shim::sys};

impl Runtime {
    /// Every container directory becomes a known container again; what belongs to none is deleted.
    pub(super) fn take_over(&self) -> Result<(), Error> {
        let containers = self.inner.run_dir.join("containers");
        fs::create_dir_all(&containers).map_err(|e| disk("create", &containers, e))?;
        for id in names(&containers)? {
            let paths = self.paths(&id);
            match record::read::<Orders>(&paths.orders()) {
                Ok(orders) => self.take_over_one(orders, paths),
                Err(e) => {
                    tracing::warn!(container = id, "unfinished container is removed: {e}");
                    remove_dir(&paths.dir)?;
                }
            }
        }
        let data = self.inner.data_dir.join("containers");
        fs::create_dir_all(&data).map_err(|e| disk("create", &data, e))?;
        let known: Vec<String> = self.known().keys().cloned().collect();
        names(&data)?.iter().filter(|id| !known.contains(id)).try_for_each(|id| remove_dir(&data.join(id)))
    }

    fn take_over_one(&self, orders: Orders, paths: Paths) {
        let state: Option<State> = record::read(&paths.state()).ok();
        let shim = state.as_ref().and_then(|s| s.shim.open());
        let phase = match (&state, &shim) {
            (Some(State { phase: Phase::Exited(exit), .. }), _) => Phase::Exited(exit.clone()),
            (Some(state), Some(_)) => state.phase.clone(),
            _ => Phase::Exited(abandoned(&orders, state.as_ref())),
        };
        let init = state.and_then(|s| s.init).and_then(record::Process::open);
        let container = self.register(orders, paths, phase, init);
        if let Some(shim) = shim {
            tokio::spawn(self.clone().watch(container, shim));
        }
    }

    pub(super) fn register(&self, orders: Orders, paths: Paths, phase: Phase, init: Option<OwnedFd>) -> Arc<Container> {
        let id = orders.spec.id.clone();
        let container =
            Arc::new(Container { orders, paths, phase: latest::Sender::new(phase), init: Mutex::new(init) });
        self.known().insert(id, container.clone());
        container
    }

    /// Until the shim has ended; then its container's end is made known.
    pub(super) async fn watch(self, container: Arc<Container>, shim: OwnedFd) {
        if let Err(e) = ended(shim).await {
            tracing::warn!(container = container.orders.spec.id, "its shim cannot be watched: {e}");
        }
        let state: Option<State> = record::read(&container.paths.state()).ok();
        let exit = match state {
            Some(State { phase: Phase::Exited(exit), .. }) => exit,
            state => abandoned(&container.orders, state.as_ref()),
        };
        *container.init.lock().unwrap_or_else(PoisonError::into_inner) = None;
        container.phase.send_replace(Phase::Exited(exit.clone()));
        // Nobody may be listening yet; `containers()` tells it too.
        let _ = self.inner.exits.send(ExitEvent { id: container.orders.spec.id.clone(), exit });
    }
}

/// A pidfd is readable once its process has ended.
pub(super) async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    sys::register(pidfd)?.readable().await.map(drop)
}

/// The shim ended without a word: what it left running is killed, for nobody would see its end or read its output.
fn abandoned(orders: &Orders, state: Option<&State>) -> Exit {
    for pid in Group::find(&orders.cgroup).processes() {
        // It may have ended meanwhile.
        let _ = sys::kill(pid, libc::SIGKILL);
    }
    if let Some(init) = state.and_then(|s| s.init).and_then(record::Process::open) {
        let _ = sys::pidfd_signal(std::os::fd::AsFd::as_fd(&init), libc::SIGKILL);
    }
    let started = state.and_then(|s| match s.phase {
        Phase::Running { started, .. } => Some(started),
        _ => None,
    });
    Exit {
        code: 137,
        signal: Some(libc::SIGKILL),
        oom: false,
        started,
        finished: jiff::Timestamp::now(),
        reason: "ContainerStatusUnknown".to_owned(),
        message: "the container's shim ended before the container did".to_owned(),
    }
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(dir).map_err(|e| disk("read", dir, e))?;
    entries
        .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(|e| disk("read", dir, e)))
        .collect()
}

pub(super) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(disk("remove", dir, e)),
        _ => Ok(()),
    }
}

pub(super) fn disk(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Disk { what, path: path.to_owned(), source }
}
