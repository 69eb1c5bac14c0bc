//! What a Deployment needs next. One step at a time: every write brings an event that makes the next plan.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
        core::v1::Pod,
    },
    jiff::Timestamp,
};

use super::{
    revision,
    rollout::{Rollout, rollout, size_annotations},
    scale::{Limits, Sized, size},
    status,
};
use crate::object::{annotation, controller_of, is_controlled_by, is_deleted, labels, name, selector};

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub create: Option<ReplicaSet>,
    pub update: Vec<Update>,
    pub delete: Vec<Arc<ReplicaSet>>,
    /// The Deployment's revision annotation, when it must change.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub again: Option<Duration>,
}

/// A set as it is to be, and from which size to which it goes.
#[derive(Debug)]
pub(crate) struct Update {
    pub set: ReplicaSet,
    pub from: i32,
    pub to: i32,
}

/// Sets of the namespace that are the Deployment's, that it should adopt, and that it should let go.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pub owned: Vec<Arc<ReplicaSet>>,
    pub adopt: Vec<Arc<ReplicaSet>>,
    pub release: Vec<Arc<ReplicaSet>>,
}

pub(crate) fn claim(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Claim {
    let mut claim = Claim::default();
    let Some(spec) = &deployment.spec else { return claim };
    let matching = selector(&spec.selector);
    for set in sets {
        let matches = matching.matches(labels(&set.metadata));
        let ours = is_controlled_by(&set.metadata, &deployment.metadata);
        match (ours, controller_of(&set.metadata).is_some(), matches) {
            (true, _, true) => claim.owned.push(set.clone()),
            (true, _, false) => claim.release.push(set.clone()),
            (false, false, true) if !is_deleted(&deployment.metadata) && !is_deleted(&set.metadata) => {
                claim.adopt.push(set.clone());
            }
            _ => {}
        }
    }
    claim
}

/// `sets` are the Deployment's own; `pods` are those of the namespace.
pub(crate) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let (new, old) = revision::split(deployment, sets);
    let mut plan = Plan::default();
    if !is_deleted(&deployment.metadata) {
        let rollout = rollout(deployment, new.as_ref(), &old, pods);
        plan.sets(deployment, &rollout, &old);
    }
    let creates = plan.create.as_ref().map(|s| name(&s.metadata));
    let seen = status::Seen { deployment, new: new.as_deref(), old: &old, creates, now };
    plan.status = status::status(&seen);
    if status::is_complete(deployment, &plan.status) || deployment.spec.as_ref().is_some_and(|s| s.paused == Some(true))
    {
        plan.delete = revision::outdated(deployment, &old);
    }
    plan.again = status::deadline(deployment, &plan.status, now);
    plan
}

impl Plan {
    fn sets(&mut self, deployment: &Deployment, rollout: &Rollout, old: &[Arc<ReplicaSet>]) {
        let limits = Limits::of(deployment);
        if let Some(size) = rollout.create {
            let mut set = revision::new_set(deployment);
            set.metadata.annotations = Some(revision::annotations(deployment, None, old));
            self.set_revision(deployment, &set);
            self.create = Some(resized(set, size, limits));
        }
        let paused = deployment.spec.as_ref().is_some_and(|s| s.paused == Some(true));
        if let Some(new) = &rollout.new {
            let mut want = ReplicaSet::clone(&new.set);
            if !paused {
                want.metadata.annotations = Some(revision::annotations(deployment, Some(&new.set), old));
                let seconds = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
                want.spec.get_or_insert_default().min_ready_seconds = seconds;
                self.set_revision(deployment, &want);
            }
            self.update.extend(update(want, new, limits));
        }
        self.update.extend(rollout.old.iter().filter_map(|s| update(ReplicaSet::clone(&s.set), s, limits)));
    }

    fn set_revision(&mut self, deployment: &Deployment, set: &ReplicaSet) {
        let revision = annotation(&set.metadata, revision::REVISION).unwrap_or("");
        if annotation(&deployment.metadata, revision::REVISION) != Some(revision) {
            self.revision = Some(revision.into());
        }
    }
}

/// None when the set is as it should be.
fn update(want: ReplicaSet, sized: &Sized, limits: Limits) -> Option<Update> {
    let active = sized.size > 0 || size(&sized.set) != sized.size;
    let set = if active { resized(want, sized.size, limits) } else { want };
    (set != *sized.set).then(|| Update { from: size(&sized.set), to: sized.size, set })
}

fn resized(mut set: ReplicaSet, size: i32, limits: Limits) -> ReplicaSet {
    set.spec.get_or_insert_default().replicas = Some(size);
    set.metadata.annotations.get_or_insert_default().extend(size_annotations(limits));
    set
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
