//! Several servers on one store: what this one holds in memory of the objects (rights, service ranges, addresses, ports,
//! what nodes' pods use) follows what the others write. Alone on a store, a server knows all of it from its own writes.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use futures::StreamExt;
use serde_json::{Value, json};
use skiff_api::resources::{self, Resource};
use skiff_api::status::Status;
use skiff_store::{Entry, Event, Rev};
use tokio::sync::watch;
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::RBAC;
use crate::object::{self, Object};
use crate::services::{self, ports};
use crate::storage::{self, Storage};
use crate::{Result, Server};

/// How long a request waits for what others have written.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

const FOLLOWED: [(&str, &str); 8] = [
    (RBAC, "roles"),
    (RBAC, "clusterroles"),
    (RBAC, "rolebindings"),
    (RBAC, "clusterrolebindings"),
    (services::GROUP, "servicecidrs"),
    (services::GROUP, "ipaddresses"),
    ("", "services"),
    ("", "pods"),
];

/// How far this server has followed.
pub(crate) struct Followed(watch::Sender<Rev>);

impl Followed {
    /// Everything up to the revision has been read.
    pub(crate) fn from(rev: Rev) -> Self {
        Followed(watch::channel(rev).0)
    }

    fn rev(&self) -> Rev {
        *self.0.borrow()
    }

    /// Waits until memory has everything that the store has now.
    pub(crate) async fn catch_up(&self, storage: &Storage) -> Result<()> {
        let newest = storage.0.revision().await.map_err(storage::status)?;
        let mut followed = self.0.subscribe();
        let late = || Status::internal(format!("this server has not seen revision {newest} within {PATIENCE:?}"));
        match timeout(PATIENCE, followed.wait_for(|rev| *rev >= newest)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(late()),
        }
    }
}

/// A kind whose objects are held in memory, and where they are in the store.
struct Kind {
    resource: &'static Resource,
    prefix: String,
}

fn kinds() -> Vec<Kind> {
    let found = FOLLOWED.iter().filter_map(|(group, plural)| resources::find(group, "v1", plural));
    found.map(|resource| Kind { resource, prefix: object::resource_prefix(resource) }).collect()
}

/// Until told to stop. After a gap everything is read anew.
pub(crate) async fn follow(server: Weak<Server>, stop: CancellationToken) {
    let mut memory = Memory { kinds: kinds(), keys: BTreeSet::new() };
    let mut gap = false;
    loop {
        tokio::select! {
            ended = memory.follow(&server, gap) => match ended {
                Some(status) => tracing::warn!("what other servers write is not seen for a moment: {status}"),
                None => return,
            },
            () = stop.cancelled() => return,
        }
        gap = true;
        sleep(PAUSE).await;
    }
}

struct Memory {
    kinds: Vec<Kind>,
    /// Those that are held in memory, as far as they came this way.
    keys: BTreeSet<Arc<str>>,
}

impl Memory {
    /// Why it ended; None: the server is gone.
    async fn follow(&mut self, server: &Weak<Server>, gap: bool) -> Option<Status> {
        let mut changes = {
            let server = server.upgrade()?;
            if gap && let Err(status) = self.read_all(&server).await {
                return Some(status);
            }
            match server.storage.0.watch("", server.followed.rev()).await {
                Ok(changes) => changes,
                Err(error) => {
                    gap_from(&server, &error);
                    return Some(storage::status(error));
                }
            }
        };
        while let Some(change) = changes.next().await {
            let server = server.upgrade()?;
            match change {
                Ok(change) => {
                    self.take(&server, &change);
                    server.followed.0.send_replace(change.rev());
                }
                Err(error) => return Some(storage::status(error)),
            }
        }
        Some(Status::internal("the watch of the store ended"))
    }

    async fn read_all(&mut self, server: &Server) -> Result<()> {
        let page = server.storage.0.list("", None, 0, None).await.map_err(storage::status)?;
        let there: BTreeSet<Arc<str>> = page.entries.iter().map(|entry| entry.key.clone()).collect();
        self.keys.difference(&there).for_each(|key| self.gone(server, key, None));
        self.keys.clear();
        page.entries.iter().for_each(|entry| self.there(server, entry));
        server.followed.0.send_replace(page.rev);
        Ok(())
    }

    fn take(&mut self, server: &Server, change: &Event) {
        match change {
            Event::Put { entry, .. } => self.there(server, entry),
            Event::Delete { prev, .. } => {
                self.gone(server, &prev.key, Some(prev));
                self.keys.remove(&prev.key);
            }
            Event::Progress(_) => {}
        }
    }

    fn kind_of(&self, key: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| key.starts_with(&kind.prefix))
    }

    fn there(&mut self, server: &Server, entry: &Entry) {
        if let Some(port) = ports::port_of(&entry.key) {
            server.services.port_given(port, &entry.value);
        } else if let Some(kind) = self.kind_of(&entry.key) {
            match Object::decode(kind.resource, entry) {
                Ok(object) => {
                    server.access.learn(kind.resource, &object.value);
                    server.services.learn(kind.resource, &object.value);
                }
                Err(status) => tracing::warn!("{status}"),
            }
        } else {
            return;
        }
        self.keys.insert(entry.key.clone());
    }

    fn gone(&self, server: &Server, key: &str, prev: Option<&Entry>) {
        if let Some(port) = ports::port_of(key) {
            return server.services.port_returned(port, prev.map(|prev| &*prev.value));
        }
        let Some(kind) = self.kind_of(key) else { return };
        let value = named(&key[kind.prefix.len()..]);
        server.access.forget(kind.resource, &value);
        match kind.resource.id() {
            ("", "services") => server.services.gone_elsewhere(&value),
            _ => server.services.forget(kind.resource, &value),
        }
    }
}

/// A compacted revision is not asked for again.
fn gap_from(server: &Server, error: &skiff_store::Error) {
    if let skiff_store::Error::Compacted { oldest, .. } = error {
        server.followed.0.send_replace(*oldest);
    }
}

/// All that is needed of an object that is gone.
fn named(rest: &str) -> Value {
    match rest.split_once('/') {
        Some((namespace, name)) => json!({"metadata": {"namespace": namespace, "name": name}}),
        None => json!({"metadata": {"name": rest}}),
    }
}
