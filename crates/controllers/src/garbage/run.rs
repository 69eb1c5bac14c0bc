//! Follows the metadata of every resource and carries out what [`super::plan`] decides.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::SelectAll};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::DynamicObject,
    discovery::{ApiResource, Discovery, Scope, verbs},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;
use skiff_client::{
    cache::Key,
    life::Stop,
    reconcile::{self, Done, Queue},
};

use super::{
    graph::{FOREGROUND, Graph, ORPHAN, Object},
    plan::{self, Action, Policy},
};
use crate::{Job, context::Context, object::is_not_found};

const IDENTITY: &str = "generic-garbage-collector";
const PARALLEL: usize = 8;
/// An owner of a kind that the server does not know now may be known later.
const UNKNOWN_KIND: Duration = Duration::from_secs(30);
const DISCOVERY_RETRY: Duration = Duration::from_millis(500);
/// So many uids of owners that do not exist are remembered.
const REMEMBERED: usize = 4096;

type Meta = PartialObjectMeta<DynamicObject>;

struct Resource {
    api: ApiResource,
    namespaced: bool,
}

struct Collector {
    client: Client,
    resources: Vec<Resource>,
    graph: Mutex<Graph>,
    absent: Mutex<HashSet<String>>,
    queue: Arc<Queue>,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let cx = cx.clone();
    Box::pin(async move {
        let client = cx.client(IDENTITY);
        let Some(resources) = discover(&client, &cx.stop).await else { return };
        let queue = Queue::new();
        let me =
            Collector { client, resources, graph: Mutex::default(), absent: Mutex::default(), queue: queue.clone() };
        tokio::join!(
            me.follow(&cx.stop),
            reconcile::run("garbage", queue, PARALLEL, cx.stop.clone(), |key| me.reconcile(key))
        );
    })
}

/// Everything that can be watched and deleted, but Events, which nobody owns and which are many. None: told to stop.
async fn discover(client: &Client, stop: &Stop) -> Option<Vec<Resource>> {
    loop {
        match Discovery::new(client.clone()).run_aggregated().await {
            Ok(discovery) => {
                let all = discovery.groups().flat_map(|group| group.recommended_resources());
                let watched = all.filter(|(r, can)| {
                    r.kind != "Event"
                        && [verbs::WATCH, verbs::LIST, verbs::DELETE].iter().all(|v| can.supports_operation(v))
                });
                let made = watched.map(|(api, can)| Resource { api, namespaced: can.scope == Scope::Namespaced });
                return Some(made.collect());
            }
            Err(error) => tracing::warn!(%error, "garbage collector: discovery failed, trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(DISCOVERY_RETRY) => {}
        }
    }
}

impl Collector {
    async fn follow(&self, stop: &Stop) {
        let mut events = SelectAll::new();
        for (index, resource) in self.resources.iter().enumerate() {
            let api: Api<Meta> = Api::all_with(self.client.clone(), &resource.api);
            let stream = watcher(api, watcher::Config::default()).default_backoff();
            events.push(stream.map(move |event| (index, event)).boxed());
        }
        let mut fresh: Vec<HashSet<String>> = vec![HashSet::new(); self.resources.len()];
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = events.next() => next,
            };
            match next {
                Some((index, Ok(event))) => self.take(index, event, &mut fresh[index]),
                Some((index, Err(error))) => {
                    tracing::debug!(resource = self.resources[index].api.plural, %error, "watch interrupted");
                }
                None => return,
            }
        }
    }

    fn take(&self, index: usize, event: Event<Meta>, fresh: &mut HashSet<String>) {
        let mut graph = self.graph();
        let dirty = match event {
            Event::Init => {
                fresh.clear();
                return;
            }
            Event::InitApply(object) => {
                fresh.extend(object.uid());
                put(&mut graph, index, &object)
            }
            Event::Apply(object) => put(&mut graph, index, &object),
            Event::Delete(object) => graph.remove(&object.uid().unwrap_or_default()),
            Event::InitDone => {
                let missing = graph.missing(index, fresh);
                fresh.clear();
                missing.iter().flat_map(|uid| graph.remove(uid)).collect()
            }
        };
        drop(graph);
        dirty.iter().for_each(|uid| self.queue.add(Key::new("", uid)));
    }

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let uid = &*key.name;
        let (action, object) = {
            let graph = self.graph();
            let absent = self.absent();
            (plan::plan(&graph, uid, &absent), graph.get(uid).cloned())
        };
        let Some(object) = object else { return Ok(Done::Settled) };
        match action {
            Action::Nothing => {}
            Action::Ask(owners) => return self.ask(&key, &object, &owners).await,
            Action::Delete(policy) => self.delete(uid, &object, policy).await?,
            Action::Disown(owners) => self.disown(uid, &object, &owners).await?,
            Action::Orphan(dependents) => {
                for dependent in &dependents {
                    let found = self.graph().get(dependent).cloned();
                    if let Some(found) = found {
                        self.disown(dependent, &found, &[uid.to_string()]).await?;
                    }
                }
                self.unfinalize(uid, &object, ORPHAN).await?;
            }
            Action::Clear(dependents) => dependents.iter().for_each(|d| self.queue.add(Key::new("", d))),
            Action::Release => self.unfinalize(uid, &object, FOREGROUND).await?,
        }
        Ok(Done::Settled)
    }

    /// Asks the server for owners that were never seen; those that do not exist are remembered.
    async fn ask(&self, key: &Key, object: &Object, owners: &[OwnerReference]) -> Result<Done, Error> {
        for owner in owners {
            let Some(resource) = self.resource_of(owner) else { return Ok(Done::Again(UNKNOWN_KIND)) };
            let namespace = if resource.namespaced { &*object.key.namespace } else { "" };
            let api = self.api(resource, namespace);
            let there = api.get_metadata_opt(&owner.name).await?;
            if there.is_none_or(|o| o.uid().as_ref() != Some(&owner.uid)) {
                let mut absent = self.absent();
                if absent.len() >= REMEMBERED {
                    absent.clear();
                }
                absent.insert(owner.uid.clone());
            } else {
                // It exists and its event is on the way, which brings its dependents here again.
                return Ok(Done::Again(Duration::from_secs(1)));
            }
        }
        self.queue.add(key.clone());
        Ok(Done::Settled)
    }

    fn resource_of(&self, owner: &OwnerReference) -> Option<&Resource> {
        let of_kind = |version: bool| {
            move |r: &&Resource| {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                r.api.kind == owner.kind && r.api.group == group && (!version || r.api.api_version == owner.api_version)
            }
        };
        self.resources.iter().find(of_kind(true)).or_else(|| self.resources.iter().find(of_kind(false)))
    }

    async fn delete(&self, uid: &str, object: &Object, policy: Policy) -> Result<(), Error> {
        let policy = match policy {
            Policy::Background => PropagationPolicy::Background,
            Policy::Foreground => PropagationPolicy::Foreground,
            Policy::Orphan => PropagationPolicy::Orphan,
        };
        let same = Preconditions { uid: Some(uid.into()), resource_version: None };
        let params = DeleteParams { propagation_policy: Some(policy), preconditions: Some(same), ..Default::default() };
        // A conflict means that the name has another owner by now.
        match self.api_of(object).delete(&object.key.name, &params).await {
            Err(Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    async fn disown(&self, uid: &str, object: &Object, owners: &[String]) -> Result<(), Error> {
        let left: Vec<_> = object.owners.iter().filter(|o| !owners.contains(&o.uid)).collect();
        if left.len() == object.owners.len() {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"metadata": {"uid": uid, "ownerReferences": left}}));
        let api = self.api_of(object);
        ignore_gone(api.patch_metadata(&object.key.name, &PatchParams::default(), &patch).await)
    }

    async fn unfinalize(&self, uid: &str, object: &Object, finalizer: &str) -> Result<(), Error> {
        let api = self.api_of(object);
        let Some(live) = api.get_metadata_opt(&object.key.name).await? else { return Ok(()) };
        let left: Vec<_> = live.finalizers().iter().filter(|f| *f != finalizer).collect();
        if live.uid().as_deref() != Some(uid) || left.len() == live.finalizers().len() {
            return Ok(());
        }
        // With the revision: the list is replaced as a whole.
        let metadata = json!({"resourceVersion": live.resource_version(), "finalizers": left});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        ignore_gone(api.patch_metadata(&object.key.name, &PatchParams::default(), &patch).await)
    }

    fn api_of(&self, object: &Object) -> Api<DynamicObject> {
        self.api(&self.resources[object.resource], &object.key.namespace)
    }

    fn api(&self, resource: &Resource, namespace: &str) -> Api<DynamicObject> {
        match resource.namespaced {
            true => Api::namespaced_with(self.client.clone(), namespace, &resource.api),
            false => Api::all_with(self.client.clone(), &resource.api),
        }
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn absent(&self) -> MutexGuard<'_, HashSet<String>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(graph: &mut Graph, index: usize, object: &Meta) -> HashSet<String> {
    let key = Key::new(object.namespace().as_deref().unwrap_or(""), &object.name_any());
    graph.put(&object.uid().unwrap_or_default(), Object::new(index, key, &object.metadata))
}

fn ignore_gone<T>(outcome: Result<T, Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}
