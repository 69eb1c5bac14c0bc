//! What a ReplicaSet needs next.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::rank::victims;
use crate::object::{controller_of, is_active, is_controlled_by, is_deleted, is_ready, labels, ready_since, selector};

/// At most so many pods are made or deleted in one go.
const BURST: usize = 500;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Pods that match and have no controller.
    pub adopt: Vec<Arc<Pod>>,
    /// Pods of ours that no longer match.
    pub release: Vec<Arc<Pod>>,
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
    /// Our active pods, those adopted included.
    pub owned: Vec<Arc<Pod>>,
}

/// `pods` are those of the namespace.
pub(crate) fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = claim(set, pods);
    if is_deleted(&set.metadata) {
        plan.adopt.clear();
        return plan;
    }
    let have = plan.owned.len();
    let want = replicas(set);
    if have < want {
        plan.create = (want - have).min(BURST);
    } else if have > want {
        let related = related(set, pods);
        plan.delete = victims(&plan.owned, &related, (have - want).min(BURST), now);
    }
    plan
}

pub(crate) fn replicas(set: &ReplicaSet) -> usize {
    let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    usize::try_from(wanted).unwrap_or(0)
}

fn claim(set: &ReplicaSet, pods: &[Arc<Pod>]) -> Plan {
    let matching = set.spec.as_ref().map(|s| selector(&s.selector));
    let mut plan = Plan::default();
    for pod in pods.iter().filter(|p| is_active(p)) {
        let matches = matching.as_ref().is_some_and(|m| m.matches(labels(&pod.metadata)));
        match (controller_of(&pod.metadata), matches) {
            (Some(_), true) if is_controlled_by(&pod.metadata, &set.metadata) => plan.owned.push(pod.clone()),
            (Some(_), false) if is_controlled_by(&pod.metadata, &set.metadata) => plan.release.push(pod.clone()),
            (None, true) if !is_deleted(&set.metadata) => {
                plan.adopt.push(pod.clone());
                plan.owned.push(pod.clone());
            }
            _ => {}
        }
    }
    plan
}

/// Active pods of all sets of the same Deployment: its sets' selectors differ in the template hash only.
fn related(set: &ReplicaSet, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let Some(spec) = &set.spec else { return vec![] };
    let mut wide = spec.selector.clone();
    if let Some(exact) = wide.match_labels.as_mut() {
        exact.remove(crate::deployment::hash::LABEL);
    }
    let wide = selector(&wide);
    pods.iter().filter(|p| is_active(p) && wide.matches(labels(&p.metadata))).cloned().collect()
}

/// Why pods could not be made or deleted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub reason: &'static str,
    pub message: String,
}

/// The status after looking at `owned`, and when time alone will change it.
pub(crate) fn status(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).map(labels).cloned().unwrap_or_default();
    let delay = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0) as u64);
    let waits: Vec<Duration> = owned.iter().filter_map(|p| wait_until_available(p, delay, now)).collect();
    let count = |n: usize| (n > 0).then_some(n as i32);
    let labelled = |p: &Arc<Pod>| template.iter().all(|(k, v)| labels(&p.metadata).get(k) == Some(v));
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: owned.len() as i32,
        fully_labeled_replicas: count(owned.iter().filter(|p| labelled(p)).count()),
        ready_replicas: count(owned.iter().filter(|p| is_ready(p)).count()),
        available_replicas: count(waits.iter().filter(|w| w.is_zero()).count()),
        observed_generation: set.metadata.generation,
        conditions: conditions(old.conditions, failure, now),
        terminating_replicas: old.terminating_replicas,
    };
    (status, waits.into_iter().filter(|w| !w.is_zero()).min())
}

/// Zero: available. None: not ready.
fn wait_until_available(pod: &Pod, delay: Duration, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if delay.is_zero() {
        return Some(delay);
    }
    let for_seconds = now.as_second().saturating_sub(ready_since(pod)?.as_second()).max(0) as u64;
    Some(delay.saturating_sub(Duration::from_secs(for_seconds)))
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut all = old.unwrap_or_default();
    let before = all.iter().position(|c| c.type_ == "ReplicaFailure");
    match (failure, before) {
        (None, Some(at)) => drop(all.remove(at)),
        (Some(f), Some(at)) if all[at].reason.as_deref() == Some(f.reason) => {}
        (Some(f), at) => {
            at.map(|at| all.remove(at));
            all.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(f.reason.into()),
                message: Some(f.message.clone()),
                last_transition_time: Some(Time(now)),
            });
        }
        (None, None) => {}
    }
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
