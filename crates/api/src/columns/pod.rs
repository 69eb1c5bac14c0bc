//! A pod's status in one word, as users read it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Row;
use super::format::{condition, or, since, time};

/// What the container statuses come to.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

pub(super) fn ready(row: &Row<'_>) -> Value {
    let summary = summarize(row);
    format!("{}/{}", summary.ready, summary.total).into()
}

pub(super) fn status(row: &Row<'_>) -> Value {
    let terminal = matches!(row.text("status.phase"), "Succeeded" | "Failed");
    match row.has("metadata.deletionTimestamp") {
        true if row.text("status.reason") == "NodeLost" => "Unknown".into(),
        true if !terminal => "Terminating".into(),
        _ => summarize(row).reason.into(),
    }
}

pub(super) fn restarts(row: &Row<'_>) -> Value {
    let summary = summarize(row);
    match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, since(Some(last), row.now)).into()
        }
        _ => summary.restarts.to_string().into(),
    }
}

pub(super) fn ip(row: &Row<'_>) -> Value {
    let first = row.list("status.podIPs").first().and_then(|ip| ip["ip"].as_str());
    or(first.unwrap_or(row.text("status.podIP")), "<none>").into()
}

pub(super) fn readiness_gates(row: &Row<'_>) -> Value {
    let gates = row.list("spec.readinessGates");
    let conditions = row.list("status.conditions");
    let open =
        |gate: &&Value| condition(conditions, gate["conditionType"].as_str().unwrap_or_default()) == Some("True");
    match gates.len() {
        0 => "<none>".into(),
        total => format!("{}/{total}", gates.iter().filter(open).count()).into(),
    }
}

/// The row's condition that lets clients hide pods that are done.
pub(super) fn completed(row: &Row<'_>) -> Option<Value> {
    let (reason, message) = match row.text("status.phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

fn summarize(row: &Row<'_>) -> Summary {
    let sidecars = row.list("spec.initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
    let mut summary = Summary {
        reason: phase(row),
        ready: 0,
        total: row.list("spec.containers").len() + sidecars,
        restarts: 0,
        last_restart: None,
    };
    let initializing = add_init_containers(row, &mut summary);
    if !initializing || condition(row.list("status.conditions"), "Initialized") == Some("True") {
        add_containers(row, &mut summary);
    }
    summary
}

fn phase(row: &Row<'_>) -> String {
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if row.list("status.conditions").iter().any(gated) {
        return "SchedulingGated".into();
    }
    match row.text("status.reason") {
        "" => row.text("status.phase").into(),
        reason => reason.into(),
    }
}

/// Counts the init containers and finds the one that the pod waits for; true if there is one.
fn add_init_containers(row: &Row<'_>, summary: &mut Summary) -> bool {
    for (index, status) in row.list("status.initContainerStatuses").iter().enumerate() {
        count_restarts(summary, status);
        if status["state"]["terminated"]["exitCode"] == 0 {
            continue;
        }
        if is_sidecar(row, status) && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        summary.reason = init_reason(status, index, row.list("spec.initContainers").len());
        return true;
    }
    false
}

fn init_reason(status: &Value, index: usize, total: usize) -> String {
    let waiting = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
    match terminated_reason(status) {
        Some(reason) => format!("Init:{reason}"),
        None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
        None => format!("Init:{index}/{total}"),
    }
}

/// Counts the containers; the first one that is not running gives the reason. Restarts are theirs and the sidecars'.
fn add_containers(row: &Row<'_>, summary: &mut Summary) {
    (summary.restarts, summary.last_restart) = (0, None);
    let sidecars = row.list("status.initContainerStatuses").iter().filter(|status| is_sidecar(row, status));
    sidecars.for_each(|status| count_restarts(summary, status));
    let mut running = false;
    for status in row.list("status.containerStatuses").iter().rev() {
        count_restarts(summary, status);
        let waiting = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        if !waiting.is_empty() {
            summary.reason = waiting.to_string();
        } else if let Some(reason) = terminated_reason(status) {
            summary.reason = reason;
        } else if status["ready"] == true && !status["state"]["running"].is_null() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition(row.list("status.conditions"), "Ready") == Some("True");
        summary.reason = if ready { "Running".into() } else { "NotReady".into() };
    }
}

fn is_sidecar(row: &Row<'_>, status: &Value) -> bool {
    let named = row.list("spec.initContainers").iter().find(|c| c["name"] == status["name"]);
    named.is_some_and(|c| c["restartPolicy"] == "Always")
}

fn count_restarts(summary: &mut Summary, status: &Value) {
    summary.restarts = summary.restarts.saturating_add(status["restartCount"].as_i64().unwrap_or_default());
    summary.last_restart = summary.last_restart.max(time(&status["lastState"]["terminated"]["finishedAt"]));
}

fn terminated_reason(status: &Value) -> Option<String> {
    let ended = status["state"]["terminated"].as_object()?;
    let number = |name: &str| ended.get(name).and_then(Value::as_i64).unwrap_or_default();
    Some(match ended.get("reason").and_then(Value::as_str).unwrap_or_default() {
        "" if number("signal") != 0 => format!("Signal:{}", number("signal")),
        "" => format!("ExitCode:{}", number("exitCode")),
        reason => reason.to_string(),
    })
}
