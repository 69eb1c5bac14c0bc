//! What a DaemonSet needs next, node by node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetStatus},
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};

use super::pod::{Fit, fit, home, make, node_name};
use crate::{
    history::LABEL as REVISION,
    object::{controller_of, is_controlled_by, is_deleted, is_over, is_ready, labels, ready_since, selector, uid},
};

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    pub status: DaemonSetStatus,
    /// Time alone will change something.
    pub again: Option<Duration>,
}

/// `pods` are those of the namespace; `revision` is the hash of the template as it is now. Pods of nodes that are gone
/// are garbage, which others remove.
pub(crate) fn plan(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], revision: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let owned = claim(set, pods, &mut plan);
    let view = View { set, revision, now, places: places(set, nodes, &owned) };
    if !is_deleted(&set.metadata) {
        view.settle(&mut plan);
        view.roll(&mut plan);
    }
    plan.status = view.status();
    plan.again = view.again();
    plan
}

fn claim(set: &DaemonSet, pods: &[Arc<Pod>], plan: &mut Plan) -> Vec<Arc<Pod>> {
    let matching = set.spec.as_ref().map(|s| selector(&s.selector));
    let mut owned = vec![];
    for pod in pods {
        let matches = matching.as_ref().is_some_and(|m| m.matches(labels(&pod.metadata)));
        let free = || controller_of(&pod.metadata).is_none() && !is_over(pod) && !is_deleted(&pod.metadata);
        match (is_controlled_by(&pod.metadata, &set.metadata), matches) {
            (true, true) => owned.push(pod.clone()),
            (true, false) => plan.release.push(pod.clone()),
            (false, true) if free() && !is_deleted(&set.metadata) => {
                plan.adopt.push(pod.clone());
                owned.push(pod.clone());
            }
            _ => {}
        }
    }
    owned
}

/// A node with the set's pods on it, the oldest first: that one stays when there are two.
struct Place<'a> {
    node: &'a str,
    fit: Fit,
    pods: Vec<&'a Arc<Pod>>,
}

fn places<'a>(set: &DaemonSet, nodes: &'a [Arc<Node>], owned: &'a [Arc<Pod>]) -> Vec<Place<'a>> {
    let mut homes: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in owned {
        homes.entry(home(pod).unwrap_or("")).or_default().push(pod);
    }
    let place = |node: &'a Arc<Node>| {
        let mut pods = homes.remove(node_name(node)).unwrap_or_default();
        pods.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), uid(&p.metadata).to_owned()));
        Place { node: node_name(node), fit: fit(set, node), pods }
    };
    nodes.iter().map(place).collect()
}

struct View<'a> {
    set: &'a DaemonSet,
    revision: &'a str,
    now: Timestamp,
    places: Vec<Place<'a>>,
}

impl<'a> View<'a> {
    /// Makes what is missing, deletes what is too many or has ended.
    fn settle(&self, plan: &mut Plan) {
        for place in &self.places {
            let there = || place.pods.iter().filter(|p| !is_deleted(&p.metadata)).copied();
            match place.fit {
                Fit::No => plan.delete.extend(there().cloned()),
                Fit::Run if place.pods.is_empty() => plan.create.push(make(self.set, place.node, self.revision)),
                Fit::Run | Fit::Stay => {
                    plan.delete.extend(there().filter(|p| is_over(p)).cloned());
                    plan.delete.extend(there().filter(|p| !is_over(p)).skip(1).cloned());
                }
            }
        }
    }

    /// Deletes pods of old templates: those that serve nobody at once, others as far as the limit allows.
    fn roll(&self, plan: &mut Plan) {
        let strategy = self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        if strategy.is_some_and(|s| s.type_.as_deref() == Some("OnDelete")) {
            return;
        }
        let wanted: Vec<&Place> = self.places.iter().filter(|p| p.fit == Fit::Run).collect();
        let limit = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
        let most = unavailable(limit, wanted.len());
        let mut down = wanted.iter().filter(|p| !p.pods.iter().any(|pod| self.is_available(pod))).count();
        for pod in wanted.iter().filter_map(|p| live(p)).filter(|p| self.is_old(p)) {
            if plan.delete.contains(pod) || (self.is_available(pod) && down >= most) {
                continue;
            }
            down += usize::from(self.is_available(pod));
            plan.delete.push(pod.clone());
        }
    }

    fn is_old(&self, pod: &Pod) -> bool {
        labels(&pod.metadata).get(REVISION).is_none_or(|r| r != self.revision)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        !is_deleted(&pod.metadata) && is_ready(pod) && self.wait(pod).is_zero()
    }

    /// How long a ready pod still has to wait until it counts as available.
    fn wait(&self, pod: &Pod) -> Duration {
        let delay = self.set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        let since = ready_since(pod).map_or(0, |s| self.now.as_second().saturating_sub(s.as_second()));
        Duration::from_secs(u64::try_from(i64::from(delay).saturating_sub(since)).unwrap_or(0))
    }

    fn again(&self) -> Option<Duration> {
        let ready = self.places.iter().filter_map(live).filter(|p| is_ready(p));
        ready.map(|p| self.wait(p)).filter(|w| !w.is_zero()).min()
    }

    fn status(&self) -> DaemonSetStatus {
        let count = |test: &dyn Fn(&Place) -> bool| self.places.iter().filter(|p| test(p)).count() as i32;
        let has = |test: &dyn Fn(&Pod) -> bool| {
            let one = |pod: &&Arc<Pod>| !is_deleted(&pod.metadata) && test(pod);
            count(&|p| p.fit == Fit::Run && p.pods.iter().any(one))
        };
        let (desired, available) = (count(&|p| p.fit == Fit::Run), has(&|pod| self.is_available(pod)));
        let some = |n: i32| (n > 0).then_some(n);
        let old = self.set.status.clone().unwrap_or_default();
        DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: has(&|_| true),
            number_misscheduled: count(&|p| p.fit == Fit::No && !p.pods.is_empty()),
            number_ready: has(&is_ready),
            number_available: some(available),
            number_unavailable: some(desired - available),
            updated_number_scheduled: some(has(&|pod| !self.is_old(pod))),
            observed_generation: self.set.metadata.generation,
            collision_count: old.collision_count,
            conditions: old.conditions,
        }
    }
}

fn live<'a>(place: &Place<'a>) -> Option<&'a Arc<Pod>> {
    place.pods.iter().find(|p| !is_deleted(&p.metadata) && !is_over(p)).copied()
}

/// At least one, or nothing would ever change.
fn unavailable(limit: Option<&IntOrString>, nodes: usize) -> usize {
    let number = match limit {
        None => 1,
        Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or(0);
            nodes.saturating_mul(percent).div_ceil(100)
        }
    };
    number.max(1)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
