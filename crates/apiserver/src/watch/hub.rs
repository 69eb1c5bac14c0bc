//! The shared feeds: per resource one watch on the store and a ring of its latest changes, which all watchers read, each at
//! its own pace. A watcher is a place in the ring: one that does not read costs nothing, and is ended when the ring has
//! gone on without it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use skiff_api::resources::Resource;
use skiff_api::status::Status;
use skiff_store::{Rev, Watch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::change::Change;
use crate::storage::{self, Storage};
use crate::{Result, object};

/// Changes kept per resource, for watchers that come back and those that are behind: so many, and so many bytes of objects.
const RING: usize = 4096;
const RING_BYTES: usize = 32 << 20;
/// Of so many of the latest changes the ring also keeps what was made of them, which takes ten times the room.
const FRESH: usize = 32;

#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Change(Arc<Change>),
    /// Everything up to this revision has been seen.
    Progress(Rev),
}

/// Group, version and plural: each view of the same objects has a feed of its own.
type View = (&'static str, &'static str, &'static str);

/// All feeds. Dropping it ends them.
pub(crate) struct Hubs {
    storage: Storage,
    hubs: tokio::sync::Mutex<HashMap<View, Arc<Hub>>>,
    stop: CancellationToken,
}

pub(crate) struct Hub {
    state: Mutex<State>,
    /// Up to where the ring goes; also marked when the feed has ended.
    newest: watch::Sender<Rev>,
}

struct State {
    ring: VecDeque<Arc<Change>>,
    /// What the ring's objects take.
    bytes: usize,
    /// The ring holds every change after this revision.
    floor: Rev,
    live: bool,
}

/// One watcher's way to the changes.
pub(crate) enum Feed {
    Shared {
        hub: Arc<Hub>,
        /// Up to where it was told.
        seen: Rev,
        newest: watch::Receiver<Rev>,
    },
    /// From further back than the ring reaches: a watch of its own.
    Own(&'static Resource, Watch),
}

/// Why there is nothing more.
#[derive(Debug)]
pub(crate) enum End {
    /// The feed is over or the watcher too slow: the client starts again from what it has seen.
    Closed,
    Failed(Status),
}

impl Feed {
    /// Safe to be dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Notice, End> {
        match self {
            Feed::Shared { hub, seen, newest } => loop {
                // Looked at before the ring: what comes after that wakes.
                newest.borrow_and_update();
                if let Some(notice) = hub.after(*seen)? {
                    *seen = notice.rev();
                    return Ok(notice);
                }
                newest.changed().await.map_err(|_| End::Closed)?;
            },
            Feed::Own(resource, watch) => match watch.next().await {
                None => Err(End::Closed),
                Some(Err(e)) => Err(End::Failed(storage::status(e))),
                Some(Ok(event)) => Ok(notice(resource, event)),
            },
        }
    }
}

impl Notice {
    fn rev(&self) -> Rev {
        match self {
            Notice::Change(change) => change.rev,
            Notice::Progress(rev) => *rev,
        }
    }
}

fn notice(resource: &'static Resource, event: skiff_store::Event) -> Notice {
    match Change::of(resource, event) {
        Ok(change) => Notice::Change(Arc::new(change)),
        Err(rev) => Notice::Progress(rev),
    }
}

impl Hubs {
    pub(crate) fn new(storage: Storage) -> Self {
        Hubs { storage, hubs: Default::default(), stop: CancellationToken::new() }
    }

    /// Ends every shared feed, and with it its watchers.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Every change after `after` to objects of the resource.
    pub(crate) async fn subscribe(&self, resource: &'static Resource, after: Rev) -> Result<Feed> {
        match self.hub(resource).await?.subscribe(after) {
            Some(feed) => Ok(feed),
            None => {
                let prefix = object::resource_prefix(resource);
                let watch = self.storage.0.watch(&prefix, after).await.map_err(storage::status)?;
                Ok(Feed::Own(resource, watch))
            }
        }
    }

    async fn hub(&self, resource: &'static Resource) -> Result<Arc<Hub>> {
        let mut hubs = self.hubs.lock().await;
        let view = (resource.group, resource.version, resource.plural);
        if let Some(hub) = hubs.get(&view).filter(|h| h.lock().live) {
            return Ok(hub.clone());
        }
        let floor = self.storage.0.revision().await.map_err(storage::status)?;
        let prefix = object::resource_prefix(resource);
        let watch = self.storage.0.watch(&prefix, floor).await.map_err(storage::status)?;
        let hub = Arc::new(Hub::new(floor));
        hubs.insert(view, hub.clone());
        tokio::spawn(pump(hub.clone(), watch, self.stop.child_token(), resource));
        Ok(hub)
    }
}

impl Drop for Hubs {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Hub {
    fn new(floor: Rev) -> Self {
        let state = State { ring: VecDeque::new(), bytes: 0, floor, live: true };
        Hub { state: Mutex::new(state), newest: watch::channel(floor).0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None when the ring does not reach back that far.
    fn subscribe(self: &Arc<Self>, after: Rev) -> Option<Feed> {
        let reaches = after >= self.lock().floor;
        reaches.then(|| Feed::Shared { hub: self.clone(), seen: after, newest: self.newest.subscribe() })
    }

    /// The first change after a revision; else that there is none up to a later one; None when there is nothing new.
    fn after(&self, seen: Rev) -> Result<Option<Notice>, End> {
        let state = self.lock();
        if seen < state.floor {
            return Err(End::Closed);
        }
        let next = state.ring.partition_point(|change| change.rev <= seen);
        if let Some(change) = state.ring.get(next) {
            return Ok(Some(Notice::Change(change.clone())));
        }
        let newest = *self.newest.borrow();
        match (newest > seen, state.live) {
            (true, _) => Ok(Some(Notice::Progress(newest))),
            (false, true) => Ok(None),
            (false, false) => Err(End::Closed),
        }
    }

    /// Into the ring first, so that whoever is woken finds it there.
    fn publish(&self, notice: Notice) {
        let rev = notice.rev();
        if let Notice::Change(change) = notice {
            self.lock().keep(change);
        }
        self.newest.send_replace(rev);
    }

    fn end(&self) {
        self.lock().live = false;
        // Wakes those who wait.
        self.newest.send_modify(|_| {});
    }
}

impl State {
    fn keep(&mut self, change: Arc<Change>) {
        self.bytes += change.size();
        self.ring.push_back(change);
        if let Some(stale) = self.ring.len().checked_sub(FRESH + 1) {
            self.ring[stale] = Arc::new(self.ring[stale].bare());
        }
        while self.ring.len() > RING || self.bytes > RING_BYTES && self.ring.len() > 1 {
            let Some(oldest) = self.ring.pop_front() else { return };
            self.bytes -= oldest.size();
            self.floor = oldest.rev;
        }
    }
}

async fn pump(hub: Arc<Hub>, mut watch: Watch, stop: CancellationToken, resource: &'static Resource) {
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            event = watch.next() => event,
        };
        match event {
            Some(Ok(event)) => hub.publish(notice(resource, event)),
            Some(Err(e)) => {
                tracing::warn!(?resource, "the watch on the store ended, watchers start again: {e}");
                break;
            }
            None => break,
        }
    }
    hub.end();
}
