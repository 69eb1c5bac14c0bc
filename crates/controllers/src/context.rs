//! What every controller is given: the shared caches, clients by identity, and the word to stop.

use std::sync::Arc;

use kube::Resource;
use skiff_client::{
    cache::{Cache, Caches, Key, Object},
    events::Recorder,
    life::Stop,
    reconcile::Queue,
};

use crate::{Clients, Config};

/// Who reads for everybody, as the reference's controller manager does.
const READER: &str = "system:kube-controller-manager";

pub(crate) struct Context {
    pub config: Config,
    pub stop: Stop,
    clients: Clients,
    caches: Caches,
}

impl Context {
    pub(crate) fn new(config: Config, clients: Clients, stop: Stop) -> Self {
        let caches = Caches::new(clients(READER), stop.clone());
        Context { config, stop, clients, caches }
    }

    /// The client of the caches, for a view that is not shared.
    pub(crate) fn reader(&self) -> kube::Client {
        (self.clients)(READER)
    }

    pub(crate) fn client(&self, identity: &str) -> kube::Client {
        (self.clients)(identity)
    }

    pub(crate) fn recorder(&self, identity: &str, component: &'static str) -> Recorder {
        Recorder::start(self.client(identity), component, self.stop.clone())
    }

    pub(crate) fn cache<K: Object + Resource<DynamicType = ()>>(&self) -> Arc<Cache<K>> {
        self.caches.of::<K>()
    }

    /// Nobody plans before every cache has its first list.
    pub(crate) async fn synced(&self) {
        self.caches.synced().await;
    }
}

/// Marks the object itself dirty on each of its changes.
pub(crate) fn on_self<K: Object>(cache: &Cache<K>, queue: &Arc<Queue>) {
    let queue = queue.clone();
    cache.subscribe(move |old, new| {
        if let Some(object) = new.or(old) {
            queue.add(Key::of(&**object));
        }
    });
}
