//! The shared feeds: per resource one watch on the store, a ring of its latest changes and a broadcast to the watchers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use skiff_api::resources::Resource;
use skiff_api::status::Status;
use skiff_store::{Rev, Watch};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::change::Change;
use crate::storage::{self, Storage};
use crate::{Result, object};

/// Changes kept per resource for watchers that come back.
const RING: usize = 1024;
/// How far a watcher may fall behind before it is ended.
const BACKLOG: usize = 4096;

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

struct Hub(Mutex<State>);

struct State {
    ring: VecDeque<Arc<Change>>,
    /// The ring holds every change after this revision.
    floor: Rev,
    /// None when the feed has ended.
    live: Option<Sender<Notice>>,
}

/// One watcher's way to the changes.
pub(crate) enum Feed {
    Shared {
        backlog: VecDeque<Arc<Change>>,
        live: Receiver<Notice>,
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
            Feed::Shared { backlog, live } => match backlog.pop_front() {
                Some(change) => Ok(Notice::Change(change)),
                None => live.recv().await.map_err(|_| End::Closed),
            },
            Feed::Own(resource, watch) => match watch.next().await {
                None => Err(End::Closed),
                Some(Err(e)) => Err(End::Failed(storage::status(e))),
                Some(Ok(event)) => Ok(notice(resource, event)),
            },
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
        if let Some(hub) = hubs.get(&view).filter(|h| h.lock().live.is_some()) {
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
        Hub(Mutex::new(State { ring: VecDeque::new(), floor, live: Some(broadcast::channel(BACKLOG).0) }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None when the ring does not reach back that far.
    fn subscribe(&self, after: Rev) -> Option<Feed> {
        let state = self.lock();
        let live = state.live.as_ref()?.subscribe();
        let backlog = || state.ring.iter().filter(|c| c.rev > after).cloned().collect();
        (after >= state.floor).then(|| Feed::Shared { backlog: backlog(), live })
    }

    /// Into the ring and to the watchers under one lock, so that a subscriber finds a change in exactly one of them.
    fn publish(&self, notice: Notice) {
        let mut state = self.lock();
        if let Notice::Change(change) = &notice {
            state.ring.push_back(change.clone());
            if state.ring.len() > RING {
                state.floor = state.ring.pop_front().map_or(state.floor, |c| c.rev);
            }
        }
        if let Some(live) = &state.live {
            // Nobody may be watching, which is fine.
            let _ = live.send(notice);
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
    hub.lock().live = None;
}
