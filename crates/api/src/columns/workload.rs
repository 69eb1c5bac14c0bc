//! Deployments and their like, jobs, autoscalers.

use serde_json::Value;

use super::Row;
use super::format::{condition, human_duration, seconds_between};

pub(super) fn ready(row: &Row<'_>) -> Value {
    format!("{}/{}", row.count("status.readyReplicas"), row.count("spec.replicas")).into()
}

pub(super) fn containers(row: &Row<'_>, pod_spec: &str) -> Value {
    of_containers(row, pod_spec, "name")
}

pub(super) fn images(row: &Row<'_>, pod_spec: &str) -> Value {
    of_containers(row, pod_spec, "image")
}

fn of_containers(row: &Row<'_>, pod_spec: &str, field: &str) -> Value {
    let containers = row.at(pod_spec)["containers"].as_array().into_iter().flatten();
    containers.filter_map(|c| c[field].as_str()).collect::<Vec<_>>().join(",").into()
}

/// The controlling owner, `daemonset.apps/name`.
pub(super) fn controller(row: &Row<'_>) -> Value {
    let Some(owner) = row.list("metadata.ownerReferences").iter().find(|o| o["controller"] == true) else {
        return "<none>".into();
    };
    let text = |name: &str| owner[name].as_str().unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let dot = if group.is_empty() { "" } else { "." };
    format!("{}{dot}{group}/{}", text("kind").to_lowercase(), text("name")).into()
}

pub(super) fn job_status(row: &Row<'_>) -> Value {
    let holds = |kind: &str| condition(row.list("status.conditions"), kind) == Some("True");
    let words = [
        (holds("Complete"), "Complete"),
        (holds("Failed"), "Failed"),
        (row.has("metadata.deletionTimestamp"), "Terminating"),
        (holds("Suspended"), "Suspended"),
        (holds("FailureTarget"), "FailureTarget"),
        (holds("SuccessCriteriaMet"), "SuccessCriteriaMet"),
    ];
    words.iter().find(|(is, _)| *is).map_or("Running", |(_, word)| word).into()
}

pub(super) fn job_completions(row: &Row<'_>) -> Value {
    let succeeded = row.count("status.succeeded");
    match (row.at("spec.completions").as_i64(), row.count("spec.parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}").into(),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}").into(),
        _ => format!("{succeeded}/1").into(),
    }
}

pub(super) fn job_duration(row: &Row<'_>) -> Value {
    let end = row.time("status.completionTime").unwrap_or(row.now);
    let duration = |start| human_duration(seconds_between(start, end));
    row.time("status.startTime").map(duration).unwrap_or_default().into()
}

pub(super) fn suspended(row: &Row<'_>) -> Value {
    match row.at("spec.suspend").as_bool() {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => "<unset>".into(),
    }
}

pub(super) fn last_schedule(row: &Row<'_>) -> Value {
    match row.has("status.lastScheduleTime") {
        true => row.since("status.lastScheduleTime").into(),
        false => "<none>".into(),
    }
}

/// The first two metrics as `cpu: 10%/80%`.
pub(super) fn autoscaler_targets(row: &Row<'_>) -> Value {
    let current = row.list("status.currentMetrics");
    let all: Vec<String> =
        row.list("spec.metrics").iter().enumerate().map(|(i, spec)| metric(spec, current.get(i))).collect();
    match all.len() {
        0 => "<none>".into(),
        1 | 2 => all.join(", ").into(),
        n => format!("{} + {} more...", all[..2].join(", "), n - 2).into(),
    }
}

fn metric(spec: &Value, current: Option<&Value>) -> String {
    let (source, name) = match spec["type"].as_str().unwrap_or_default() {
        "Resource" => ("resource", spec["resource"]["name"].as_str()),
        "ContainerResource" => ("containerResource", spec["containerResource"]["name"].as_str()),
        "Pods" => ("pods", None),
        "Object" => ("object", None),
        "External" => ("external", None),
        _ => return "<unknown type>".into(),
    };
    let target = &spec[source]["target"];
    let reached = current.map(|metric| &metric[source]["current"]);
    let value = |value: Option<&Value>| value.and_then(value_of).unwrap_or_else(|| "<unknown>".into());
    let pair = format!("{}/{}", value(reached), value(Some(target)));
    name.map_or(pair.clone(), |name| format!("{name}: {pair}"))
}

fn value_of(metric: &Value) -> Option<String> {
    let percent = metric["averageUtilization"].as_i64().map(|percent| format!("{percent}%"));
    let average = || metric["averageValue"].as_str().map(|value| format!("{value} (avg)"));
    percent.or_else(average).or_else(|| metric["value"].as_str().map(str::to_string))
}
