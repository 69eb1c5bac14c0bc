//! How a pod is, and why it is not ready.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, Service};

use super::{
    super::{
        evidence::Evidence,
        objects::{id, is_over, is_ready, name, namespace, node_of, phase},
        report::{Broken, Place},
    },
    kubectl, service_words,
};

/// `pod default/web-1, ready, on node a`
pub(super) fn words(pod: &Pod) -> String {
    let state = match (pod.metadata.deletion_timestamp.is_some(), is_ready(pod)) {
        (true, _) => "ending".into(),
        (_, true) if !is_over(pod) => "ready".into(),
        _ => match phase(pod) {
            "Running" => "not ready".into(),
            phase => phase.to_lowercase(),
        },
    };
    let node = match node_of(pod) {
        "" => String::new(),
        node => format!(", on node {node}"),
    };
    format!("pod {}, {state}{node}", id(&pod.metadata))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()))
}

/// Why the pod is not ready, as far as its status and its events tell.
pub(super) fn trouble(pod: &Pod, events: &[Event]) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "it is ending".into();
    }
    if let Some(why) = not_scheduled(pod) {
        return why;
    }
    if let Some(why) = containers(pod).find_map(not_running) {
        return why;
    }
    let probe = latest(pod, events, "Unhealthy").filter(|m| !m.starts_with("Liveness"));
    if let Some(message) = probe {
        return message.trim().replace('\n', " ");
    }
    if let Some(gate) = gate(pod) {
        return gate;
    }
    match phase(pod) {
        "Running" => match containers(pod).find(|c| !c.ready) {
            Some(c) => format!("container {} runs, but is not ready yet: its readiness probe has not passed", c.name),
            None => "its containers are ready, the pod is not yet".into(),
        },
        phase => match latest_of_all(pod, events) {
            Some(message) => format!("it is {phase}: {message}"),
            None => format!("it is {phase}"),
        },
    }
}

fn not_scheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let c = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(format!("no node takes it: {}", c.message.as_deref().or(c.reason.as_deref()).unwrap_or("for no reason given")))
}

fn not_running(c: &ContainerStatus) -> Option<String> {
    let state = c.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let message = waiting.message.as_deref().map_or(String::new(), |m| format!(": {m}"));
        let ended = c.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let code = ended.map_or(String::new(), |t| format!("; it ended with exit code {}", t.exit_code));
        return Some(format!("container {} waits, {reason}{message}{code}", c.name));
    }
    let ended = state.terminated.as_ref().filter(|t| t.exit_code != 0)?;
    Some(format!("container {} ended with exit code {}", c.name, ended.exit_code))
}

fn gate(pod: &Pod) -> Option<String> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let holds = |kind: &str| conditions.into_iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    let missing = gates.iter().find(|g| !holds(&g.condition_type))?;
    Some(format!("its readiness gate {} does not hold", missing.condition_type))
}

fn of_pod<'a>(pod: &'a Pod, events: &'a [Event]) -> impl Iterator<Item = &'a Event> {
    events.iter().filter(|e| {
        let about = &e.involved_object;
        about.kind.as_deref() == Some("Pod")
            && about.name == pod.metadata.name
            && about.namespace.as_deref() == Some(namespace(&pod.metadata))
            && (about.uid.is_none() || about.uid == pod.metadata.uid)
    })
}

fn newest<'a>(events: impl Iterator<Item = &'a Event>) -> Option<&'a str> {
    let when = |e: &&Event| {
        let plain = e.last_timestamp.as_ref().map(|t| t.0);
        let exact = e.event_time.as_ref().map(|t| t.0);
        plain.max(exact).max(e.first_timestamp.as_ref().map(|t| t.0))
    };
    events.max_by_key(when).and_then(|e| e.message.as_deref())
}

fn latest<'a>(pod: &'a Pod, events: &'a [Event], reason: &str) -> Option<&'a str> {
    newest(of_pod(pod, events).filter(|e| e.reason.as_deref() == Some(reason)))
}

fn latest_of_all<'a>(pod: &'a Pod, events: &'a [Event]) -> Option<&'a str> {
    newest(of_pod(pod, events).filter(|e| e.type_.as_deref() == Some("Warning")))
}

/// Every pod of the Service is there, and none is ready.
pub(super) fn none_ready(e: &Evidence, service: &Service, pods: &[&Pod]) -> Broken {
    const SHOWN: usize = 3;
    let lines = pods.iter().take(SHOWN).map(|p| format!("{}: {}", name(&p.metadata), trouble(p, &e.cluster.events)));
    let more = pods.len().saturating_sub(SHOWN);
    let what = match pods {
        [_] => format!("the only pod of {} is not ready.", service_words(service)),
        _ => format!("none of the {} pods of {} is ready.", pods.len(), service_words(service)),
    };
    let first = pods[0];
    let kubectl = kubectl(namespace(&first.metadata));
    let pod = name(&first.metadata);
    let broken = Broken::new(Place::Endpoints, "noneReady", what)
        .details(lines)
        .details((more > 0).then(|| format!("and {more} more")))
        .mend(format!("{kubectl} describe pod {pod}"));
    match trouble(first, &e.cluster.events) {
        why if why.contains("ImagePull") || why.contains("ErrImage") => {
            broken.mend("sudo skiff image load ARCHIVE    # or mend the image's name in the template")
        }
        why if why.contains("probe failed") || why.contains("exit code") => {
            broken.mend(format!("{kubectl} logs {pod}    # what does the program say?"))
        }
        _ => broken,
    }
}
