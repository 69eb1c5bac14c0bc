//! Carries out what [`super::plan`] decides.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetStatus},
        core::v1::Node,
    },
    jiff::Timestamp,
};
use kube::{Api, Client, Error, api::PostParams};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{Done, Queue},
};

use super::plan::{self, Plan};
use crate::{
    Job,
    context::{Context, Reconcile, on_owned, on_self},
    history::{self, History, LABEL as REVISION},
    object::{is_namespace_ending, is_not_found, labels, name, namespace},
    pods::{Pods, Words},
};

const IDENTITY: &str = "daemon-set-controller";

struct Controller {
    client: Client,
    sets: Arc<Cache<DaemonSet>>,
    nodes: Arc<Cache<Node>>,
    history: History,
    pods: Pods,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let client = cx.client(IDENTITY);
    let events = cx.recorder(IDENTITY, "daemonset-controller");
    let me = Controller {
        sets: cx.cache(),
        nodes: cx.cache(),
        history: History { client: client.clone(), cache: cx.cache() },
        pods: Pods { client: client.clone(), cache: cx.cache(), events, words: Words::Plain },
        client,
    };
    on_self(&me.sets, &queue);
    on_owned(&me.pods.cache, &me.sets, &queue);
    me.on_nodes(&queue);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "daemonset";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(set) = self.sets.get(&key) else { return Ok(Done::Settled) };
        let Some(revision) = self.revision(&set).await? else { return Ok(Done::Again(Duration::ZERO)) };
        let now = Timestamp::now();
        let plan = || plan::plan(&set, &self.nodes.all(), &self.pods.cache.namespace(&key.namespace), &revision, now);
        let first = plan();
        self.pods.claim(&*set, &first.adopt, &first.release).await?;
        let outcome = self.apply(&set, &first).await;
        let seen = plan();
        self.write_status(&set, seen.status).await?;
        self.forget_old(&set, &revision).await?;
        match outcome {
            Err(error) if is_namespace_ending(&error) => Ok(Done::Settled),
            Err(error) => Err(error),
            Ok(()) => Ok(seen.again.map_or(Done::Settled, Done::Again)),
        }
    }
}

impl Controller {
    /// Labels and taints decide where daemons run; what else a node reports does not.
    fn on_nodes(&self, queue: &Arc<Queue>) {
        let (queue, sets) = (queue.clone(), self.sets.clone());
        self.nodes.subscribe(move |old, new| {
            let decides = |n: Option<&Arc<Node>>| n.map(|n| (n.metadata.labels.clone(), n.spec.clone()));
            if decides(old) != decides(new) {
                sets.all().iter().for_each(|s| queue.add(Key::of(&**s)));
            }
        });
    }

    /// The hash of the template as it is now. None: look again.
    async fn revision(&self, set: &DaemonSet) -> Result<Option<String>, Error> {
        let Some(spec) = &set.spec else { return Ok(None) };
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let plan = history::plan(set, &spec.template, collisions, &self.history.of(&set.metadata));
        let Some(update) = self.history.write(&plan).await? else {
            let mut status = set.status.clone().unwrap_or_default();
            status.collision_count = Some(collisions.unwrap_or(0) + 1);
            self.write_status(set, status).await?;
            return Ok(None);
        };
        Ok(labels(&update.metadata).get(REVISION).cloned())
    }

    async fn apply(&self, set: &DaemonSet, plan: &Plan) -> Result<(), Error> {
        let deleted = join_all(plan.delete.iter().map(|pod| self.pods.delete(set, pod))).await;
        let made = join_all(plan.create.iter().map(|pod| self.pods.create(set, pod))).await;
        deleted.into_iter().chain(made.into_iter().map(|m| m.map(drop))).collect()
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let new = DaemonSet { status: Some(status), ..set.clone() };
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), namespace(&set.metadata));
        match api.replace_status(name(&set.metadata), &PostParams::default(), &new).await {
            Ok(written) => self.sets.put(written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn forget_old(&self, set: &DaemonSet, revision: &str) -> Result<(), Error> {
        let pods = self.pods.cache.namespace(namespace(&set.metadata));
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit);
        self.history.forget(&history::surplus(&self.history.of(&set.metadata), &[revision], &pods, limit)).await
    }
}
