//! One shared view of each kind for every controller of a process: a watch feeds it, subscribers turn its changes into
//! keys. A controller also puts its own writes in, so that it never plans from a view older than what it did itself;
//! this is what makes bookkeeping of expected events unnecessary.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap, HashSet},
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use futures::StreamExt;
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::life::Stop;

/// How often every subscriber sees every object again, in case a reaction was lost by a bug.
const RESYNC: Duration = Duration::from_secs(600);

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{}", self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// What a cache can hold.
pub trait Object: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}
impl<K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// Called with the object before and after a change; must be quick, it only marks keys dirty.
type Handler<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

struct View<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// The newest revision that the watch has delivered.
    seen: u64,
    /// Uids that this process knows to be gone, until the watch says so too.
    gone: HashSet<String>,
}

/// All objects of one kind.
pub struct Cache<K: Object> {
    view: RwLock<View<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K: Object> Default for Cache<K> {
    fn default() -> Self {
        Cache {
            view: RwLock::new(View { objects: BTreeMap::new(), seen: 0, gone: HashSet::new() }),
            handlers: RwLock::default(),
            synced: watch::Sender::new(false),
        }
    }
}

/// resourceVersions are comparable decimal numbers (Kubernetes 1.35 and later promise it).
fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0)
}

impl<K: Object> Cache<K> {
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of one namespace.
    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = Key::new(namespace, "");
        let view = self.read();
        view.objects.range(from..).take_while(|(k, _)| &*k.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// Calls `handler` for every object there is, and for every change from now on.
    pub fn subscribe(&self, handler: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        for object in self.all() {
            handler(None, Some(&object));
        }
        handlers.push(Box::new(handler));
    }

    /// Returns once the first list is in; false when the watch ended before.
    pub async fn synced(&self) -> bool {
        self.synced.subscribe().wait_for(|done| *done).await.is_ok()
    }

    /// Takes in what the server answered to a write of this process.
    pub fn put(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        // A watch that is already past this revision has said what there is to say, perhaps that the object is gone.
        if revision(&object) > self.read().seen {
            self.insert(object);
        }
    }

    /// Takes in that an object of this uid is gone, as the server answered to a write of this process.
    pub fn remove(&self, key: &Key, uid: &str) {
        let old = {
            let mut view = self.write();
            match view.objects.get(key) {
                Some(o) if o.meta().uid.as_deref() == Some(uid) => {
                    view.gone.insert(uid.to_string());
                    view.objects.remove(key)
                }
                _ => None,
            }
        };
        if let Some(old) = old {
            self.tell(Some(&old), None);
        }
    }

    /// Follows the part of the API that `config` selects until told to stop. Errors are retried with back-off by the watcher and leave the view as it is.
    pub async fn follow(&self, api: Api<K>, config: watcher::Config, stop: Stop)
    where
        K::DynamicType: Clone,
    {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut fresh = BTreeMap::new();
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + RESYNC, RESYNC);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = resync.tick() => self.replay(),
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event, &mut fresh),
                    Some(Err(error)) => tracing::debug!(kind = std::any::type_name::<K>(), %error, "watch interrupted"),
                    None => return,
                },
            }
        }
    }

    /// One event of the watch. `fresh` holds a list that is still incomplete.
    pub fn take(&self, event: Event<K>, fresh: &mut BTreeMap<Key, Arc<K>>) {
        let slim = |mut object: K| {
            object.meta_mut().managed_fields = None;
            object
        };
        match event {
            Event::Init => fresh.clear(),
            Event::InitApply(object) => {
                fresh.insert(Key::of(&object), Arc::new(slim(object)));
            }
            Event::InitDone => {
                self.replace(std::mem::take(fresh));
                self.synced.send_replace(true);
            }
            Event::Apply(object) => {
                let at = revision(&object);
                self.insert(slim(object));
                let mut view = self.write();
                view.seen = view.seen.max(at);
            }
            Event::Delete(object) => self.deleted(&object),
        }
    }

    fn insert(&self, object: K) {
        let key = Key::of(&object);
        let object = Arc::new(object);
        let old = {
            let mut view = self.write();
            let stale = view.objects.get(&key).is_some_and(|old| revision(&**old) >= revision(&*object));
            if stale || object.meta().uid.as_ref().is_some_and(|u| view.gone.contains(u)) {
                return;
            }
            view.objects.insert(key, object.clone())
        };
        self.tell(old.as_ref(), Some(&object));
    }

    fn deleted(&self, object: &K) {
        let old = {
            let mut view = self.write();
            view.seen = view.seen.max(revision(object));
            if let Some(uid) = &object.meta().uid {
                view.gone.remove(uid);
            }
            let key = Key::of(object);
            match view.objects.get(&key) {
                Some(o) if o.meta().uid == object.meta().uid => view.objects.remove(&key),
                _ => None,
            }
        };
        if let Some(old) = old {
            self.tell(Some(&old), None);
        }
    }

    fn replace(&self, fresh: BTreeMap<Key, Arc<K>>) {
        let old = {
            let mut view = self.write();
            view.gone.clear();
            view.seen = fresh.values().map(|o| revision(&**o)).max().unwrap_or(0).max(view.seen);
            std::mem::replace(&mut view.objects, fresh.clone())
        };
        for (key, gone) in old.iter().filter(|(k, _)| !fresh.contains_key(*k)) {
            tracing::debug!(%key, "gone while not watching");
            self.tell(Some(gone), None);
        }
        for (key, object) in &fresh {
            match old.get(key) {
                Some(o) if revision(&**o) == revision(&**object) => {}
                before => self.tell(before, Some(object)),
            }
        }
    }

    fn replay(&self) {
        self.all().iter().for_each(|object| self.tell(Some(object), Some(object)));
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        handlers.iter().for_each(|handler| handler(old, new));
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, View<K>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, View<K>> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caches of a process: each is started when it is first asked for.
pub struct Caches {
    client: Client,
    stop: Stop,
    kinds: Mutex<HashMap<TypeId, Kind>>,
    /// Views of a part of a kind: nobody else finds them.
    parts: Mutex<Vec<watch::Receiver<bool>>>,
}

struct Kind {
    cache: Arc<dyn Any + Send + Sync>,
    synced: watch::Receiver<bool>,
}

impl Caches {
    pub fn new(client: Client, stop: Stop) -> Self {
        Caches { client, stop, kinds: Mutex::default(), parts: Mutex::default() }
    }

    /// The cache of a kind. Must be called within a tokio runtime, which then also runs the watch.
    pub fn of<K: Object + Resource<DynamicType = ()>>(&self) -> Arc<Cache<K>> {
        let mut kinds = self.kinds();
        let known = kinds.get(&TypeId::of::<K>()).map(|kind| kind.cache.clone());
        if let Some(known) = known.and_then(|any| any.downcast::<Cache<K>>().ok()) {
            return known;
        }
        let cache = Arc::new(Cache::<K>::default());
        kinds.insert(TypeId::of::<K>(), Kind { cache: cache.clone(), synced: cache.synced.subscribe() });
        self.follow(&cache, watcher::Config::default());
        cache
    }

    /// A cache of its own for the objects that `which` selects.
    pub fn some_of<K: Object + Resource<DynamicType = ()>>(&self, which: watcher::Config) -> Arc<Cache<K>> {
        let cache = Arc::new(Cache::<K>::default());
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(cache.synced.subscribe());
        self.follow(&cache, which);
        cache
    }

    fn follow<K: Object + Resource<DynamicType = ()>>(&self, cache: &Arc<Cache<K>>, which: watcher::Config) {
        let (follower, api, stop) = (cache.clone(), Api::all(self.client.clone()), self.stop.clone());
        tokio::spawn(async move { follower.follow(api, which, stop).await });
    }

    /// Returns once every cache that was asked for so far has its first list, or when told to stop.
    pub async fn synced(&self) {
        let mut waits: Vec<_> = self.kinds().values().map(|kind| kind.synced.clone()).collect();
        waits.extend(self.parts.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        for mut wait in waits {
            tokio::select! {
                () = self.stop.cancelled() => return,
                // The follower holds the cache until told to stop: its sender outlives this wait.
                _ = wait.wait_for(|done| *done) => {}
            }
        }
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<TypeId, Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("ns".into());
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(revision.to_string());
        object
    }

    fn names(cache: &Cache<ConfigMap>) -> Vec<String> {
        cache.all().iter().map(|o| format!("{}@{}", Key::of(&**o).name, revision(&**o))).collect()
    }

    fn apply(cache: &Cache<ConfigMap>, events: Vec<Event<ConfigMap>>) {
        let mut fresh = BTreeMap::new();
        events.into_iter().for_each(|e| cache.take(e, &mut fresh));
    }

    #[test]
    fn own_writes_are_seen_at_once_and_old_events_do_not_undo_them() {
        let cache = Cache::default();
        apply(&cache, vec![Event::Init, Event::InitApply(object("a", "1", 5)), Event::InitDone]);
        cache.put(object("a", "1", 9));
        apply(&cache, vec![Event::Apply(object("a", "1", 7))]);
        assert_eq!(names(&cache), ["a@9"]);
    }

    #[test]
    fn a_late_answer_to_a_create_does_not_bring_a_deleted_object_back() {
        let cache = Cache::default();
        apply(&cache, vec![Event::Apply(object("a", "1", 5)), Event::Delete(object("a", "1", 6))]);
        cache.put(object("a", "1", 5));
        assert_eq!(names(&cache), [""; 0]);
    }

    #[test]
    fn a_removed_object_stays_removed_until_its_name_is_used_again() {
        let cache = Cache::default();
        apply(&cache, vec![Event::Apply(object("a", "1", 5))]);
        cache.remove(&Key::new("ns", "a"), "1");
        apply(&cache, vec![Event::Apply(object("a", "1", 6))]);
        assert_eq!(names(&cache), [""; 0]);
        apply(&cache, vec![Event::Delete(object("a", "1", 7)), Event::Apply(object("a", "2", 8))]);
        assert_eq!(names(&cache), ["a@8"]);
        apply(&cache, vec![Event::Delete(object("a", "1", 7))]);
        assert_eq!(names(&cache), ["a@8"], "the repeated deletion of a predecessor means nothing");
    }

    #[test]
    fn a_new_list_tells_subscribers_what_they_missed() {
        let cache = Cache::default();
        apply(&cache, vec![Event::Apply(object("a", "1", 5)), Event::Apply(object("b", "2", 6))]);
        let told = Arc::new(Mutex::new(vec![]));
        let sink = told.clone();
        cache.subscribe(move |old, new| {
            let name = |o: Option<&Arc<ConfigMap>>| o.map(|o| Key::of(&**o).name.to_string()).unwrap_or_default();
            sink.lock().unwrap().push(format!("{}>{}", name(old), name(new)));
        });
        let list = [object("b", "2", 6), object("c", "3", 9)].map(Event::InitApply);
        apply(&cache, [vec![Event::Init], list.into(), vec![Event::InitDone]].concat());
        assert_eq!(*told.lock().unwrap(), [">a", ">b", "a>", ">c"]);
        assert_eq!(names(&cache), ["b@6", "c@9"]);
    }
}
