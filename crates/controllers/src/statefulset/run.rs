//! Carries out what [`super::plan`] decides.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::{Pod, PodTemplateSpec},
    },
    jiff::Timestamp,
};
use kube::{Api, Client, Error, api::PostParams};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{Done, Queue},
};

use super::plan::{self, Plan, Revisions};
use crate::{
    Job,
    context::{Context, Reconcile, on_owned, on_self},
    history::{self, History},
    object::{is_already_there, is_deleted, is_namespace_ending, is_not_found, name, namespace},
    pods::{Pods, Words},
};

const IDENTITY: &str = "statefulset-controller";
/// A pod whose name is still taken is tried again after this time; its end brings the set here before.
const NAME_TAKEN: Duration = Duration::from_secs(1);

struct Controller {
    client: Client,
    sets: Arc<Cache<StatefulSet>>,
    history: History,
    pods: Pods,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let client = cx.client(IDENTITY);
    let events = cx.recorder(IDENTITY, IDENTITY);
    let me = Controller {
        sets: cx.cache(),
        history: History { client: client.clone(), cache: cx.cache() },
        pods: Pods { client: client.clone(), cache: cx.cache(), events, words: Words::StatefulSet },
        client,
    };
    on_self(&me.sets, &queue);
    on_owned(&me.pods.cache, &me.sets, &queue);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "statefulset";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(set) = self.sets.get(&key) else { return Ok(Done::Settled) };
        if let Some(why) = plan::refusal(&set).filter(|_| !is_deleted(&set.metadata)) {
            self.pods.events.warning(&*set, "FailedCreate", why);
            return Ok(Done::Settled);
        }
        let Some((current, update)) = self.revisions(&set).await? else { return Ok(Done::Again(Duration::ZERO)) };
        let templates = (template(&set, &current), template(&set, &update));
        let revisions = Revisions {
            current: (name(&current.metadata), &templates.0),
            update: (name(&update.metadata), &templates.1),
        };
        let now = Timestamp::now();
        let pods = |key: &Key| self.pods.cache.namespace(&key.namespace);
        let plan = plan::plan(&set, &pods(&key), revisions, now);
        self.pods.claim(&*set, &plan.adopt, &plan.release).await?;
        let outcome = self.apply(&set, &plan).await;
        let seen = plan::plan(&set, &pods(&key), revisions, now);
        self.write_status(&set, &seen).await?;
        self.forget_old(&set, &seen).await?;
        match outcome {
            Err(error) if is_namespace_ending(&error) => Ok(Done::Settled),
            Err(error) if is_already_there(&error) => Ok(Done::Again(NAME_TAKEN)),
            Err(error) => Err(error),
            Ok(()) => Ok(seen.again.map_or(Done::Settled, Done::Again)),
        }
    }
}

impl Controller {
    /// The revision that pods below a partition have, and the template's own. None: look again.
    async fn revisions(&self, set: &StatefulSet) -> Result<Option<(ControllerRevision, ControllerRevision)>, Error> {
        let owned = self.history.of(&set.metadata);
        let Some(spec) = &set.spec else { return Ok(None) };
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let plan = history::plan(set, &spec.template, collisions, &owned);
        let Some(update) = self.history.write(&plan).await? else {
            let mut status = set.status.clone().unwrap_or_default();
            status.collision_count = Some(collisions.unwrap_or(0) + 1);
            self.write(set, status).await?;
            return Ok(None);
        };
        let known = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = owned.iter().find(|r| Some(name(&r.metadata)) == known).map(|r| (**r).clone());
        Ok(Some((current.unwrap_or_else(|| update.clone()), update)))
    }

    async fn apply(&self, set: &StatefulSet, plan: &Plan) -> Result<(), Error> {
        for pod in &plan.create {
            self.pods.create(set, pod).await?;
        }
        for pod in &plan.delete {
            self.pods.delete(set, pod).await?;
        }
        Ok(())
    }

    async fn write_status(&self, set: &StatefulSet, plan: &Plan) -> Result<(), Error> {
        match set.status.as_ref() == Some(&plan.status) {
            true => Ok(()),
            false => self.write(set, plan.status.clone()).await,
        }
    }

    async fn write(
        &self,
        set: &StatefulSet,
        status: k8s_openapi::api::apps::v1::StatefulSetStatus,
    ) -> Result<(), Error> {
        let new = StatefulSet { status: Some(status), ..set.clone() };
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), namespace(&set.metadata));
        match api.replace_status(name(&set.metadata), &PostParams::default(), &new).await {
            Ok(written) => self.sets.put(written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn forget_old(&self, set: &StatefulSet, plan: &Plan) -> Result<(), Error> {
        let status = &plan.status;
        let keep: Vec<&str> =
            [&status.current_revision, &status.update_revision].into_iter().flatten().map(String::as_str).collect();
        let pods: Vec<Arc<Pod>> = self.pods.cache.namespace(namespace(&set.metadata));
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit);
        self.history.forget(&history::surplus(&self.history.of(&set.metadata), &keep, &pods, limit)).await
    }
}

fn template(set: &StatefulSet, revision: &ControllerRevision) -> PodTemplateSpec {
    let own = || set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    history::template(revision).unwrap_or_else(own)
}
