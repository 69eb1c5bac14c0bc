//! A Deployment's status: its counts, and the conditions that `kubectl rollout status` reads.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::scale::{Limits, size};
use crate::object::name;

const PROGRESSING: &str = "Progressing";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// What a sync saw and did, as far as the status speaks of it.
pub(crate) struct Seen<'a> {
    pub deployment: &'a Deployment,
    pub new: Option<&'a ReplicaSet>,
    pub old: &'a [Arc<ReplicaSet>],
    /// The new set is being made by this sync.
    pub creates: Option<&'a str>,
    pub now: Timestamp,
}

pub(crate) fn status(seen: &Seen) -> DeploymentStatus {
    let limits = Limits::of(seen.deployment);
    let before = seen.deployment.status.clone().unwrap_or_default();
    let mut status = counts(seen);
    status.collision_count = before.collision_count;
    let mut conditions = before.conditions.clone().unwrap_or_default();
    set(&mut conditions, available(&status, limits), seen.now);
    match progressing(seen, &before, &status, &conditions) {
        Progress::Keep => {}
        Progress::Remove => conditions.retain(|c| c.type_ != PROGRESSING),
        Progress::Set(condition) => set(&mut conditions, condition, seen.now),
        Progress::Refresh(mut condition) => {
            // Progress renews the time from which the deadline counts.
            let same = conditions.iter().find(|c| c.type_ == PROGRESSING && c.status == condition.status);
            condition.last_transition_time = same.and_then(|c| c.last_transition_time.clone());
            conditions.retain(|c| c.type_ != PROGRESSING);
            let since = condition.last_transition_time.take();
            set(&mut conditions, condition, seen.now);
            if let (Some(since), Some(last)) = (since, conditions.last_mut()) {
                last.last_transition_time = Some(since);
            }
        }
    }
    failures(seen, &mut conditions);
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    status
}

/// When time alone will change the status: the progress deadline.
pub(crate) fn deadline(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let limit = deadline_seconds(deployment)?;
    let current = find(status.conditions.as_deref().unwrap_or_default())?;
    if is_complete(deployment, status) || matches!(current.reason.as_deref(), Some(TIMED_OUT | PAUSED)) {
        return None;
    }
    let end = current.last_update_time.as_ref()?.0.as_second() + limit + 1;
    Some(Duration::from_secs(u64::try_from(end - now.as_second()).unwrap_or(0).max(1)))
}

fn counts(seen: &Seen) -> DeploymentStatus {
    let all = || seen.old.iter().map(Arc::as_ref).chain(seen.new);
    let sum = |f: fn(&ReplicaSet) -> i32| all().map(f).sum::<i32>();
    let some = |n: i32| (n > 0).then_some(n);
    let available = sum(|s| s.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0));
    DeploymentStatus {
        observed_generation: seen.deployment.metadata.generation,
        replicas: some(sum(|s| s.status.as_ref().map_or(0, |s| s.replicas))),
        updated_replicas: some(seen.new.and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas)),
        ready_replicas: some(sum(|s| s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(sum(size) - available),
        ..Default::default()
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        ..Default::default()
    }
}

fn available(status: &DeploymentStatus, limits: Limits) -> DeploymentCondition {
    if status.available_replicas.unwrap_or(0) >= limits.least_available() {
        let message = "Deployment has minimum availability.";
        condition("Available", "True", "MinimumReplicasAvailable", message.into())
    } else {
        let message = "Deployment does not have minimum availability.";
        condition("Available", "False", "MinimumReplicasUnavailable", message.into())
    }
}

enum Progress {
    Keep,
    Remove,
    Set(DeploymentCondition),
    Refresh(DeploymentCondition),
}

fn progressing(
    seen: &Seen,
    before: &DeploymentStatus,
    after: &DeploymentStatus,
    conditions: &[DeploymentCondition],
) -> Progress {
    let current = find(conditions);
    let reason = current.and_then(|c| c.reason.as_deref());
    let say = |status: &str, reason: &str, message: String| condition(PROGRESSING, status, reason, message);
    let spec = seen.deployment.spec.clone().unwrap_or_default();
    let Some(limit) = deadline_seconds(seen.deployment) else { return Progress::Remove };
    match (spec.paused == Some(true), reason) {
        (true, Some(PAUSED | TIMED_OUT)) => return Progress::Keep,
        (true, _) => return Progress::Set(say("Unknown", PAUSED, "Deployment is paused".into())),
        (false, Some(PAUSED)) => {
            return Progress::Set(say("Unknown", "DeploymentResumed", "Deployment is resumed".into()));
        }
        (false, _) => {}
    }
    if let Some(name) = seen.creates {
        return Progress::Refresh(say("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\"")));
    }
    let set = seen.new.map_or(String::new(), |s| name(&s.metadata).to_string());
    let subject = if set.is_empty() {
        format!("Deployment \"{}\"", name(&seen.deployment.metadata))
    } else {
        format!("ReplicaSet \"{set}\"")
    };
    if reason == Some(NEW_SET_AVAILABLE) && after.replicas == after.updated_replicas {
        return Progress::Keep;
    }
    if is_complete(seen.deployment, after) {
        return Progress::Set(say("True", NEW_SET_AVAILABLE, format!("{subject} has successfully progressed.")));
    }
    if has_progressed(before, after) || reason == Some(NEW_SET_AVAILABLE) {
        return Progress::Refresh(say("True", "ReplicaSetUpdated", format!("{subject} is progressing.")));
    }
    if current.is_none() {
        return Progress::Set(say("True", "FoundNewReplicaSet", format!("Found new replica set \"{set}\"")));
    }
    let since = current.and_then(|c| c.last_update_time.as_ref()).map_or(0, |t| t.0.as_second());
    if reason != Some(TIMED_OUT) && seen.now.as_second() > since + limit {
        return Progress::Set(say("False", TIMED_OUT, format!("{subject} has timed out progressing.")));
    }
    Progress::Keep
}

fn find(conditions: &[DeploymentCondition]) -> Option<&DeploymentCondition> {
    conditions.iter().find(|c| c.type_ == PROGRESSING)
}

/// The greatest number means: no deadline.
fn deadline_seconds(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then_some(i64::from(seconds))
}

pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let want = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == want
        && status.replicas.unwrap_or(0) == want
        && status.available_replicas.unwrap_or(0) == want
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    after.updated_replicas > before.updated_replicas
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

/// Puts a condition in place; nothing changes when it says what is said already.
fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition, now: Timestamp) {
    let current = conditions.iter().position(|c| c.type_ == new.type_);
    new.last_update_time = Some(Time(now));
    new.last_transition_time = Some(Time(now));
    if let Some(at) = current {
        let old = &conditions[at];
        if old.status == new.status && old.reason == new.reason && old.message == new.message {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
        conditions.remove(at);
    }
    conditions.push(new);
}

/// The new set's failure to make pods is the Deployment's.
fn failures(seen: &Seen, conditions: &mut Vec<DeploymentCondition>) {
    let failed = seen.new.and_then(|s| s.status.as_ref()).and_then(|s| s.conditions.as_ref());
    let failed = failed.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure");
    match failed {
        Some(c) => {
            let reason = c.reason.clone().unwrap_or_default();
            let message = c.message.clone().unwrap_or_default();
            set(conditions, condition("ReplicaFailure", &c.status, &reason, message), seen.now);
        }
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
    }
}
