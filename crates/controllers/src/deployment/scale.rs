//! How many pods each ReplicaSet of a Deployment is to have. Sizes are decided here and written elsewhere.

use std::sync::Arc;

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::revision;
use crate::object::{annotation, resolve};

/// A set with the size that it is to have.
#[derive(Clone, Debug)]
pub(crate) struct Sized {
    pub set: Arc<ReplicaSet>,
    pub size: i32,
}

impl Sized {
    pub(crate) fn of(set: &Arc<ReplicaSet>) -> Self {
        Sized { set: set.clone(), size: size(set) }
    }

    fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }
}

pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
}

pub(crate) fn total(sets: &[Sized]) -> i32 {
    sets.iter().map(|s| s.size).sum()
}

/// The Deployment's numbers with percentages resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub replicas: i32,
    pub surge: i32,
    pub unavailable: i32,
}

impl Limits {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.unwrap_or_default();
        if strategy.type_.as_deref() == Some("Recreate") {
            return Limits { replicas, surge: 0, unavailable: 0 };
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = IntOrString::String("25%".into());
        let surge = resolve(rolling.max_surge.as_ref().unwrap_or(&quarter), replicas, true);
        let unavailable = resolve(rolling.max_unavailable.as_ref().unwrap_or(&quarter), replicas, false);
        // With neither, nothing could ever move.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Limits { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    pub(crate) fn most(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    pub(crate) fn least_available(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// How large the new set may be now.
pub(crate) fn new_size(limits: Limits, new: i32, all: i32) -> i32 {
    let room = limits.most() - all;
    if room <= 0 { new } else { new + room.min(limits.replicas - new).max(0) }
}

/// One step of a rolling update: the new set grows if it may, else old ones shrink as far as availability allows.
pub(crate) fn roll(limits: Limits, new: &mut Sized, old: &mut [Sized]) {
    let all = total(old) + new.size;
    let before = new.size;
    new.size = if new.size > limits.replicas { limits.replicas } else { new_size(limits, new.size, all) };
    if new.size == before {
        shrink(limits, new, old);
    }
}

fn shrink(limits: Limits, new: &Sized, old: &mut [Sized]) {
    let all = total(old) + new.size;
    let new_unavailable = (new.size - new.available()).max(0);
    let spare = all - limits.least_available() - new_unavailable;
    if spare <= 0 {
        return;
    }
    // Pods that serve nobody go first: they cost no availability.
    let mut gone = 0;
    for set in old.iter_mut().filter(|s| s.size > 0) {
        let useless = (set.size - set.available()).clamp(0, spare - gone);
        set.size -= useless;
        gone += useless;
    }
    let available = new.available() + old.iter().map(Sized::available).sum::<i32>();
    let mut surplus = (available - limits.least_available()).max(0);
    for set in old.iter_mut() {
        let step = surplus.min(set.size);
        set.size -= step;
        surplus -= step;
    }
}

/// True when the Deployment's size changed since its sets were last sized.
pub(crate) fn is_scaled(limits: Limits, sets: &[Sized]) -> bool {
    sets.iter().filter(|s| s.size > 0).any(|s| {
        let desired = annotation(&s.set.metadata, revision::DESIRED).and_then(|d| d.parse().ok());
        desired.is_some_and(|d: i32| d != limits.replicas)
    })
}

/// The Deployment was scaled in the middle of a rollout, or while paused: every set gets its share of the change.
pub(crate) fn proportional(limits: Limits, rolling: bool, mut new: Option<&mut Sized>, old: &mut [Sized]) {
    if let Some(only) = single(&mut new, old) {
        only.size = limits.replicas;
        return;
    }
    if new.as_ref().is_some_and(|n| is_saturated(limits, n)) {
        old.iter_mut().for_each(|s| s.size = 0);
        return;
    }
    if !rolling {
        return;
    }
    let mut sets: Vec<&mut Sized> = new.into_iter().chain(old.iter_mut()).filter(|s| s.size > 0).collect();
    let allowed = if limits.replicas > 0 { limits.most() } else { 0 };
    let change = allowed - sets.iter().map(|s| s.size).sum::<i32>();
    // Growth goes to newer sets first, shrinking to older ones; the largest first in either case.
    sets.sort_by_key(|s| s.set.metadata.creation_timestamp.clone());
    if change > 0 {
        sets.reverse();
    }
    sets.sort_by_key(|s| std::cmp::Reverse(s.size));
    let mut done = 0;
    for set in sets.iter_mut() {
        let share = share(limits, set);
        let share = if change > 0 { share.clamp(0, change - done) } else { share.clamp(change - done, 0) };
        set.size += share;
        done += share;
    }
    if let Some(first) = sets.first_mut() {
        first.size = (first.size + change - done).max(0);
    }
}

/// The one set that is active; the newest when none is.
fn single<'a>(new: &'a mut Option<&mut Sized>, old: &'a mut [Sized]) -> Option<&'a mut Sized> {
    let new_active = new.as_ref().is_some_and(|n| n.size > 0);
    let old_active = old.iter().filter(|s| s.size > 0).count();
    match (new_active, old_active) {
        (true, 0) => new.as_deref_mut(),
        (false, 0) => new.as_deref_mut().or(old.last_mut()),
        (false, 1) => old.iter_mut().find(|s| s.size > 0),
        _ => None,
    }
}

fn is_saturated(limits: Limits, new: &Sized) -> bool {
    let desired = annotation(&new.set.metadata, revision::DESIRED).and_then(|d| d.parse::<i32>().ok());
    new.size == limits.replicas && desired == Some(limits.replicas) && new.available() == limits.replicas
}

fn share(limits: Limits, sized: &Sized) -> i32 {
    if limits.replicas == 0 {
        return -sized.size;
    }
    let before = annotation(&sized.set.metadata, revision::MAX).and_then(|m| m.parse::<i64>().ok()).unwrap_or(0);
    if before <= 0 {
        return 0;
    }
    let exact = f64::from(sized.size) * f64::from(limits.most()) / before as f64;
    (exact.round() as i32).saturating_sub(sized.size)
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
