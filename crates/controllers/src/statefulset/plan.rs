//! What a StatefulSet needs next. With OrderedReady one pod at a time: the next is touched when those before it are ready.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus},
        core::v1::{Pod, PodTemplateSpec},
    },
    jiff::Timestamp,
};

use super::pod::{make, ordinal};
use crate::{
    history::LABEL as REVISION,
    object::{
        controller_of, is_controlled_by, is_deleted, is_over, is_ready, labels, name, phase, ready_since, selector,
    },
};

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    pub status: StatefulSetStatus,
    /// Time alone will change something.
    pub again: Option<Duration>,
}

/// The templates that pods are made of, with the names of their revisions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Revisions<'a> {
    pub current: (&'a str, &'a PodTemplateSpec),
    pub update: (&'a str, &'a PodTemplateSpec),
}

/// `pods` are those of the namespace.
pub(crate) fn plan(set: &StatefulSet, pods: &[Arc<Pod>], revisions: Revisions<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let owned = claim(set, pods, &mut plan);
    let view = View::new(set, spec, owned, now);
    if !is_deleted(&set.metadata) {
        view.act(revisions, &mut plan);
    }
    plan.status = view.status(revisions);
    plan.again = view.again();
    plan
}

fn claim(set: &StatefulSet, pods: &[Arc<Pod>], plan: &mut Plan) -> Vec<Arc<Pod>> {
    let matching = set.spec.as_ref().map(|s| selector(&s.selector));
    let mut owned = vec![];
    for pod in pods.iter().filter(|p| ordinal(set, p).is_some()) {
        let matches = matching.as_ref().is_some_and(|m| m.matches(labels(&pod.metadata)));
        let mine = is_controlled_by(&pod.metadata, &set.metadata);
        match (mine, matches) {
            (true, true) => owned.push(pod.clone()),
            (true, false) => plan.release.push(pod.clone()),
            (false, true) if controller_of(&pod.metadata).is_none() && !is_deleted(&set.metadata) => {
                plan.adopt.push(pod.clone());
                owned.push(pod.clone());
            }
            _ => {}
        }
    }
    owned
}

struct View<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    now: Timestamp,
    /// Those that are wanted, by ordinal.
    wanted: BTreeMap<i32, Option<Arc<Pod>>>,
    /// Those that are too many, by ordinal.
    condemned: BTreeMap<i32, Arc<Pod>>,
}

impl<'a> View<'a> {
    fn new(set: &'a StatefulSet, spec: &'a StatefulSetSpec, owned: Vec<Arc<Pod>>, now: Timestamp) -> Self {
        let start = start(spec);
        let ordinals = start..start.saturating_add(spec.replicas.unwrap_or(1).max(0));
        let mut wanted: BTreeMap<i32, Option<Arc<Pod>>> = ordinals.map(|n| (n, None)).collect();
        let mut condemned = BTreeMap::new();
        for pod in owned {
            let Some(number) = ordinal(set, &pod) else { continue };
            match wanted.get_mut(&number) {
                Some(place) => *place = Some(pod),
                None => drop(condemned.insert(number, pod)),
            }
        }
        View { set, spec, now, wanted, condemned }
    }

    fn in_order(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn rolls(&self) -> bool {
        self.spec.update_strategy.as_ref().is_none_or(|s| s.type_.as_deref() != Some("OnDelete"))
    }

    /// Ordinals from here on have the newest template.
    fn first_updated(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        start(self.spec) + rolling.and_then(|r| r.partition).unwrap_or(0)
    }

    fn act(&self, revisions: Revisions<'_>, plan: &mut Plan) {
        if self.fill(revisions, plan) && self.shrink(plan) && self.rolls() {
            self.roll(revisions.update.0, plan);
        }
    }

    /// Makes what is missing, from the lowest on. False: wait before anything else is done.
    fn fill(&self, revisions: Revisions<'_>, plan: &mut Plan) -> bool {
        for (number, pod) in &self.wanted {
            let settled = match pod {
                None => {
                    let old = self.rolls() && *number < self.first_updated();
                    let (revision, template) = if old { revisions.current } else { revisions.update };
                    plan.create.push(make(self.set, template, revision, *number));
                    false
                }
                Some(pod) if is_over(pod) && !is_deleted(&pod.metadata) => {
                    plan.delete.push(pod.clone());
                    false
                }
                Some(pod) => !is_deleted(&pod.metadata) && self.is_available(pod),
            };
            if !settled && self.in_order() {
                return false;
            }
        }
        true
    }

    /// Deletes what is too many, from the highest on.
    fn shrink(&self, plan: &mut Plan) -> bool {
        for pod in self.condemned.values().rev() {
            if !is_deleted(&pod.metadata) {
                plan.delete.push(pod.clone());
            }
            if self.in_order() {
                return false;
            }
        }
        true
    }

    /// Deletes the highest pod with an old template once all above it are healthy.
    fn roll(&self, update: &str, plan: &mut Plan) {
        for (_, pod) in self.wanted.range(self.first_updated()..).rev() {
            let Some(pod) = pod else { return };
            if revision(pod) != update && !is_deleted(&pod.metadata) {
                plan.delete.push(pod.clone());
                return;
            }
            if is_deleted(&pod.metadata) || !is_running_and_ready(pod) {
                return;
            }
        }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && self.wait(pod).is_zero()
    }

    /// How long a ready pod still has to wait until it counts as available.
    fn wait(&self, pod: &Pod) -> Duration {
        let delay = Duration::from_secs(u64::try_from(self.spec.min_ready_seconds.unwrap_or(0)).unwrap_or(0));
        let since = ready_since(pod).map_or(0, |s| self.now.as_second().saturating_sub(s.as_second()));
        delay.saturating_sub(Duration::from_secs(u64::try_from(since).unwrap_or(0)))
    }

    fn again(&self) -> Option<Duration> {
        let ready = self.wanted.values().flatten().filter(|p| is_running_and_ready(p));
        ready.map(|p| self.wait(p)).filter(|w| !w.is_zero()).min()
    }

    fn status(&self, revisions: Revisions<'_>) -> StatefulSetStatus {
        let all: Vec<&Arc<Pod>> = self.wanted.values().flatten().chain(self.condemned.values()).collect();
        let count = |test: &dyn Fn(&Pod) -> bool| all.iter().filter(|p| test(p)).count() as i32;
        let of = |name: &str| count(&|p| !is_deleted(&p.metadata) && revision(p) == name);
        let old = self.set.status.clone().unwrap_or_default();
        let (replicas, ready) = (count(&|_| true), count(&is_running_and_ready));
        let updated = of(revisions.update.0);
        let wanted = self.wanted.len() as i32;
        let complete = self.rolls() && [updated, ready, replicas].iter().all(|n| *n == wanted);
        let current = if complete { revisions.update.0 } else { revisions.current.0 };
        let some = |n: i32| (n > 0).then_some(n);
        StatefulSetStatus {
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(count(&|p| self.is_available(p))),
            current_replicas: some(of(current)),
            updated_replicas: some(updated),
            current_revision: Some(current.into()),
            update_revision: Some(revisions.update.0.into()),
            observed_generation: self.set.metadata.generation,
            collision_count: old.collision_count.or(Some(0)),
            conditions: old.conditions,
        }
    }
}

pub(crate) fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
}

fn revision(pod: &Pod) -> &str {
    labels(&pod.metadata).get(REVISION).map_or("", String::as_str)
}

fn is_running_and_ready(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod)
}

/// Why no pod of the set can be made here; for its owner to read.
pub(crate) fn refusal(set: &StatefulSet) -> Option<String> {
    let claims = set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default();
    (!claims.is_empty()).then(|| {
        format!(
            "create Pod {0}-0 in StatefulSet {0} failed error: volumeClaimTemplates need persistent volumes, which this \
             cluster does not have; use an emptyDir or hostPath volume in the pod template",
            name(&set.metadata)
        )
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
