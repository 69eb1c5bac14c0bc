//! Binds pods to the nodes that [`super::plan`] chooses.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};

use super::{
    neighbours::Namespaces,
    plan::{self, Unfit},
};
use crate::{
    Job,
    context::{Context, Reconcile},
    object::{condition, is_deleted, is_not_found, is_over, labels, name, node_of, uid},
};

const IDENTITY: &str = "system:kube-scheduler";
/// A pod that fits nowhere is looked at again after this time even when nothing seems to have changed.
const RETRY: Duration = Duration::from_secs(60);

struct Scheduler {
    client: Client,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    namespaces: Arc<Cache<Namespace>>,
    events: Recorder,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Pods that were bound, or are being bound, but whose node the cache does not show yet: uid and node.
    assumed: HashMap<Key, (String, String)>,
    /// Pods that fit nowhere when they were last looked at, and whether other pods can change that by coming.
    unfit: HashMap<Key, bool>,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Scheduler {
        client: cx.client(IDENTITY),
        pods: cx.cache(),
        nodes: cx.cache(),
        namespaces: cx.cache(),
        events: cx.recorder(IDENTITY, "default-scheduler"),
        state: Arc::default(),
    };
    me.on_pods(&queue);
    me.on_nodes(&queue);
    cx.spawn(queue, me)
}

impl Reconcile for Scheduler {
    const NAME: &'static str = "scheduler";
    const PARALLEL: usize = 16;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(pod) = self.pods.get(&key).filter(|p| plan::is_waiting(p)) else {
            lock(&self.state).unfit.remove(&key);
            return Ok(Done::Settled);
        };
        match self.decide(&key, &pod) {
            None => Ok(Done::Settled),
            Some(Ok(node)) => self.bind(&key, &pod, &node).await,
            Some(Err(unfit)) => self.refuse(&pod, &unfit).await,
        }
    }
}

impl Scheduler {
    fn on_pods(&self, queue: &Arc<Queue>) {
        let (queue, state) = (queue.clone(), self.state.clone());
        self.pods.subscribe(move |old, new| {
            if let Some(pod) = new.filter(|p| plan::is_waiting(p)) {
                // What the scheduler itself wrote into the status is no reason to look again.
                if old.is_none_or(|o| o.spec != pod.spec || o.metadata.labels != pod.metadata.labels) {
                    queue.add(Key::of(&**pod));
                }
            }
            let takes_room = |p: Option<&Arc<Pod>>| p.is_some_and(|p| node_of(p).is_some() && !is_over(p));
            // Room came free, or somebody came whom another wants to be near.
            let labels = |p: Option<&Arc<Pod>>| p.and_then(|p| p.metadata.labels.clone());
            if takes_room(old) && !takes_room(new) {
                wake(&state, &queue, |_| true);
            } else if takes_room(new) && (!takes_room(old) || labels(old) != labels(new)) {
                wake(&state, &queue, |looks| looks);
            }
        });
    }

    fn on_nodes(&self, queue: &Arc<Queue>) {
        let (queue, state) = (queue.clone(), self.state.clone());
        self.nodes.subscribe(move |_, _| wake(&state, &queue, |_| true));
    }

    /// Chooses and takes the room in one step, so that two pods never take the same. None: it has a node already.
    fn decide(&self, key: &Key, pod: &Pod) -> Option<Result<String, Unfit>> {
        let mut state = lock(&self.state);
        let pods = self.pods.all();
        state.assumed.retain(|key, (uid_of, _)| {
            let shown = self.pods.get(key);
            shown.is_some_and(|p| uid(&p.metadata) == uid_of && node_of(&p).is_none())
        });
        if state.assumed.contains_key(key) {
            return None;
        }
        let placed: Vec<(&str, &Pod)> = pods
            .iter()
            .filter_map(|p| {
                let assumed = || state.assumed.get(&Key::of(&**p)).map(|(_, node)| node.as_str());
                node_of(p).or_else(assumed).map(|node| (node, &**p))
            })
            .collect();
        let choice = plan::choose(pod, &self.nodes.all(), &placed, &self.namespaces());
        match &choice {
            Ok(node) => {
                state.unfit.remove(key);
                state.assumed.insert(key.clone(), (uid(&pod.metadata).into(), node.clone()));
            }
            Err(_) => {
                state.unfit.insert(key.clone(), looks_at_neighbours(pod));
            }
        }
        Some(choice)
    }

    fn namespaces(&self) -> Namespaces {
        let all = self.namespaces.all().into_iter();
        all.map(|n| (name(&n.metadata).to_owned(), labels(&n.metadata).clone())).collect()
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> Result<Done, Error> {
        let target = ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..Default::default() };
        let metadata = ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        };
        let binding = Binding { metadata, target };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let bound = api.create_subresource::<_, serde_json::Value>("binding", &key.name, &params, &binding).await;
        match bound {
            Ok(_) => {
                let words = format!("Successfully assigned {key} to {node}");
                self.events.normal(pod, "Scheduled", words);
                Ok(Done::Settled)
            }
            Err(error) => {
                lock(&self.state).assumed.remove(key);
                if is_not_found(&error) { Ok(Done::Settled) } else { Err(error) }
            }
        }
    }

    async fn refuse(&self, pod: &Pod, unfit: &Unfit) -> Result<Done, Error> {
        self.events.warning(pod, "FailedScheduling", unfit.message.clone());
        let said = condition(pod, "PodScheduled")
            .is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(&unfit.message));
        if !said && !is_deleted(&pod.metadata) {
            let now = Time(Timestamp::now());
            let scheduled = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": unfit.message, "lastTransitionTime": now});
            let patch = Patch::Strategic(json!({"status": {"conditions": [scheduled]}}));
            let key = Key::of(pod);
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
                Ok(pod) => self.pods.put(pod),
                Err(error) if is_not_found(&error) => return Ok(Done::Settled),
                Err(error) => return Err(error),
            }
        }
        Ok(Done::Again(RETRY))
    }
}

/// Those who look at their neighbours, or all.
fn wake(state: &Mutex<State>, queue: &Queue, which: impl Fn(bool) -> bool) {
    let state = lock(state);
    let woken = state.unfit.iter().filter(|(_, looks)| which(**looks));
    woken.for_each(|(key, _)| queue.add(key.clone()));
}

fn looks_at_neighbours(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| {
        let affinity = s.affinity.as_ref().is_some_and(|a| a.pod_affinity.is_some());
        affinity || s.topology_spread_constraints.as_ref().is_some_and(|c| !c.is_empty())
    })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
