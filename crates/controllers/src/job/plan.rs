//! What a Job needs next.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::{
    indexes,
    pod::{End, end, index, is_held},
};
use crate::object::{is_controlled_by, is_deleted, is_over, is_ready, uid};

/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: u64 = 10;
const LONGEST_PAUSE: u64 = 600;
const DEFAULT_BACKOFF_LIMIT: i32 = 6;
/// So many pods at most are made in one go.
const BURST: usize = 500;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// To be written before anything is let go.
    pub status: JobStatus,
    /// Pods to make, with their indexes.
    pub create: Vec<Option<i32>>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that are counted once the status is written: their finalizer comes off.
    pub release: Vec<Arc<Pod>>,
    /// Time alone will change something.
    pub again: Option<Duration>,
    /// What the owner should be told: reason and message.
    pub say: Option<(&'static str, &'static str)>,
}

/// `pods` are those of the namespace.
pub(crate) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let owned: Vec<Arc<Pod>> = pods.iter().filter(|p| is_controlled_by(&p.metadata, &job.metadata)).cloned().collect();
    let Some(spec) = &job.spec else { return Plan::default() };
    let mut view = View { spec, owned, now, status: job.status.clone().unwrap_or_default(), plan: Plan::default() };
    view.count();
    if !view.is_finished() && !is_deleted(&job.metadata) {
        view.decide();
    }
    view.finish_status();
    view.plan.status = view.status;
    view.plan
}

pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let ended = conditions.iter().find(|c| matches!(&*c.type_, "Complete" | "Failed") && c.status == "True")?;
    ended.last_transition_time.as_ref().map(|t| t.0)
}

struct View<'a> {
    spec: &'a JobSpec,
    owned: Vec<Arc<Pod>>,
    now: Timestamp,
    status: JobStatus,
    plan: Plan,
}

impl View<'_> {
    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        self.owned.iter().filter(|p| end(p).is_none()).cloned().collect()
    }

    fn succeeded(&self) -> i32 {
        let waiting = self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.succeeded.as_ref());
        self.status.succeeded.unwrap_or(0) + waiting.map_or(0, |w| w.len() as i32)
    }

    fn failed(&self) -> i32 {
        let waiting = self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.failed.as_ref());
        self.status.failed.unwrap_or(0) + waiting.map_or(0, |w| w.len() as i32)
    }

    /// Those whose finalizer is off move from the list to the counts; those that ended come onto the list.
    fn count(&mut self) {
        let held: BTreeSet<&str> = self.owned.iter().filter(|p| is_held(p)).map(|p| uid(&p.metadata)).collect();
        let mut waiting = self.status.uncounted_terminated_pods.take().unwrap_or_default();
        let settle = |list: &mut Option<Vec<String>>, count: &mut Option<i32>| {
            let list = list.get_or_insert_default();
            let before = list.len();
            list.retain(|uid| held.contains(uid.as_str()));
            let settled = (before - list.len()) as i32;
            if settled > 0 {
                *count = Some(count.unwrap_or(0) + settled);
            }
        };
        settle(&mut waiting.succeeded, &mut self.status.succeeded);
        settle(&mut waiting.failed, &mut self.status.failed);
        let mut done = indexes::parse(self.status.completed_indexes.as_deref().unwrap_or(""));
        let mut release = vec![];
        for pod in self.owned.iter().filter(|p| is_held(p)) {
            let Some(end) = end(pod) else { continue };
            release.push(pod.clone());
            // What the Job itself ended early is no failure.
            if self.ends_pods() && is_deleted(&pod.metadata) && !is_over(pod) {
                continue;
            }
            let list = match end {
                End::Succeeded => waiting.succeeded.get_or_insert_default(),
                End::Failed => waiting.failed.get_or_insert_default(),
            };
            if !list.iter().any(|u| u == uid(&pod.metadata)) {
                list.push(uid(&pod.metadata).into());
            }
            done.extend(index(pod).filter(|_| end == End::Succeeded));
        }
        self.plan.release = release;
        if self.is_indexed() {
            self.status.completed_indexes = (!done.is_empty()).then(|| indexes::show(&done));
        }
        let filled = |list: Option<Vec<String>>| list.filter(|l| !l.is_empty());
        let waiting = UncountedTerminatedPods { succeeded: filled(waiting.succeeded), failed: filled(waiting.failed) };
        self.status.uncounted_terminated_pods = Some(waiting);
    }

    fn ends_pods(&self) -> bool {
        self.is_finished() || self.spec.suspend == Some(true)
    }

    fn is_finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }

    fn has(&self, kind: &str) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
    }

    fn decide(&mut self) {
        if self.spec.suspend == Some(true) {
            return self.suspend();
        }
        if self.has("Suspended") {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.status.start_time = None;
        }
        self.status.start_time.get_or_insert(Time(self.now));
        if let Some((reason, message)) = self.failure() {
            self.plan.delete = self.active();
            self.set("FailureTarget", "True", reason, message);
            self.set("Failed", "True", reason, message);
            self.plan.say = Some((reason, message));
        } else if self.is_complete() {
            self.plan.delete = self.active();
            let (reason, message) = ("CompletionsReached", "Reached expected number of succeeded pods");
            self.set("SuccessCriteriaMet", "True", reason, message);
            self.set("Complete", "True", reason, message);
            self.status.completion_time = Some(Time(self.now));
            self.plan.say = Some(("Completed", "Job completed"));
        } else {
            self.fill();
        }
    }

    fn suspend(&mut self) {
        self.plan.delete = self.active();
        if !self.has("Suspended") {
            self.set("Suspended", "True", "JobSuspended", "Job suspended");
            self.plan.say = Some(("Suspended", "Job suspended"));
        }
    }

    fn failure(&mut self) -> Option<(&'static str, &'static str)> {
        let limit = self.spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
        if self.failed() > limit || self.restarts_beyond(limit) {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        let deadline = self.spec.active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        let left = start.as_second().saturating_add(deadline).saturating_sub(self.now.as_second());
        if left <= 0 {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        self.wake_in(left);
        None
    }

    /// Containers that are restarted in place count too.
    fn restarts_beyond(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        let of = |pod: &Arc<Pod>| -> i32 {
            let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
            statuses.into_iter().flatten().map(|c| c.restart_count).sum()
        };
        let restarts: i32 = self.active().iter().map(of).sum();
        policy == Some("OnFailure") && restarts > 0 && restarts >= limit
    }

    fn is_complete(&self) -> bool {
        match self.spec.completions {
            Some(wanted) => self.succeeded() >= wanted,
            None => self.succeeded() > 0 && self.active().is_empty(),
        }
    }

    /// Makes what is missing to the parallelism, after the pause that failures bring.
    fn fill(&mut self) {
        let active = self.active();
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let wanted = match self.spec.completions {
            Some(all) => parallelism.min(all - self.succeeded()),
            None if self.succeeded() > 0 => active.len() as i32,
            None => parallelism,
        };
        let (wanted, have) = (usize::try_from(wanted).unwrap_or(0), active.len());
        if have > wanted {
            self.plan.delete = active.into_iter().skip(wanted).collect();
            return;
        }
        let pause = self.pause();
        if have < wanted && pause > 0 {
            return self.wake_in(pause);
        }
        let missing = (wanted - have).min(BURST);
        self.plan.create = if self.is_indexed() { self.free_indexes(missing) } else { vec![None; missing] };
    }

    fn free_indexes(&self, count: usize) -> Vec<Option<i32>> {
        let mut taken = indexes::parse(self.status.completed_indexes.as_deref().unwrap_or(""));
        taken.extend(self.active().iter().filter_map(|p| index(p)));
        let all = 0..self.spec.completions.unwrap_or(0);
        all.filter(|i| !taken.contains(i)).take(count).map(Some).collect()
    }

    /// Seconds from now until the next pod may be made: doubled with each failure since the last success.
    fn pause(&self) -> i64 {
        let failures = u32::try_from(self.failed()).unwrap_or(0);
        if failures == 0 {
            return 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
        let last = self.owned.iter().filter(|p| end(p) == Some(End::Failed)).map(|p| ended_at(p, self.now)).max();
        last.map_or(0, |at| at.as_second().saturating_add(pause as i64).saturating_sub(self.now.as_second()).max(0))
    }

    fn wake_in(&mut self, seconds: i64) {
        let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1));
        self.plan.again = Some(self.plan.again.map_or(wait, |before| before.min(wait)));
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let all = self.status.conditions.get_or_insert_default();
        all.retain(|c| c.type_ != kind);
        all.push(JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }

    fn finish_status(&mut self) {
        let some = |n: usize| (n > 0).then_some(n as i32);
        let ending = self.plan.delete.len();
        let active = self.active();
        self.status.active = some(active.len().saturating_sub(ending));
        self.status.ready = Some(active.iter().filter(|p| is_ready(p)).count() as i32);
        self.status.terminating =
            Some(self.owned.iter().filter(|p| is_deleted(&p.metadata) && !is_over(p)).count() as i32);
    }
}

/// When the last container ended, as far as it is known.
fn ended_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let ended = statuses
        .into_iter()
        .flatten()
        .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0));
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|t| t.0);
    let made = || pod.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    ended.max().or(deleted).unwrap_or_else(made).min(now)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
