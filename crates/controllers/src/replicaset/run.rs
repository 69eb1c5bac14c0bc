//! Carries out what [`super::plan`] decides.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{Api, Client, Error, api::PostParams};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{Done, Queue},
};

use super::plan::{self, Failure, Plan};
use crate::{
    Job,
    context::{Context, Reconcile, on_owned, on_self},
    object::{self, controller_ref, is_namespace_ending, is_not_found, name, namespace},
    pods::{Pods, Words},
};

const IDENTITY: &str = "replicaset-controller";
/// Creations begin with one pod and double, so that a pod that cannot be made is not tried hundreds of times.
const FIRST_BATCH: usize = 1;

struct Controller {
    client: Client,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Pods,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let client = cx.client(IDENTITY);
    let events = cx.recorder(IDENTITY, IDENTITY);
    let me = Controller {
        sets: cx.cache(),
        pods: Pods { client: client.clone(), cache: cx.cache(), events, words: Words::Plain },
        client,
    };
    on_self(&me.sets, &queue);
    on_owned(&me.pods.cache, &me.sets, &queue);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "replicaset";
    const PARALLEL: usize = 8;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(set) = self.sets.get(&key) else { return Ok(Done::Settled) };
        let now = Timestamp::now();
        let plan = plan::plan(&set, &self.pods.cache.namespace(&key.namespace), now);
        self.pods.claim(&*set, &plan.adopt, &plan.release).await?;
        let outcome = self.apply(&set, &plan).await;
        if let Err(error) = &outcome
            && is_namespace_ending(error)
        {
            return Ok(Done::Settled);
        }
        let failure = outcome.as_ref().err().map(|e| failure(&plan, e));
        let seen = plan::plan(&set, &self.pods.cache.namespace(&key.namespace), now).owned;
        let wait = self.write_status(&set, &seen, failure.as_ref(), now).await?;
        outcome.map(|()| wait)
    }
}

impl Controller {
    async fn apply(&self, set: &ReplicaSet, plan: &Plan) -> Result<(), Error> {
        let (mut left, mut batch) = (plan.create, FIRST_BATCH);
        while left > 0 {
            let made = join_all((0..batch.min(left)).map(|_| self.create(set))).await;
            made.into_iter().collect::<Result<(), Error>>()?;
            left -= batch.min(left);
            batch *= 2;
        }
        let deleted = join_all(plan.delete.iter().map(|pod| self.pods.delete(set, pod))).await;
        deleted.into_iter().collect()
    }

    async fn create(&self, set: &ReplicaSet) -> Result<(), Error> {
        let template = set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
        let pod = object::pod_from(&template, &set.metadata, controller_ref(set));
        self.pods.create(set, &pod).await.map(drop)
    }

    async fn write_status(
        &self,
        set: &ReplicaSet,
        owned: &[Arc<Pod>],
        failure: Option<&Failure>,
        now: Timestamp,
    ) -> Result<Done, Error> {
        let (status, wait) = plan::status(set, owned, failure, now);
        if set.status.as_ref() != Some(&status) {
            let mut new = set.clone();
            new.status = Some(status);
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace(&set.metadata));
            match api.replace_status(name(&set.metadata), &PostParams::default(), &new).await {
                Ok(written) => self.sets.put(written),
                Err(error) if is_not_found(&error) => return Ok(Done::Settled),
                Err(error) => return Err(error),
            }
        }
        Ok(wait.map_or(Done::Settled, Done::Again))
    }
}

fn failure(plan: &Plan, error: &Error) -> Failure {
    let reason = if plan.create > 0 { "FailedCreate" } else { "FailedDelete" };
    Failure { reason, message: text(error) }
}

/// The server's own words where there are any.
pub(crate) fn text(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}
