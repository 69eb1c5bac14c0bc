//! What the API is told about a pod. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{self as core, ContainerStatus, PodCondition, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    plan::{self, RestartPolicy, is_sidecar, restart_policy},
    state::{Container, Ended, Phase, PodState},
};
use crate::network::Ips;

/// What the status says besides the state.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    pub node_ips: Ips,
    pub now: Timestamp,
}

pub fn of(pod: &core::Pod, state: &PodState, around: Around) -> PodStatus {
    let empty = core::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let old = pod.status.clone().unwrap_or_default();
    let shown = Shown { pod, spec, state };
    let init: Vec<_> = plan::init_containers(spec).iter().map(|c| shown.container(c)).collect();
    let mut main: Vec<_> = spec.containers.iter().map(|c| shown.container(c)).collect();
    main.sort_by(|a, b| a.name.cmp(&b.name));
    let over_deadline = plan::deadline(pod, state).is_some_and(|d| d <= around.now)
        && !state.containers.values().any(Container::is_busy)
        && !plan::finished(spec, state);
    let phase = if over_deadline { "Failed" } else { phase(pod, spec, state, &main) };
    let kept = matches!(phase, "Succeeded" | "Failed") || state.stopping.is_some() || deleted(pod);
    let ips = pod_ips(spec, state, around.node_ips).or_else(|| before(&old).filter(|_| kept));
    let conditions = conditions(pod, spec, state, phase, &main, around.now);
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        host_ip: Some(around.node_ips.first.to_string()),
        host_ips: Some(around.node_ips.iter().map(|ip| core::HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.map(|i| i.first.to_string()),
        pod_ips: ips.map(|i| i.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: old.start_time.clone().or(state.started.map(Time)),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        observed_generation: pod.metadata.generation,
        reason: if over_deadline { Some("DeadlineExceeded".into()) } else { old.reason.clone() },
        message: if over_deadline {
            Some("Pod was active on the node longer than the specified deadline".into())
        } else {
            old.message.clone()
        },
        ..old
    }
}

fn deleted(pod: &core::Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn pod_ips(spec: &core::PodSpec, state: &PodState, node_ips: Ips) -> Option<Ips> {
    if spec.host_network == Some(true) { state.network.done().map(|_| node_ips) } else { state.ips() }
}

/// What the API was told before.
fn before(old: &PodStatus) -> Option<Ips> {
    let all: Vec<_> = old.pod_ips.iter().flatten().filter_map(|i| i.ip.parse().ok()).collect();
    let first = old.pod_ip.as_deref().and_then(|t| t.parse().ok()).or(all.first().copied())?;
    Some(Ips::new(first, all.into_iter().find(|ip| ip.is_ipv4() != first.is_ipv4())))
}

fn phase<'a>(pod: &'a core::Pod, spec: &core::PodSpec, state: &PodState, main: &[ContainerStatus]) -> &'a str {
    let was = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if let Some(last @ ("Succeeded" | "Failed")) = was {
        return last;
    }
    let ending = deleted(pod) || state.stopping.is_some();
    let idle = !state.containers.values().any(Container::is_busy);
    let init_failed = plan::finished(spec, state) && !main.iter().all(|c| terminated(c).is_some());
    if init_failed {
        return if idle { "Failed" } else { "Pending" };
    }
    if !(plan::initialized(spec, state) || ending && idle) {
        return "Pending";
    }
    let count = |test: &dyn Fn(&ContainerStatus) -> bool| main.iter().filter(|c| test(c)).count();
    let running = count(&|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    let waiting = count(&|c| is_waiting(c) && !ended_before(c));
    if running > 0 {
        return if waiting > 0 { "Pending" } else { "Running" };
    }
    if waiting > 0 {
        return if ending && idle && was != Some("Pending") { "Failed" } else { "Pending" };
    }
    let all_well = main.iter().all(|c| terminated(c).is_some_and(|t| t.exit_code == 0));
    match restart_policy(spec) {
        _ if ending => {
            if all_well {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        RestartPolicy::Always => "Running",
        _ if all_well => "Succeeded",
        RestartPolicy::Never => "Failed",
        RestartPolicy::OnFailure => "Running",
    }
}

fn terminated(status: &ContainerStatus) -> Option<&core::ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_none_or(|s| s.waiting.is_some())
}

fn ended_before(status: &ContainerStatus) -> bool {
    status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
}

/// What container statuses are made from.
#[derive(Clone, Copy)]
struct Shown<'a> {
    pod: &'a core::Pod,
    spec: &'a core::PodSpec,
    state: &'a PodState,
}

impl Shown<'_> {
    /// As kubelet names a pod in messages.
    fn full_name(self) -> String {
        let meta = &self.pod.metadata;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
    }

    fn container(self, container: &core::Container) -> ContainerStatus {
        let own = &self.state.container(&container.name);
        let init = plan::init_containers(self.spec).iter().any(|c| c.name == container.name);
        let (state, last) = self.states(container, own);
        let ready = if init && !is_sidecar(container) {
            own.exited().is_some_and(|e| e.exit.code == 0)
        } else {
            own.is_running() && own.started && own.ready
        };
        ContainerStatus {
            name: container.name.clone(),
            image: own
                .image
                .as_ref()
                .and_then(|_| container.image.clone())
                .or(container.image.clone())
                .unwrap_or_default(),
            image_id: own.image.as_ref().map(|i| i.id.clone()).unwrap_or_default(),
            container_id: own.id().map(|id| format!("skiff://{id}")),
            restart_count: own.restarts,
            ready,
            started: Some(own.is_running() && own.started),
            state: Some(state),
            last_state: last,
            ..Default::default()
        }
    }

    fn states(
        self,
        container: &core::Container,
        own: &Container,
    ) -> (core::ContainerState, Option<core::ContainerState>) {
        let last = own.last.as_ref().map(ended_state);
        let waiting = |reason: &str, message: &str| core::ContainerState {
            waiting: Some(core::ContainerStateWaiting {
                reason: Some(reason.into()),
                message: (!message.is_empty()).then(|| message.into()),
            }),
            ..Default::default()
        };
        match &own.phase {
            Phase::Waiting { reason, message, .. } if !reason.is_empty() => (waiting(reason, message), last),
            Phase::Waiting { .. } | Phase::Pulling | Phase::Starting { .. } => {
                (waiting(starting_reason(self.spec, self.state), ""), last)
            }
            Phase::Running { since, .. } => {
                let running = core::ContainerStateRunning { started_at: Some(Time(*since)) };
                (core::ContainerState { running: Some(running), ..Default::default() }, last)
            }
            Phase::Exited(ended) => {
                let again = plan::restarts(self.spec, container, ended.exit.code) && self.state.stopping.is_none();
                if again && own.crashes.seconds() > 0 {
                    let message = format!(
                        "back-off {} restarting failed container={} pod={}",
                        go_duration(own.crashes.seconds()),
                        container.name,
                        self.full_name()
                    );
                    (waiting("CrashLoopBackOff", &message), Some(ended_state(ended)))
                } else {
                    (ended_state(ended), last)
                }
            }
        }
    }
}

/// As Go prints a duration of whole seconds.
pub fn go_duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

fn starting_reason(spec: &core::PodSpec, pod: &PodState) -> &'static str {
    if plan::initialized(spec, pod) { "ContainerCreating" } else { "PodInitializing" }
}

fn ended_state(ended: &Ended) -> core::ContainerState {
    let exit = &ended.exit;
    let terminated = core::ContainerStateTerminated {
        exit_code: exit.code,
        // The code already says it (128 + signal), as other runtimes report it.
        signal: None,
        reason: Some(exit.reason.clone()),
        message: (!exit.message.is_empty()).then(|| exit.message.clone()),
        started_at: exit.started.map(Time),
        finished_at: Some(Time(exit.finished)),
        container_id: Some(format!("skiff://{}", ended.id)),
    };
    core::ContainerState { terminated: Some(terminated), ..Default::default() }
}

/// The five conditions that the node keeps, and those of others as they stand.
fn conditions(
    pod: &core::Pod,
    spec: &core::PodSpec,
    state: &PodState,
    phase: &str,
    main: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let old = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let containers = containers_ready(phase, main);
    let ready = match &containers {
        None => gates(spec, &old),
        Some(why) => Some(why.clone()),
    };
    let network = state.network.done().is_some() && !matches!(phase, "Succeeded" | "Failed");
    let ours: [(&str, Verdict); 5] = [
        ("PodReadyToStartContainers", if network { None } else { Some(Default::default()) }),
        ("Initialized", initialized(spec, state, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", None),
    ];
    let mut all: Vec<_> =
        ours.into_iter().map(|(kind, verdict)| condition(kind, verdict, phase, &old, pod, now)).collect();
    all.extend(old.into_iter().filter(|o| !OURS.contains(&o.type_.as_str())));
    all
}

pub const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// None: true. Otherwise reason and message.
type Verdict = Option<(String, String)>;

fn condition(
    kind: &str,
    verdict: Verdict,
    phase: &str,
    old: &[PodCondition],
    pod: &core::Pod,
    now: Timestamp,
) -> PodCondition {
    let status = if verdict.is_none() { "True" } else { "False" };
    let completed = (kind == "Initialized" && phase == "Succeeded").then(|| "PodCompleted".to_string());
    let (reason, message) = verdict.unwrap_or_default();
    let before = old.iter().find(|o| o.type_ == kind);
    let since = before.filter(|o| o.status == status).and_then(|o| o.last_transition_time.clone());
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason).filter(|r| !r.is_empty()).or(completed),
        message: Some(message).filter(|m| !m.is_empty()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    }
}

fn containers_ready(phase: &str, main: &[ContainerStatus]) -> Verdict {
    match phase {
        "Succeeded" => return Some(("PodCompleted".into(), String::new())),
        "Failed" => return Some(("PodFailed".into(), String::new())),
        _ => {}
    }
    let unready: Vec<_> = main.iter().filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
    (!unready.is_empty())
        .then(|| ("ContainersNotReady".into(), format!("containers with unready status: [{}]", unready.join(" "))))
}

fn initialized(spec: &core::PodSpec, state: &PodState, phase: &str) -> Verdict {
    if phase == "Succeeded" || plan::initialized(spec, state) {
        return None;
    }
    let open = plan::init_containers(spec).iter().filter(|c| !plan::init_done(c, &state.container(&c.name)));
    let open: Vec<_> = open.map(|c| c.name.as_str()).collect();
    Some(("ContainersNotInitialized".into(), format!("containers with incomplete status: [{}]", open.join(" "))))
}

fn gates(spec: &core::PodSpec, old: &[PodCondition]) -> Verdict {
    let wrong = |gate: &core::PodReadinessGate| {
        let kind = &gate.condition_type;
        match old.iter().find(|c| c.type_ == *kind) {
            None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(c) if c.status != "True" => {
                Some(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status))
            }
            Some(_) => None,
        }
    };
    let messages: Vec<_> = spec.readiness_gates.iter().flatten().filter_map(wrong).collect();
    (!messages.is_empty()).then(|| ("ReadinessGatesNotReady".into(), messages.join(", ")))
}
