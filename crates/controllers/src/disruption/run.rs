//! Carries out what [`super::plan`] decides.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::Pod,
        policy::v1::PodDisruptionBudget,
    },
    jiff::Timestamp,
};
use kube::{Api, Client, Error, Resource, api::PostParams};
use skiff_client::{
    cache::{Cache, Key, Object},
    events::Recorder,
    reconcile::{Done, Queue},
};

use super::plan::{self, Managed, Plan, Scale};
use crate::{
    Job,
    context::{Context, Reconcile, on_self, owner_key},
    object::{controller_of, is_not_found, name, namespace, uid},
};

const IDENTITY: &str = "disruption-controller";
const COMPONENT: &str = "controllermanager";

struct Controller {
    client: Client,
    events: Recorder,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
    stateful: Arc<Cache<StatefulSet>>,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        events: cx.recorder(IDENTITY, COMPONENT),
        budgets: cx.cache(),
        pods: cx.cache(),
        sets: cx.cache(),
        deployments: cx.cache(),
        stateful: cx.cache(),
    };
    on_self(&me.budgets, &queue);
    on_pods(&me, &queue);
    on_sizes(&me.sets, &me.budgets, &queue, |s| s.spec.as_ref()?.replicas);
    on_sizes(&me.deployments, &me.budgets, &queue, |d| d.spec.as_ref()?.replicas);
    on_sizes(&me.stateful, &me.budgets, &queue, |s| s.spec.as_ref()?.replicas);
    cx.spawn(queue, me)
}

/// A pod concerns the budgets that selected it before or after the change.
fn on_pods(me: &Controller, queue: &Arc<Queue>) {
    let (budgets, queue) = (me.budgets.clone(), queue.clone());
    me.pods.subscribe(move |old, new| {
        let Some(pod) = new.or(old) else { return };
        for budget in budgets.namespace(namespace(&pod.metadata)) {
            if old.into_iter().chain(new).any(|pod| plan::selects(&budget, pod)) {
                queue.add(Key::of(&*budget));
            }
        }
    });
}

/// A size that changes concerns every budget of its namespace: which pods it controls may come to light later.
fn on_sizes<K: Object + Resource<DynamicType = ()>>(
    cache: &Cache<K>,
    budgets: &Arc<Cache<PodDisruptionBudget>>,
    queue: &Arc<Queue>,
    size: impl Fn(&K) -> Option<i32> + Send + Sync + 'static,
) {
    let (budgets, queue) = (budgets.clone(), queue.clone());
    cache.subscribe(move |old, new| {
        let Some(object) = new.or(old) else { return };
        if old.map(|o| size(o)) != new.map(|o| size(o)) {
            budgets.namespace(namespace(object.meta())).iter().for_each(|b| queue.add(Key::of(&**b)));
        }
    });
}

impl Reconcile for Controller {
    const NAME: &'static str = "disruption";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(budget) = self.budgets.get(&key) else { return Ok(Done::Settled) };
        let pods = plan::selected(&budget, self.pods.namespace(&key.namespace));
        if pods.is_empty() {
            self.events.normal(&*budget, "NoPods", "No matching pods found".into());
        }
        let plan = plan::plan(&budget, &pods, |pod| self.managed(pod), Timestamp::now());
        self.tell(&budget, &plan);
        self.write(&budget, &plan).await?;
        Ok(plan.again.map_or(Done::Settled, Done::Again))
    }
}

impl Controller {
    fn tell(&self, budget: &PodDisruptionBudget, plan: &Plan) {
        for pod in &plan.late {
            let (space, name) = (namespace(&budget.metadata), name(&budget.metadata));
            let words = format!("Pod was expected by PDB {space}/{name} to be deleted but it wasn't");
            self.events.warning(&**pod, "NotDeleted", words);
        }
        if let Some(why) = &plan.problem {
            let words = format!("Failed to calculate the number of expected pods: {why}");
            self.events.warning(budget, "CalculateExpectedPodCountFailed", words);
        }
    }

    async fn write(&self, budget: &PodDisruptionBudget, plan: &Plan) -> Result<(), Error> {
        if budget.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let mut new = budget.clone();
        new.status = Some(plan.status.clone());
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), namespace(&budget.metadata));
        match api.replace_status(name(&budget.metadata), &PostParams::default(), &new).await {
            Ok(written) => self.budgets.put(written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A Deployment's size counts, not that of its sets, of which there are two while it rolls.
    fn managed(&self, pod: &Pod) -> Managed {
        let Some(owner) = controller_of(&pod.metadata) else { return Managed::Nobody };
        let size = owner_key::<StatefulSet>(&pod.metadata)
            .and_then(|key| self.stateful.get(&key))
            .map(|s| scale(uid(&s.metadata), s.spec.as_ref().and_then(|s| s.replicas)))
            .or_else(|| self.of_set(&owner_key::<ReplicaSet>(&pod.metadata)?));
        match size {
            Some(size) => Managed::By(size),
            None => Managed::Unknown(format!(
                "found no size of {} {}, which controls pod {}: only Deployments, ReplicaSets and StatefulSets have one; \
                 use a minAvailable that is a number",
                owner.kind,
                owner.name,
                name(&pod.metadata)
            )),
        }
    }

    fn of_set(&self, key: &Key) -> Option<Scale> {
        let set = self.sets.get(key)?;
        let deployment = owner_key::<Deployment>(&set.metadata).and_then(|key| self.deployments.get(&key));
        Some(match deployment {
            Some(d) => scale(uid(&d.metadata), d.spec.as_ref().and_then(|s| s.replicas)),
            None => scale(uid(&set.metadata), set.spec.as_ref().and_then(|s| s.replicas)),
        })
    }
}

fn scale(uid: &str, replicas: Option<i32>) -> Scale {
    Scale { uid: uid.into(), size: replicas.unwrap_or(1) }
}
