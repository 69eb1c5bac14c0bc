//! Which way a Deployment goes from where it is: scale, recreate or roll.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};

use super::{
    revision,
    scale::{self, Limits, Sized},
};
use crate::object::{controller_of, is_over, uid};

/// The sizes to write, and whether the new set must be made first.
#[derive(Debug)]
pub(crate) struct Rollout {
    pub create: Option<i32>,
    pub new: Option<Sized>,
    pub old: Vec<Sized>,
}

pub(crate) fn rollout(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    pods: &[Arc<Pod>],
) -> Rollout {
    let limits = Limits::of(deployment);
    let spec = deployment.spec.clone().unwrap_or_default();
    let recreate = spec.strategy.unwrap_or_default().type_.as_deref() == Some("Recreate");
    let mut plan = Rollout { create: None, new: new.map(Sized::of), old: old.iter().map(Sized::of).collect() };
    let all: Vec<Sized> = plan.new.iter().chain(&plan.old).cloned().collect();
    if spec.paused == Some(true) || scale::is_scaled(limits, &all) {
        scale::proportional(limits, !recreate, plan.new.as_mut(), &mut plan.old);
    } else if recreate {
        plan.recreate(limits, pods, new);
    } else {
        plan.roll(limits);
    }
    plan
}

impl Rollout {
    fn roll(&mut self, limits: Limits) {
        match self.new.as_mut() {
            Some(new) => scale::roll(limits, new, &mut self.old),
            None => self.create = Some(scale::new_size(limits, 0, scale::total(&self.old))),
        }
    }

    /// Everything old ends before anything new starts.
    fn recreate(&mut self, limits: Limits, pods: &[Arc<Pod>], new: Option<&Arc<ReplicaSet>>) {
        let active = self.old.iter().any(|s| s.size > 0);
        self.old.iter_mut().for_each(|s| s.size = 0);
        if active || self.has_old_pods(pods, new) {
            return;
        }
        match self.new.as_mut() {
            Some(new) => new.size = limits.replicas,
            None => self.create = Some(limits.replicas),
        }
    }

    fn has_old_pods(&self, pods: &[Arc<Pod>], new: Option<&Arc<ReplicaSet>>) -> bool {
        let new_uid = new.map(|s| uid(&s.metadata));
        let old_uids: Vec<&str> = self.old.iter().map(|s| uid(&s.set.metadata)).collect();
        pods.iter().filter(|p| !is_over(p)).any(|pod| {
            let owner = controller_of(&pod.metadata).map(|o| o.uid.as_str());
            owner.is_some_and(|o| Some(o) != new_uid && old_uids.contains(&o))
        })
    }
}

/// The annotations by which a set remembers what it was sized for.
pub(crate) fn size_annotations(limits: Limits) -> [(String, String); 2] {
    [(revision::DESIRED.into(), limits.replicas.to_string()), (revision::MAX.into(), limits.most().to_string())]
}
