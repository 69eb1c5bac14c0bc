//! Deletes the contents of ending namespaces, then lets them go.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DeleteParams, ListParams, PartialObjectMeta, PostParams},
    core::DynamicObject,
    discovery::{ApiResource, Discovery, Scope, verbs},
};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{Done, Queue},
};

use super::plan::{self, FINALIZER, Remains};
use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    object::{is_not_found, name, namespace},
    replicaset::run::text,
};

const IDENTITY: &str = "namespace-controller";
/// Contents that need time (pods that terminate, foreign finalizers) are looked at again after this.
const RETRY: Duration = Duration::from_secs(1);

struct Controller {
    client: Client,
    namespaces: Arc<Cache<Namespace>>,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller { client: cx.client(IDENTITY), namespaces: cx.cache() };
    on_self(&me.namespaces, &queue);
    me.on_pods(&cx.cache(), &queue);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "namespace";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(namespace) = self.namespaces.get(&key).filter(|n| plan::is_ending(n)) else {
            return Ok(Done::Settled);
        };
        let remains = self.empty(&key.name).await;
        let namespace = self.write_status(&namespace, &remains).await?;
        match namespace {
            Some(namespace) if remains.is_empty() => self.finalize(&namespace).await.map(|()| Done::Settled),
            Some(_) => Ok(Done::Again(RETRY)),
            None => Ok(Done::Settled),
        }
    }
}

impl Controller {
    /// The last pod's end lets an ending namespace go on at once.
    fn on_pods(&self, pods: &Cache<Pod>, queue: &Arc<Queue>) {
        let (queue, namespaces) = (queue.clone(), self.namespaces.clone());
        pods.subscribe(move |old, new| {
            let (Some(gone), None) = (old, new) else { return };
            let key = Key::new("", namespace(&gone.metadata));
            if namespaces.get(&key).is_some_and(|n| plan::is_ending(&n)) {
                queue.add(key);
            }
        });
    }

    async fn empty(&self, namespace: &str) -> Remains {
        let mut remains = Remains::default();
        match self.resources().await {
            Ok(resources) => {
                let left = join_all(resources.iter().map(|resource| self.empty_of(namespace, resource))).await;
                for (resource, left) in resources.iter().zip(left) {
                    remains.add(resource, left);
                }
            }
            Err(error) => remains.discovery = Some(text(&error)),
        }
        remains
    }

    /// Every namespaced resource that can be listed and deleted.
    async fn resources(&self) -> Result<Vec<ApiResource>, Error> {
        let discovery = Discovery::new(self.client.clone()).run_aggregated().await?;
        let all = discovery.groups().flat_map(|group| group.recommended_resources());
        let ours = all.filter(|(_, can)| {
            can.scope == Scope::Namespaced
                && can.supports_operation(verbs::DELETE)
                && can.supports_operation(verbs::LIST)
        });
        Ok(ours.map(|(resource, _)| resource).collect())
    }

    /// Deletes all objects of a resource; those that are still there.
    async fn empty_of(&self, namespace: &str, resource: &ApiResource) -> Result<Vec<Left>, Error> {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(self.client.clone(), namespace, resource);
        let all = ListParams::default();
        if api.list(&all).await?.items.is_empty() {
            return Ok(vec![]);
        }
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        objects.delete_collection(&DeleteParams::background(), &all).await?;
        Ok(api.list(&all).await?.items.iter().map(|o| o.finalizers().to_vec()).collect())
    }

    /// None: the namespace is gone already.
    async fn write_status(&self, namespace: &Namespace, remains: &Remains) -> Result<Option<Namespace>, Error> {
        let mut new = namespace.clone();
        let status = new.status.get_or_insert_default();
        let before = status.conditions.take().unwrap_or_default();
        status.conditions = Some(plan::conditions(&before, remains, Timestamp::now()));
        status.phase = Some("Terminating".into());
        if new.status == namespace.status {
            return Ok(Some(new));
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.replace_status(name(&namespace.metadata), &PostParams::default(), &new).await {
            Ok(written) => {
                self.namespaces.put(written.clone());
                Ok(Some(written))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut done = namespace.clone();
        if let Some(finalizers) = done.spec.get_or_insert_default().finalizers.as_mut() {
            finalizers.retain(|f| f != FINALIZER);
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let params = PostParams::default();
        match api.replace_subresource("finalize", name(&namespace.metadata), &params, &done).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The finalizers of one object that is left.
type Left = Vec<String>;

impl Remains {
    fn add(&mut self, resource: &ApiResource, left: Result<Vec<Left>, Error>) {
        match left {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                self.objects.insert(format!("{}.{}", resource.plural, resource.group), left.len());
                for finalizer in left.into_iter().flatten() {
                    *self.finalizers.entry(finalizer).or_default() += 1;
                }
            }
            // A resource that cannot be listed or emptied as a whole holds nothing of ours (405).
            Err(Error::Api(status)) if status.code == 405 => {}
            Err(error) => self.failures.push(format!("{}: {}", resource.plural, text(&error))),
        }
    }
}
