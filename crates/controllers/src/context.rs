//! What every controller is given: the shared caches, clients by identity, and the word to stop.

use std::{future::Future, sync::Arc};

use k8s_openapi::{
    api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{Error, Resource, runtime::watcher};
use skiff_client::{
    cache::{Cache, Caches, Key, Object},
    events::Recorder,
    life::Stop,
    reconcile::{self, Done, Queue},
};

use crate::{
    Clients, Config, Job,
    object::{self, controller_of, labels, namespace},
};

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

    pub(crate) fn client(&self, identity: &str) -> kube::Client {
        (self.clients)(identity)
    }

    pub(crate) fn recorder(&self, identity: &str, component: &'static str) -> Recorder {
        Recorder::start(self.client(identity), component, self.stop.clone())
    }

    pub(crate) fn cache<K: Object + Resource<DynamicType = ()>>(&self) -> Arc<Cache<K>> {
        self.caches.of::<K>()
    }

    /// A view of some objects of a kind, shared with nobody.
    pub(crate) fn cache_of<K: Object + Resource<DynamicType = ()>>(&self, which: watcher::Config) -> Arc<Cache<K>> {
        self.caches.some_of(which)
    }

    /// Nobody plans before every cache has its first list.
    pub(crate) async fn synced(&self) {
        self.caches.synced().await;
    }

    /// A controller's life: it waits for the caches, then works on the keys of its queue until told to stop.
    pub(crate) fn spawn<C: Reconcile>(self: &Arc<Self>, queue: Arc<Queue>, controller: C) -> Job {
        let cx = self.clone();
        Box::pin(async move {
            cx.synced().await;
            controller.begin(&queue);
            reconcile::run(C::NAME, queue, C::PARALLEL, cx.stop.clone(), |key| controller.reconcile(key)).await;
        })
    }
}

/// What brings one object at a time to its wanted state.
pub(crate) trait Reconcile: Send + Sync + 'static {
    /// In logs.
    const NAME: &'static str;
    /// So many keys are worked on at once.
    const PARALLEL: usize;

    fn reconcile(&self, key: Key) -> impl Future<Output = Result<Done, Error>> + Send;

    /// Called once, when the caches have their first lists: for keys that no event will bring.
    fn begin(&self, _queue: &Queue) {}
}

/// What controls objects that its selector chooses.
pub(crate) trait Owner: Object + Resource<DynamicType = ()> {
    fn selector(&self) -> Option<&LabelSelector>;
}

impl Owner for ReplicaSet {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|s| &s.selector)
    }
}

impl Owner for Deployment {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|s| &s.selector)
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

impl Owner for StatefulSet {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|s| &s.selector)
    }
}

impl Owner for DaemonSet {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|s| &s.selector)
    }
}

/// An object concerns the owner that controls it, before or after the change; an orphan every owner that would take it.
pub(crate) fn on_owned<K, O>(cache: &Cache<K>, owners: &Arc<Cache<O>>, queue: &Arc<Queue>)
where
    K: Object + Resource<DynamicType = ()>,
    O: Owner,
{
    let (queue, owners) = (queue.clone(), owners.clone());
    cache.subscribe(move |old, new| {
        for meta in old.into_iter().chain(new).map(|o| o.meta()) {
            match owner_key::<O>(meta) {
                Some(key) => queue.add(key),
                None if controller_of(meta).is_some() => {}
                None => takers(&owners, meta).for_each(|key| queue.add(key)),
            }
        }
    });
}

/// The object of kind `O` that controls this one.
pub(crate) fn owner_key<O: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Option<Key> {
    let owner = controller_of(meta)?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == O::kind(&()) && group == O::group(&())).then(|| Key::new(namespace(meta), &owner.name))
}

fn takers<'a, O: Owner>(owners: &Cache<O>, meta: &'a ObjectMeta) -> impl Iterator<Item = Key> + use<'a, O> {
    owners.namespace(namespace(meta)).into_iter().filter_map(move |owner| {
        let selector = object::selector(owner.selector()?);
        selector.matches(labels(meta)).then(|| Key::of(&*owner))
    })
}
