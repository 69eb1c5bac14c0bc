//! Carries out what [`super::plan`] decides.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
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
    hash,
    plan::{self, Claim, Plan, Update},
    revision,
};
use crate::{
    Job,
    context::{Context, Reconcile, on_owned, on_self, owner_key},
    object::{
        controller_ref, is_already_there, is_controlled_by, is_namespace_ending, is_not_found, name, namespace, uid,
    },
    replicaset::run::text,
};

const IDENTITY: &str = "deployment-controller";

struct Controller {
    client: Client,
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
    events: Recorder,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        deployments: cx.cache(),
        sets: cx.cache(),
        pods: cx.cache(),
        events: cx.recorder(IDENTITY, IDENTITY),
    };
    on_self(&me.deployments, &queue);
    on_owned(&me.sets, &me.deployments, &queue);
    me.on_pods(&queue);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "deployment";
    const PARALLEL: usize = 8;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(Done::Settled) };
        let claim = plan::claim(&deployment, &self.sets.namespace(&key.namespace));
        if self.claim(&deployment, &claim).await? {
            // The adopted and the released come back as events; plan from what they say.
            return Ok(Done::Settled);
        }
        let now = Timestamp::now();
        let plan = plan::plan(&deployment, &claim.owned, &self.pods.namespace(&key.namespace), now);
        match self.apply(&deployment, &plan).await {
            Ok(()) => {}
            Err(error) if is_namespace_ending(&error) => return Ok(Done::Settled),
            Err(error) => return Err(error),
        }
        self.write_deployment(&deployment, &plan).await?;
        Ok(plan.again.map_or(Done::Settled, Done::Again))
    }
}

impl Controller {
    /// Only a Deployment of type Recreate looks at pods: it waits for the last old one to end.
    fn on_pods(&self, queue: &Arc<Queue>) {
        let (queue, deployments, sets) = (queue.clone(), self.deployments.clone(), self.sets.clone());
        self.pods.subscribe(move |old, new| {
            let Some(pod) = old.or(new) else { return };
            let key = recreate_owner(&deployments, &sets, pod);
            key.into_iter().for_each(|key| queue.add(key));
        });
    }

    async fn claim(&self, deployment: &Deployment, claim: &Claim) -> Result<bool, Error> {
        let api = self.sets_of(deployment);
        for set in &claim.adopt {
            let patch = json!({"metadata": {"ownerReferences": [controller_ref(deployment)], "uid": set.metadata.uid}});
            let patch = Patch::Strategic(patch);
            self.sets.put(api.patch(name(&set.metadata), &PatchParams::default(), &patch).await?);
        }
        for set in &claim.release {
            let gone = json!([{"$patch": "delete", "uid": uid(&deployment.metadata)}]);
            let patch = Patch::Strategic(json!({"metadata": {"ownerReferences": gone, "uid": set.metadata.uid}}));
            self.sets.put(api.patch(name(&set.metadata), &PatchParams::default(), &patch).await?);
        }
        Ok(!claim.adopt.is_empty() || !claim.release.is_empty())
    }

    async fn apply(&self, deployment: &Deployment, plan: &Plan) -> Result<(), Error> {
        if let Some(set) = &plan.create {
            self.create(deployment, set).await?;
        }
        for update in &plan.update {
            self.update(deployment, update).await?;
        }
        for set in &plan.delete {
            let same = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..Default::default() };
            match self.sets_of(deployment).delete(name(&set.metadata), &params).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => self.sets.remove(&Key::of(&**set), uid(&set.metadata)),
            }
        }
        Ok(())
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        match self.sets_of(deployment).create(&PostParams::default(), set).await {
            Ok(made) => {
                self.say_scaled(deployment, name(&made.metadata), 0, crate::deployment::scale::size(&made));
                self.sets.put(made);
                Ok(())
            }
            Err(error) if is_already_there(&error) => self.collide(deployment, set).await,
            Err(error) => {
                if !is_namespace_ending(&error) {
                    let message =
                        format!("Failed to create new replica set {:?}: {}", name(&set.metadata), text(&error));
                    self.events.warning(deployment, "ReplicaSetCreateError", message);
                }
                Err(error)
            }
        }
    }

    /// The name is taken: by our own set that the cache does not show yet, or by a stranger whose hash is the same.
    async fn collide(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        let there = self.sets_of(deployment).get(name(&set.metadata)).await?;
        let template = |s: &ReplicaSet| s.spec.as_ref().and_then(|s| s.template.as_ref()).map(hash::without_hash);
        if is_controlled_by(&there.metadata, &deployment.metadata) && template(&there) == template(set) {
            self.sets.put(there);
            return Ok(());
        }
        let mut counted = deployment.clone();
        let status = counted.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        let api = self.api(deployment);
        let written = api.replace_status(name(&deployment.metadata), &PostParams::default(), &counted).await?;
        self.deployments.put(written);
        let words = format!("name {:?} is taken by another ReplicaSet; trying another hash", name(&set.metadata));
        Err(Error::Service(words.into()))
    }

    async fn update(&self, deployment: &Deployment, update: &Update) -> Result<(), Error> {
        let name = name(&update.set.metadata);
        let written = self.sets_of(deployment).replace(name, &PostParams::default(), &update.set).await?;
        self.say_scaled(deployment, name, update.from, update.to);
        self.sets.put(written);
        Ok(())
    }

    fn say_scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let way = match from.cmp(&to) {
            std::cmp::Ordering::Less => "up",
            std::cmp::Ordering::Greater => "down",
            std::cmp::Ordering::Equal => return,
        };
        let message = format!("Scaled {way} replica set {set} from {from} to {to}");
        self.events.normal(deployment, "ScalingReplicaSet", message);
    }

    async fn write_deployment(&self, deployment: &Deployment, plan: &Plan) -> Result<(), Error> {
        let api = self.api(deployment);
        let name = name(&deployment.metadata);
        let mut current = deployment.clone();
        if let Some(revision) = &plan.revision {
            let annotations = current.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.into(), revision.clone());
            current = api.replace(name, &PostParams::default(), &current).await?;
            self.deployments.put(current.clone());
        }
        if current.status.as_ref() != Some(&plan.status) {
            current.status = Some(plan.status.clone());
            self.deployments.put(api.replace_status(name, &PostParams::default(), &current).await?);
        }
        Ok(())
    }

    fn api(&self, deployment: &Deployment) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), namespace(&deployment.metadata))
    }

    fn sets_of(&self, deployment: &Deployment) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), namespace(&deployment.metadata))
    }
}

fn recreate_owner(deployments: &Cache<Deployment>, sets: &Cache<ReplicaSet>, pod: &Pod) -> Option<Key> {
    let set = sets.get(&owner_key::<ReplicaSet>(&pod.metadata)?)?;
    let key = owner_key::<Deployment>(&set.metadata)?;
    let deployment = deployments.get(&key)?;
    let strategy = deployment.spec.as_ref()?.strategy.as_ref()?;
    (strategy.type_.as_deref() == Some("Recreate")).then_some(key)
}
