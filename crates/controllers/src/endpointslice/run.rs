//! Keeps the slices of each Service as planned.

use std::{
    collections::{BTreeMap, HashMap},
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
        topology::{self, Capacity, Unable},
        trigger::Triggers,
    },
    model::LABEL_SERVICE_NAME,
};

use super::write;
use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    endpoints::run::{on_pods, selected},
    nodelifecycle::plan::ready_status,
    object::{is_deleted, labels, name, namespace},
    replicaset::run::text,
    scheduler::quantity::milli,
};

const IDENTITY: &str = "endpointslice-controller";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Nodes with one of these are no place for the load that hints divide.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// A pod's node that the cache does not know is looked for again after this time.
const NODE_RETRY: Duration = Duration::from_secs(1);

struct Controller {
    client: Client,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
    triggers: Mutex<HashMap<Key, Triggers>>,
    /// What was last told of the Services in topology mode Auto.
    topology: Mutex<HashMap<Key, Topology>>,
    events: Recorder,
}

type Topology = BTreeMap<&'static str, Result<(), Unable>>;

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        services: cx.cache(),
        pods: cx.cache(),
        nodes: cx.cache(),
        slices: cx.cache(),
        triggers: Mutex::default(),
        topology: Mutex::default(),
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
            self.topologies().remove(&key);
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
        let plan = slices::plan(&service, &pods, &self.known_nodes(), &existing, trigger);
        self.apply(&service, &key, &plan).await?;
        self.tell_topology(&service, key, &plan.topology);
        Ok(if plan.node_missing { Done::Again(NODE_RETRY) } else { Done::Settled })
    }
}

impl Controller {
    /// Zones stand in the slices, so a node's zone concerns every Service; what it can carry, those whose hints depend on it.
    fn on_nodes(&self, queue: &Arc<Queue>) {
        let (queue, services) = (queue.clone(), self.services.clone());
        self.nodes.subscribe(move |old, new| {
            let zone = |n: Option<&Arc<Node>>| n.map(|n| labels(&n.metadata).get(ZONE).cloned());
            let carries = |n: Option<&Arc<Node>>| n.and_then(|n| strength(n));
            let (moved, other_strength) = (zone(old) != zone(new), carries(old) != carries(new));
            if moved || other_strength {
                let all = services.all();
                let concerned = all.iter().filter(|s| moved || topology::is_auto(s));
                concerned.for_each(|s| queue.add(Key::of(&**s)));
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

    fn known_nodes(&self) -> Nodes {
        let nodes = self.nodes.all();
        let zone = |n: &Node| labels(&n.metadata).get(ZONE).cloned();
        Nodes {
            zones: nodes.iter().map(|n| (name(&n.metadata).to_string(), zone(n))).collect(),
            capacity: Capacity::of(
                nodes.iter().filter_map(|n| Some((labels(&n.metadata).get(ZONE).map(String::as_str), strength(n)?))),
            ),
        }
    }

    /// Says what has changed since it was last said.
    fn tell_topology(&self, service: &Service, key: Key, now: &Topology) {
        let before = self.topologies().remove(&key).unwrap_or_default();
        if !now.is_empty() {
            self.topologies().insert(key, now.clone());
        }
        for (family, state) in now.iter().filter(|(family, state)| before.get(*family) != Some(state)) {
            match state {
                Ok(()) => {
                    let words = format!("Topology Aware Hints has been enabled, addressType: {family}");
                    self.events.normal(service, "TopologyAwareHintsEnabled", words);
                }
                Err(why) => {
                    self.events.warning(service, "TopologyAwareHintsDisabled", format!("{why}, addressType: {family}"));
                }
            }
        }
        for family in before.keys().filter(|family| !now.contains_key(*family)) {
            let words = format!("Topology Aware Hints has been disabled, addressType: {family}");
            self.events.warning(service, "TopologyAwareHintsDisabled", words);
        }
    }

    fn topologies(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Topology>> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn triggers(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Triggers>> {
        self.triggers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processors that a node offers, in thousandths; None when it is not ready, or the control plane's.
fn strength(node: &Node) -> Option<u64> {
    let labels = labels(&node.metadata);
    if ready_status(node) != Some("True") || CONTROL_PLANE.iter().any(|role| labels.contains_key(*role)) {
        return None;
    }
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let cpu = allocatable.and_then(|a| a.get("cpu")).and_then(|cpu| milli(&cpu.0));
    Some(cpu.and_then(|cpu| u64::try_from(cpu).ok()).unwrap_or(0))
}
