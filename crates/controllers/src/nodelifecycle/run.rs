//! Watches heartbeats by this process's own clock, so that clocks which differ do no harm.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};
use tokio::time::Instant;

use super::plan;
use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    object::{is_not_found, is_ready, name, namespace, node_of},
};

const IDENTITY: &str = "node-controller";
/// Heartbeats are looked at so often, or eight times in the grace period if that is shorter.
const PERIOD: Duration = Duration::from_secs(5);
const LEASES: &str = "kube-node-lease";

struct Controller {
    client: Client,
    grace: Duration,
    period: Duration,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    leases: Arc<Cache<Lease>>,
    events: Recorder,
    /// The last sign of life of each node, and when it was first seen here.
    heard: Mutex<HashMap<Key, (String, Instant)>>,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        grace: cx.config.node_monitor_grace_period,
        period: PERIOD.min(cx.config.node_monitor_grace_period / 8),
        nodes: cx.cache(),
        pods: cx.cache(),
        leases: cx.cache(),
        events: cx.recorder(IDENTITY, IDENTITY),
        heard: Mutex::default(),
    };
    on_self(&me.nodes, &queue);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "nodelifecycle";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(node) = self.nodes.get(&key) else {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return Ok(Done::Settled);
        };
        let now = Timestamp::now();
        let node = self.write_conditions(node, self.silence(&key), now).await?;
        let node = self.write_taints(node, now).await?;
        let next = self.treat_pods(&node, now).await?;
        Ok(Done::Again(next))
    }
}

impl Controller {
    fn silence(&self, key: &Key) -> Duration {
        let sign = self.sign_of_life(key);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let last = heard.entry(key.clone()).or_insert_with(|| (sign.clone(), Instant::now()));
        if last.0 != sign {
            *last = (sign, Instant::now());
        }
        last.1.elapsed()
    }

    /// Something that changes whenever the node reports: its Lease, or its own status.
    fn sign_of_life(&self, key: &Key) -> String {
        let lease = self.leases.get(&Key::new(LEASES, &key.name));
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
        let node = self.nodes.get(key);
        let conditions = node.as_ref().and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
        let posted = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
        format!("{renewed:?} {:?}", posted.and_then(|c| c.last_heartbeat_time.as_ref().map(|t| t.0)))
    }

    async fn write_conditions(&self, node: Arc<Node>, silence: Duration, now: Timestamp) -> Result<Arc<Node>, Error> {
        let Some(conditions) = plan::conditions(&node, silence, self.grace, now) else { return Ok(node) };
        let words = format!("Node {} status is now: NodeNotReady", name(&node.metadata));
        self.events.normal(&*node, "NodeNotReady", words);
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let api: Api<Node> = Api::all(self.client.clone());
        let written = api.patch_status(name(&node.metadata), &PatchParams::default(), &patch).await?;
        self.nodes.put(written.clone());
        Ok(Arc::new(written))
    }

    async fn write_taints(&self, node: Arc<Node>, now: Timestamp) -> Result<Arc<Node>, Error> {
        let Some(taints) = plan::taints(&node, now) else { return Ok(node) };
        // With the revision: taints are one list, and others write to it too.
        let metadata = json!({"resourceVersion": node.metadata.resource_version});
        let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"taints": taints}}));
        let api: Api<Node> = Api::all(self.client.clone());
        let written = api.patch(name(&node.metadata), &PatchParams::default(), &patch).await?;
        self.nodes.put(written.clone());
        Ok(Arc::new(written))
    }

    /// Pods of a silent node are not ready; those that may not stay are deleted. The time to the next deletion.
    async fn treat_pods(&self, node: &Node, now: Timestamp) -> Result<Duration, Error> {
        let silent = plan::ready_status(node) == Some("Unknown");
        let tainted = node.spec.as_ref().is_some_and(|s| s.taints.iter().flatten().any(|t| t.effect == "NoExecute"));
        let mut next = self.period;
        if !silent && !tainted {
            return Ok(next);
        }
        let here = name(&node.metadata);
        for pod in self.pods.all().iter().filter(|p| node_of(p) == Some(here)) {
            if silent && is_ready(pod) {
                self.mark_unready(pod, now).await?;
            }
            match plan::eviction(pod, node) {
                Some(at) if at <= now => self.evict(pod).await?,
                Some(at) => {
                    let left = u64::try_from(at.as_second() - now.as_second()).unwrap_or(0);
                    next = next.min(Duration::from_secs(left.max(1)));
                }
                None => {}
            }
        }
        Ok(next)
    }

    async fn mark_unready(&self, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": now.to_string()});
        let patch = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&pod.metadata));
        self.events.warning(pod, "NodeNotReady", "Node is not ready".into());
        match api.patch_status(name(&pod.metadata), &PatchParams::default(), &patch).await {
            Ok(written) => self.pods.put(written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let words = format!("Marking for deletion Pod {}", Key::of(pod));
        self.events.normal(pod, "TaintManagerEviction", words);
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..Default::default() };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&pod.metadata));
        match api.delete(name(&pod.metadata), &params).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
