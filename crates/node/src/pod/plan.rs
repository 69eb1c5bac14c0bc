//! What to do next for a pod. Pure: specification, state and time in, actions and the time to look again out.
//!
//! ```text
//! attach + mount + pull ─► init containers in turn ─► all containers ─► (deleted) stop ─► tear down ─► finish
//! ```

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;

use super::state::{Container, Phase, PodState, Step};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Namespace and address.
    Attach,
    Mount,
    Pull(String),
    /// The next attempt of a container.
    Start(String),
    Stop {
        container: String,
        grace: i64,
        why: Why,
    },
    /// Gives everything back that the pod has on this node.
    TearDown,
    /// The pod is gone from this node: its object may go too.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Deleted,
    /// The pod has done its work or used up its time.
    Completed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// The moment when the plan changes by time alone.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

pub fn restart_policy(spec: &core::PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

pub fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn init_containers(spec: &core::PodSpec) -> &[core::Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// All containers, those of the initialisation first.
pub fn all_containers(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    init_containers(spec).iter().chain(&spec.containers)
}

pub fn find_container<'a>(spec: &'a core::PodSpec, name: &str) -> Option<&'a core::Container> {
    all_containers(spec).find(|c| c.name == name)
}

/// Whether an ended container gets another attempt.
pub fn restarts(spec: &core::PodSpec, container: &core::Container, code: i32) -> bool {
    let init = init_containers(spec).iter().any(|c| c.name == container.name);
    if init && is_sidecar(container) {
        return true;
    }
    match restart_policy(spec) {
        RestartPolicy::Never => false,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Always => !init || code != 0,
    }
}

pub fn grace(pod: &core::Pod) -> i64 {
    let wished = pod.metadata.deletion_grace_period_seconds;
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    wished.or(own).unwrap_or(30).max(0)
}

/// The main containers have all ended for good, or the initialisation has failed for good.
pub fn finished(spec: &core::PodSpec, state: &PodState) -> bool {
    let for_good = |c: &core::Container| {
        state.containers.get(&c.name).and_then(Container::exited).filter(|e| !restarts(spec, c, e.exit.code))
    };
    let init_failed =
        init_containers(spec).iter().filter(|c| !is_sidecar(c)).any(|c| for_good(c).is_some_and(|e| e.exit.code != 0));
    init_failed || spec.containers.iter().all(|c| for_good(c).is_some())
}

pub fn plan(pod: &core::Pod, state: &PodState, now: Timestamp) -> Plan {
    let Some(spec) = &pod.spec else { return Plan::default() };
    if pod.metadata.deletion_timestamp.is_some() || state.stopping.is_some() {
        return stop(spec, state, grace(pod), true, now);
    }
    let was = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let deadline = deadline(pod, state);
    let over = deadline.is_some_and(|d| d <= now) || matches!(was, Some("Succeeded" | "Failed"));
    if over || finished(spec, state) {
        return stop(spec, state, grace(pod), false, now);
    }
    let mut plan = Plan::default();
    deadline.into_iter().for_each(|d| plan.wake_at(d));
    prepare(state, now, &mut plan);
    for container in due(spec, state) {
        next(spec, container, state, now, &mut plan);
    }
    plan
}

/// When activeDeadlineSeconds is over.
pub fn deadline(pod: &core::Pod, state: &PodState) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    state.started?.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn prepare(state: &PodState, now: Timestamp, plan: &mut Plan) {
    step(&state.network, Action::Attach, now, plan);
    step(&state.volumes, Action::Mount, now, plan);
}

fn step<T>(step: &Step<T>, action: Action, now: Timestamp, plan: &mut Plan) {
    match step {
        Step::Todo => plan.actions.push(action),
        Step::Failed { retry, .. } if *retry <= now => plan.actions.push(action),
        Step::Failed { retry, .. } => plan.wake_at(*retry),
        Step::Busy | Step::Done(_) => {}
    }
}

/// Main containers have been there: the initialisation is not repeated.
pub fn initialized(spec: &core::PodSpec, state: &PodState) -> bool {
    let main_begun = spec.containers.iter().any(|c| {
        let state = state.containers.get(&c.name);
        state.is_some_and(|s| s.is_live() || s.exited().is_some() || s.last.is_some())
    });
    main_begun || init_containers(spec).iter().all(|c| init_done(c, &state.container(&c.name)))
}

pub fn init_done(container: &core::Container, state: &Container) -> bool {
    if is_sidecar(container) {
        state.is_running() && state.started
    } else {
        state.exited().is_some_and(|e| e.exit.code == 0)
    }
}

/// The containers whose turn it is.
fn due<'a>(spec: &'a core::PodSpec, state: &PodState) -> Vec<&'a core::Container> {
    let sidecars = || init_containers(spec).iter().filter(|c| is_sidecar(c));
    if initialized(spec, state) {
        return sidecars().chain(&spec.containers).collect();
    }
    let mut due = vec![];
    for container in init_containers(spec) {
        let done = init_done(container, &state.container(&container.name));
        if !done || is_sidecar(container) {
            due.push(container);
        }
        if !done {
            break;
        }
    }
    due
}

fn next(spec: &core::PodSpec, container: &core::Container, state: &PodState, now: Timestamp, plan: &mut Plan) {
    let name = &container.name;
    let own = state.container(name);
    let prepared = state.network.done().is_some() && state.volumes.done().is_some();
    match &own.phase {
        Phase::Waiting { retry: Some(at), .. } if *at > now => plan.wake_at(*at),
        Phase::Waiting { .. } if own.image.is_none() => plan.actions.push(Action::Pull(name.clone())),
        Phase::Waiting { .. } if prepared => plan.actions.push(Action::Start(name.clone())),
        Phase::Exited(ended) if restarts(spec, container, ended.exit.code) => {
            let at = own.crashes.due(ended.exit.finished);
            if at > now {
                plan.wake_at(at);
            } else if prepared {
                plan.actions.push(Action::Start(name.clone()));
            }
        }
        _ => {}
    }
}

/// Sidecars end only when the main containers have.
fn stops(state: &PodState, grace: i64, why: Why) -> Vec<Action> {
    let live = state.containers.iter().filter(|(_, c)| c.is_running() && !c.stopping);
    live.map(|(name, _)| Action::Stop { container: name.clone(), grace, why }).collect()
}

fn stop(spec: &core::PodSpec, state: &PodState, grace: i64, deleted: bool, now: Timestamp) -> Plan {
    let sidecar = |name: &str| init_containers(spec).iter().any(|c| c.name == name && is_sidecar(c));
    let why = if deleted { Why::Deleted } else { Why::Completed };
    let mains_live = state.containers.iter().any(|(name, c)| c.is_live() && !sidecar(name));
    let mut actions = stops(state, grace, why);
    actions.retain(|a| !matches!(a, Action::Stop { container, .. } if mains_live && sidecar(container)));
    let idle =
        !state.containers.values().any(Container::is_busy) && !state.network.is_busy() && !state.volumes.is_busy();
    let mut plan = Plan { actions, wake: None };
    match &state.torn_down {
        _ if !idle => {}
        Step::Done(()) if deleted => plan.actions.push(Action::Finish),
        other => step(other, Action::TearDown, now, &mut plan),
    }
    plan
}
