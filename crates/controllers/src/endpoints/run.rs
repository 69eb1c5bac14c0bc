//! Writes the Endpoints objects.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, PostParams},
};
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};
use skiff_services::endpoints::{
    self as facts, ANNOTATION_LEADER, ENDPOINTS_CONTROLLER, LABEL_ENDPOINTS_MANAGED_BY, subsets, trigger::Triggers,
};

use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    object::{self, is_namespace_ending, is_not_found, labels, namespace},
    replicaset::run::text,
};

const IDENTITY: &str = "endpoint-controller";

struct Controller {
    client: Client,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    endpoints: Arc<Cache<Endpoints>>,
    triggers: Mutex<HashMap<Key, Triggers>>,
    events: Recorder,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        services: cx.cache(),
        pods: cx.cache(),
        endpoints: cx.cache(),
        triggers: Mutex::default(),
        events: cx.recorder(IDENTITY, IDENTITY),
    };
    on_self(&me.services, &queue);
    on_pods(&me.pods, &me.services, &queue);
    me.on_endpoints(&queue);
    cx.spawn(queue, me)
}

/// A pod concerns every Service that selects it, before or after the change.
pub(crate) fn on_pods(pods: &Cache<Pod>, services: &Arc<Cache<Service>>, queue: &Arc<Queue>) {
    let (queue, services) = (queue.clone(), services.clone());
    pods.subscribe(move |old, new| {
        let Some(pod) = new.or(old) else { return };
        for service in services.namespace(namespace(&pod.metadata)) {
            let selected =
                |p: Option<&Arc<Pod>>| p.is_some_and(|p| facts::selects(&service, p.metadata.labels.as_ref()));
            if selected(old) || selected(new) {
                queue.add(Key::of(&*service));
            }
        }
    });
}

/// The pods that a Service selects.
pub(crate) fn selected(service: &Service, pods: &Cache<Pod>) -> Vec<Arc<Pod>> {
    let mut pods = pods.namespace(namespace(&service.metadata));
    pods.retain(|p| facts::selects(service, p.metadata.labels.as_ref()));
    pods
}

impl Reconcile for Controller {
    const NAME: &'static str = "endpoints";
    const PARALLEL: usize = 8;

    fn begin(&self, queue: &Queue) {
        self.orphans().for_each(|key| queue.add(key));
    }

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let existing = self.endpoints.get(&key);
        let Some(service) = self.services.get(&key) else {
            self.forget(&key);
            return self.delete(&key, existing.as_deref()).await;
        };
        if !facts::is_managed(&service) {
            self.forget(&key);
            let named = service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("ExternalName"));
            let ours = existing.filter(|e| named && is_ours(e));
            return self.delete(&key, ours.as_deref()).await;
        }
        let pods = selected(&service, &self.pods);
        let trigger = self.trigger(&key, &service, &pods);
        match subsets::plan(&service, &pods, existing.as_deref(), trigger) {
            Some(wanted) => self.write(&service, &wanted).await,
            None => Ok(Done::Settled),
        }
    }
}

impl Controller {
    fn on_endpoints(&self, queue: &Arc<Queue>) {
        let (queue, services) = (queue.clone(), self.services.clone());
        self.endpoints.subscribe(move |old, new| {
            let key = new.or(old).map(|e| Key::of(&**e));
            if let Some(key) = key.filter(|key| services.get(key).is_some_and(|s| facts::is_managed(&s))) {
                queue.add(key);
            }
        });
    }

    /// Endpoints whose Service went away while nobody looked; records of leader elections are none of ours.
    fn orphans(&self) -> impl Iterator<Item = Key> {
        let all = self.endpoints.all().into_iter();
        all.filter(|e| object::annotation(&e.metadata, ANNOTATION_LEADER).is_none()).map(|e| Key::of(&*e))
    }

    fn trigger(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Option<String> {
        let mut triggers = self.triggers.lock().unwrap_or_else(PoisonError::into_inner);
        triggers.entry(key.clone()).or_default().look(service, pods)
    }

    fn forget(&self, key: &Key) {
        self.triggers.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    async fn write(&self, service: &Service, wanted: &Endpoints) -> Result<Done, Error> {
        let api = self.api(namespace(&wanted.metadata));
        let written = if wanted.metadata.resource_version.is_none() {
            api.create(&PostParams::default(), wanted).await
        } else {
            api.replace(object::name(&wanted.metadata), &PostParams::default(), wanted).await
        };
        match written {
            Ok(endpoints) => self.endpoints.put(endpoints),
            Err(error) if is_namespace_ending(&error) => {}
            Err(error) => {
                let (reason, verb) = match wanted.metadata.resource_version {
                    None => ("FailedToCreateEndpoint", "create"),
                    Some(_) => ("FailedToUpdateEndpoint", "update"),
                };
                if !matches!(&error, Error::Api(s) if s.code == 409) {
                    let words = format!("Failed to {verb} endpoint {}: {}", Key::of(service), text(&error));
                    self.events.warning(service, reason, words);
                }
                return Err(error);
            }
        }
        Ok(Done::Settled)
    }

    async fn delete(&self, key: &Key, existing: Option<&Endpoints>) -> Result<Done, Error> {
        let Some(existing) = existing else { return Ok(Done::Settled) };
        match self.api(&key.namespace).delete(&key.name, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => {
                self.endpoints.remove(key, object::uid(&existing.metadata));
                Ok(Done::Settled)
            }
        }
    }

    fn api(&self, namespace: &str) -> Api<Endpoints> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

fn is_ours(endpoints: &Endpoints) -> bool {
    labels(&endpoints.metadata).get(LABEL_ENDPOINTS_MANAGED_BY).is_some_and(|m| m == ENDPOINTS_CONTROLLER)
}
