//! Keeps the slices of each Service as planned.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, Error};
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};
use skiff_services::{
    endpoints::{
        self as facts, LABEL_SLICE_MANAGED_BY, SLICE_CONTROLLER,
        slices::{self, Nodes, Plan},
        trigger::Triggers,
    },
    model::LABEL_SERVICE_NAME,
};

use super::write;
use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    endpoints::run::{on_pods, selected},
    object::{is_deleted, labels, name, namespace},
    replicaset::run::text,
};

const IDENTITY: &str = "endpointslice-controller";
const ZONE: &str = "topology.kubernetes.io/zone";
/// A pod's node that the cache does not know is looked for again after this time.
const NODE_RETRY: Duration = Duration::from_secs(1);

struct Controller {
    client: Client,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
    triggers: Mutex<HashMap<Key, Triggers>>,
    events: Recorder,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        services: cx.cache(),
        pods: cx.cache(),
        nodes: cx.cache(),
        slices: cx.cache(),
        triggers: Mutex::default(),
        events: cx.recorder(IDENTITY, "endpoint-slice-controller"),
    };
    on_self(&me.services, &queue);
    on_pods(&me.pods, &me.services, &queue);
    on_slices(&me.slices, &queue, SLICE_CONTROLLER);
    me.on_nodes(&queue);
    cx.spawn(queue, me)
}

/// A slice of ours that someone changes or deletes concerns its Service.
pub(crate) fn on_slices(slices: &Cache<EndpointSlice>, queue: &Arc<Queue>, manager: &'static str) {
    let queue = queue.clone();
    slices.subscribe(move |old, new| {
        for slice in old.into_iter().chain(new).filter(|s| is_managed_by(s, manager)) {
            if let Some(service) = labels(&slice.metadata).get(LABEL_SERVICE_NAME) {
                queue.add(Key::new(namespace(&slice.metadata), service));
            }
        }
    });
}

fn is_managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    labels(&slice.metadata).get(LABEL_SLICE_MANAGED_BY).is_some_and(|m| m == manager)
}

/// The slices that `manager` keeps for a Service.
pub(crate) fn slices_of(slices: &Cache<EndpointSlice>, service: &Key, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let mut found = slices.namespace(&service.namespace);
    found.retain(|s| {
        is_managed_by(s, manager) && labels(&s.metadata).get(LABEL_SERVICE_NAME).is_some_and(|n| **n == *service.name)
    });
    found
}

impl Reconcile for Controller {
    const NAME: &'static str = "endpointslice";
    const PARALLEL: usize = 8;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let existing = slices_of(&self.slices, &key, SLICE_CONTROLLER);
        let service = self.services.get(&key);
        let Some(service) = service.filter(|s| facts::is_managed(s)) else {
            self.triggers().remove(&key);
            let plan = Plan { delete: existing.iter().map(|s| name(&s.metadata).into()).collect(), ..Plan::default() };
            write::apply(&self.client, &self.slices, &key.namespace, &plan).await?;
            return Ok(Done::Settled);
        };
        if is_deleted(&service.metadata) {
            return Ok(Done::Settled);
        }
        let pods = selected(&service, &self.pods);
        let trigger = self.triggers().entry(key.clone()).or_default().look(&service, &pods);
        let existing: Vec<&EndpointSlice> =
            existing.iter().filter(|s| !is_deleted(&s.metadata)).map(|s| &**s).collect();
        let plan = slices::plan(&service, &pods, &self.zones(), &existing, trigger);
        self.apply(&service, &key, &plan).await?;
        Ok(if plan.node_missing { Done::Again(NODE_RETRY) } else { Done::Settled })
    }
}

impl Controller {
    /// Zones stand in the slices, so a node's zone concerns every Service.
    fn on_nodes(&self, queue: &Arc<Queue>) {
        let (queue, services) = (queue.clone(), self.services.clone());
        self.nodes.subscribe(move |old, new| {
            let zone = |n: Option<&Arc<Node>>| n.map(|n| labels(&n.metadata).get(ZONE).cloned());
            if zone(old) != zone(new) {
                services.all().iter().for_each(|s| queue.add(Key::of(&**s)));
            }
        });
    }

    async fn apply(&self, service: &Service, key: &Key, plan: &Plan) -> Result<(), Error> {
        let outcome = write::apply(&self.client, &self.slices, &key.namespace, plan).await;
        if let Err(error) = &outcome
            && !matches!(error, Error::Api(s) if s.code == 409 || s.code == 404)
        {
            let words = format!("Error updating Endpoint Slices for Service {key}: {}", text(error));
            self.events.warning(service, "FailedToUpdateEndpointSlices", words);
        }
        outcome
    }

    fn zones(&self) -> Nodes {
        let nodes = self.nodes.all();
        nodes.iter().map(|n| (name(&n.metadata).to_string(), labels(&n.metadata).get(ZONE).cloned())).collect()
    }

    fn triggers(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Triggers>> {
        self.triggers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
