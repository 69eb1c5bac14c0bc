//! Nodes, events, quotas, bindings, signing requests.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Row;
use super::format::{condition, human_duration, or, since, time};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) fn node_status(row: &Row<'_>) -> Value {
    let ready = match condition(row.list("status.conditions"), "Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    match row.at("spec.unschedulable").as_bool() {
        Some(true) => format!("{ready},SchedulingDisabled").into(),
        _ => ready.into(),
    }
}

pub(super) fn node_roles(row: &Row<'_>) -> Value {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_PREFIX) {
        Some(role) => Some(role.to_string()),
        None if key == ROLE_LABEL => value.as_str().map(str::to_string),
        None => None,
    };
    let labels = row.at("metadata.labels").as_object().into_iter().flatten();
    let roles: BTreeSet<String> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
    or(&roles.into_iter().collect::<Vec<_>>().join(","), "<none>").into()
}

pub(super) fn node_address(row: &Row<'_>, kind: &str) -> Value {
    let found = row.list("status.addresses").iter().find(|address| address["type"] == kind);
    found.and_then(|address| address["address"].as_str()).unwrap_or("<none>").into()
}

pub(super) fn event_last_seen(row: &Row<'_>) -> Value {
    let series = time(row.at("series.lastObservedTime"));
    match series.or(row.time("lastTimestamp")) {
        Some(seen) => since(Some(seen), row.now).into(),
        None => event_first_seen(row),
    }
}

pub(super) fn event_first_seen(row: &Row<'_>) -> Value {
    let places = ["firstTimestamp", "eventTime"];
    since(places.iter().find_map(|place| row.time(place)), row.now).into()
}

pub(super) fn event_count(row: &Row<'_>) -> Value {
    let places = ["series.count", "count"];
    places.iter().map(|place| row.count(place)).find(|count| *count > 0).unwrap_or(1).into()
}

fn involved<'a>(row: &Row<'a>, field: &str) -> &'a str {
    row.at("involvedObject")[field].as_str().unwrap_or_default()
}

pub(super) fn event_object(row: &Row<'_>) -> Value {
    let kind = involved(row, "kind").to_lowercase();
    match involved(row, "name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

pub(super) fn event_subobject(row: &Row<'_>) -> Value {
    involved(row, "fieldPath").into()
}

pub(super) fn event_source(row: &Row<'_>) -> Value {
    let first = |places: &[&str]| places.iter().map(|p| row.text(p)).find(|t| !t.is_empty()).unwrap_or_default();
    let component = first(&["source.component", "reportingComponent"]);
    match first(&["source.host", "reportingInstance"]) {
        "" => component.into(),
        host => format!("{component}, {host}").into(),
    }
}

pub(super) fn event_message(row: &Row<'_>) -> Value {
    row.text("message").trim().into()
}

/// Used and hard amounts; those of limits have a column of their own.
pub(super) fn quota(row: &Row<'_>, limits: bool) -> Value {
    let mut names: Vec<&String> = row.at("status.hard").as_object().into_iter().flat_map(|map| map.keys()).collect();
    names.retain(|name| name.contains("limits") == limits);
    names.sort();
    let amount = |list: &'static str, name: &str| row.at(list)[name].as_str().unwrap_or("0");
    let entry = |name: &&String| format!("{name}: {}/{}", amount("status.used", name), amount("status.hard", name));
    names.iter().map(entry).collect::<Vec<_>>().join(", ").into()
}

/// The subjects of one kind in a binding.
pub(super) fn subjects(row: &Row<'_>, kind: &str) -> Value {
    let text = |subject: &'_ Value| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["namespace"].as_str() {
            Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
            _ => name.to_string(),
        }
    };
    let named = row.list("subjects").iter().filter(|subject| subject["kind"] == kind);
    named.map(text).collect::<Vec<_>>().join(", ").into()
}

/// A number or a percentage, or these words where there is none.
pub(super) fn number_or(value: &Value, absent: &str) -> Value {
    match value {
        Value::Number(number) => number.to_string().into(),
        Value::String(text) => text.as_str().into(),
        _ => absent.into(),
    }
}

pub(super) fn signing_duration(row: &Row<'_>) -> Value {
    row.at("spec.expirationSeconds").as_i64().map_or_else(|| "<none>".into(), human_duration).into()
}

pub(super) fn signing_condition(row: &Row<'_>) -> Value {
    let has = |kind: &str| row.list("status.conditions").iter().any(|c| c["type"] == kind);
    let mut words = vec![match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }];
    words.extend(has("Failed").then_some("Failed"));
    words.extend((!row.text("status.certificate").is_empty()).then_some("Issued"));
    words.join(",").into()
}
