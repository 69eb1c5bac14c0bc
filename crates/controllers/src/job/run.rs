//! Carries out what [`super::plan`] decides: first the status, then what follows from it.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};

use super::{
    plan::{self, Plan, finished_at},
    pod::{FINALIZER, is_held, make},
};
use crate::{
    Job as Task,
    context::{Context, Reconcile, on_self, owner_key},
    object::{controller_of, is_deleted, is_namespace_ending, is_not_found, name, namespace, uid},
    pods::{Pods, Words},
};

const IDENTITY: &str = "job-controller";
/// Who deletes Jobs whose time is over.
const REAPER: &str = "ttl-after-finished-controller";

struct Controller {
    client: Client,
    reaper: Client,
    jobs: Arc<Cache<Job>>,
    pods: Pods,
    events: Recorder,
}

pub(crate) fn start(cx: &Arc<Context>) -> Task {
    let queue = Queue::new();
    let client = cx.client(IDENTITY);
    let events = cx.recorder(IDENTITY, IDENTITY);
    let me = Controller {
        reaper: cx.client(REAPER),
        jobs: cx.cache(),
        pods: Pods { client: client.clone(), cache: cx.cache(), events: events.clone(), words: Words::Plain },
        client,
        events,
    };
    on_self(&me.jobs, &queue);
    let again = queue.clone();
    me.pods.cache.subscribe(move |old, new| {
        let keys = old.into_iter().chain(new).filter_map(|p| owner_key::<Job>(&p.metadata));
        keys.for_each(|key| again.add(key));
    });
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "job";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let job = self.jobs.get(&key);
        self.let_go_of_orphans(&key, job.as_deref()).await?;
        let Some(job) = job else { return Ok(Done::Settled) };
        if let Some(wait) = time_to_live(&job, Timestamp::now()) {
            return self.reap(&key, &job, wait).await;
        }
        let plan = plan::plan(&job, &self.pods.cache.namespace(&key.namespace), Timestamp::now());
        self.write_status(&job, &plan).await?;
        join_all(plan.release.iter().map(|pod| self.release(pod))).await.into_iter().collect::<Result<(), Error>>()?;
        match self.apply(&job, &plan).await {
            Err(error) if is_namespace_ending(&error) => Ok(Done::Settled),
            Err(error) => Err(error),
            Ok(()) => Ok(plan.again.map_or(Done::Settled, Done::Again)),
        }
    }
}

/// How long a finished Job that may be deleted still stays. Its pods are all counted then.
fn time_to_live(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let waiting = job.status.as_ref()?.uncounted_terminated_pods.clone().unwrap_or_default();
    if waiting != Default::default() || is_deleted(&job.metadata) {
        return None;
    }
    let left = finished_at(job)?.as_second().saturating_add(seconds.into()).saturating_sub(now.as_second());
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

impl Controller {
    /// Pods of a Job that is gone, or of another one of its name, wait for nobody.
    async fn let_go_of_orphans(&self, key: &Key, job: Option<&Job>) -> Result<(), Error> {
        let own = job.map(|j| uid(&j.metadata));
        for pod in self.pods.cache.namespace(&key.namespace) {
            let owner = controller_of(&pod.metadata).filter(|_| owner_key::<Job>(&pod.metadata).as_ref() == Some(key));
            if is_held(&pod) && owner.is_some_and(|o| Some(o.uid.as_str()) != own) {
                self.release(&pod).await?;
            }
        }
        Ok(())
    }

    async fn write_status(&self, job: &Job, plan: &Plan) -> Result<(), Error> {
        if job.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let new = Job { status: Some(plan.status.clone()), ..job.clone() };
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace(&job.metadata));
        match api.replace_status(name(&job.metadata), &PostParams::default(), &new).await {
            Ok(written) => self.jobs.put(written),
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        match plan.say {
            Some((reason @ ("Completed" | "Suspended"), words)) => self.events.normal(job, reason, words.into()),
            Some((reason, words)) => self.events.warning(job, reason, words.into()),
            None => {}
        }
        Ok(())
    }

    async fn apply(&self, job: &Job, plan: &Plan) -> Result<(), Error> {
        let deleted = join_all(plan.delete.iter().map(|pod| self.pods.delete(job, pod))).await;
        let pods: Vec<Pod> = plan.create.iter().map(|index| make(job, *index)).collect();
        let made = join_all(pods.iter().map(|pod| self.pods.create(job, pod))).await;
        deleted.into_iter().chain(made.into_iter().map(|m| m.map(drop))).collect()
    }

    /// Takes the finalizer off.
    async fn release(&self, pod: &Pod) -> Result<(), Error> {
        let gone = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&pod.metadata));
        match api.patch(name(&pod.metadata), &PatchParams::default(), &Patch::Strategic(gone)).await {
            // A deleted pod goes with its last finalizer: its end comes by the watch.
            Ok(written) if is_deleted(&written.metadata) => Ok(()),
            Ok(written) => {
                self.pods.cache.put(written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn reap(&self, key: &Key, job: &Job, wait: Duration) -> Result<Done, Error> {
        if !wait.is_zero() {
            return Ok(Done::Again(wait));
        }
        let same = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::foreground() };
        let api: Api<Job> = Api::namespaced(self.reaper.clone(), &key.namespace);
        match api.delete(&key.name, &params).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(Done::Settled),
        }
    }
}
