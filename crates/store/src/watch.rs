//! Watching. The history is the only queue: a watcher is a cursor into it, so a thousand watchers cost a thousand cursors
//! and a slow one costs nothing. One that falls behind what the history keeps ends with [`Error::Compacted`].
//!
//! Watchers of the same prefix share a [`Group`], which knows the last revision that concerned them. A watcher that has
//! seen that revision is up to date whatever else happened, and is woken only for changes of its group and for progress.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use futures::{StreamExt, stream};
use tokio::sync::Notify;

use crate::{Error, Event, Result, Rev, Watch, engine::Shared};

/// How many events a watcher takes out of the history at a time.
const BATCH: usize = 128;

pub(crate) struct Group {
    prefix: Box<str>,
    /// Changed under the state's write lock only, so that a reader of the state sees both or neither.
    last: AtomicU64,
    members: AtomicUsize,
    wake: Notify,
}

#[derive(Default)]
pub(crate) struct Groups {
    by_prefix: Mutex<HashMap<Box<str>, Arc<Group>>>,
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Group>>> {
        self.by_prefix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller holds the state's lock and `newest` is its revision.
    fn join(&self, prefix: &str, newest: Rev) -> Arc<Group> {
        let mut groups = self.lock();
        let group = groups.entry(prefix.into()).or_insert_with(|| {
            let (last, members) = (AtomicU64::new(newest), AtomicUsize::new(0));
            Arc::new(Group { prefix: prefix.into(), last, members, wake: Notify::new() })
        });
        group.members.fetch_add(1, Ordering::Relaxed);
        group.clone()
    }

    fn leave(&self, group: &Group) {
        let mut groups = self.lock();
        if group.members.fetch_sub(1, Ordering::Relaxed) == 1 {
            groups.remove(&group.prefix);
        }
    }

    /// Notes which groups the changes concern. The caller holds the state's write lock and wakes them after releasing it.
    pub(crate) fn mark(&self, events: &[Event]) -> Vec<Arc<Group>> {
        let groups = self.lock();
        let concerned = groups.values().filter(|group| {
            let mut newest_first = events.iter().rev();
            let last = newest_first.find(|event| event.key().is_some_and(|key| key.starts_with(&*group.prefix)));
            last.inspect(|event| group.last.store(event.rev(), Ordering::Release)).is_some()
        });
        concerned.cloned().collect()
    }

    /// Notes that all groups have missed something up to a revision. The caller holds the state's write lock.
    pub(crate) fn mark_all(&self, rev: Rev) {
        self.lock().values().for_each(|group| group.last.store(rev, Ordering::Release));
    }

    pub(crate) fn wake_all(&self) {
        self.lock().values().for_each(|group| group.wake());
    }
}

impl Group {
    pub(crate) fn wake(&self) {
        self.wake.notify_waiters();
    }
}

struct Watcher {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// Everything up to here is delivered or in `ready`.
    cursor: Rev,
    /// The last revision that the watcher was told, by an event or by progress.
    told: Rev,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.groups.leave(&self.group);
    }
}

pub(crate) fn watch(shared: &Arc<Shared>, prefix: &str, after: Rev) -> Result<Watch> {
    let group = {
        let state = shared.state();
        state.kept(after)?;
        shared.groups.join(prefix, state.rev())
    };
    let ready = VecDeque::new();
    let watcher = Watcher { shared: shared.clone(), group, cursor: after, told: after, ready, ended: false };
    Ok(stream::unfold(watcher, next).boxed())
}

async fn next(mut watcher: Watcher) -> Option<(Result<Event>, Watcher)> {
    loop {
        if watcher.ended {
            return None;
        }
        let group = watcher.group.clone();
        // Made before looking: a change between the look and the wait is not missed.
        let woken = group.wake.notified();
        if let Some(item) = watcher.take() {
            watcher.ended = item.is_err();
            return Some((item, watcher));
        }
        woken.await;
    }
}

impl Watcher {
    fn take(&mut self) -> Option<Result<Event>> {
        if self.ready.is_empty()
            && let Err(error) = self.fill()
        {
            return Some(Err(error));
        }
        if let Some(event) = self.ready.pop_front() {
            self.told = event.rev();
            return Some(Ok(event));
        }
        if self.shared.announced() > self.told {
            self.told = self.cursor;
            return Some(Ok(Event::Progress(self.cursor)));
        }
        let closed = || Error::Io { reason: "the store is closed".into(), fatal: true };
        self.shared.is_closed().then(|| Err(closed()))
    }

    fn fill(&mut self) -> Result<()> {
        let state = self.shared.state();
        if self.group.last.load(Ordering::Acquire) > self.cursor {
            let missed = state.missed(&self.group.prefix, self.cursor, BATCH)?;
            if missed.len() == BATCH {
                self.cursor = missed.last().map_or(self.cursor, Event::rev);
                self.ready = missed.into();
                return Ok(());
            }
            self.ready = missed.into();
        }
        self.cursor = state.rev();
        Ok(())
    }
}
