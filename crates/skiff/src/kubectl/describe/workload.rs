//! Deployments, ReplicaSets, StatefulSets, DaemonSets and the pod templates in them.

use serde_json::Value;
use skiff_api::json;

use super::{
    Writer,
    fields::{controller, scalar, selector, time},
    pod::{containers, tolerations},
    volumes::volumes,
};

fn template(w: &mut Writer, template: &Value) {
    w.labels(1, "Labels", json::map(template, "metadata.labels"));
    if json::map(template, "metadata.annotations").is_some_and(|a| !a.is_empty()) {
        w.annotations(1, json::map(template, "metadata.annotations"));
    }
    w.maybe(1, "Service Account", json::text(template, "spec.serviceAccountName"));
    let init = json::list(template, "spec.initContainers");
    if !init.is_empty() {
        containers(w, "Init Containers", init, &[], None, 1);
    }
    containers(w, "Containers", json::list(template, "spec.containers"), &[], None, 1);
    volumes(w, json::list(template, "spec.volumes"), 1);
    w.maybe(1, "Priority Class Name", json::text(template, "spec.priorityClassName"));
    w.labels(1, "Node-Selectors", json::map(template, "spec.nodeSelector"));
    w.several(1, "Tolerations", &tolerations(template));
}

/// A revision's template, as `rollout history --revision` tells it.
pub(in super::super) fn pod_template(held: &Value, cause: &str) -> String {
    let mut held = held.clone();
    if !cause.is_empty()
        && let Some(metadata) = json::below(&mut held, "metadata")
    {
        json::set(metadata, "annotations", serde_json::json!({"kubernetes.io/change-cause": cause}));
    }
    let mut w = Writer::default();
    w.line(0, "Pod Template:");
    template(&mut w, &held);
    w.raw()
}

fn under(w: &mut Writer, object: &Value) {
    w.line(0, "Pod Template:");
    template(w, json::get(object, "spec.template").unwrap_or(&Value::Null));
}

fn conditions(w: &mut Writer, object: &Value) {
    let all = json::list(object, "status.conditions");
    if all.is_empty() {
        return;
    }
    w.line(0, "Conditions:");
    w.line(1, "Type\tStatus\tReason");
    w.line(1, "----\t------\t------");
    for c in all {
        w.line(1, format!("{} \t{}\t{}", json::text(c, "type"), json::text(c, "status"), json::text(c, "reason")));
    }
}

pub(super) fn deployment(w: &mut Writer, object: &Value, sets: &[Value]) -> bool {
    w.name(object);
    w.field(0, "CreationTimestamp", time(json::text(object, "metadata.creationTimestamp")));
    w.marks(object);
    w.field(0, "Selector", selector(json::get(object, "spec.selector")));
    let count = |field: &str| json::int(object, &format!("status.{field}"));
    w.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            json::int(object, "spec.replicas"),
            count("updatedReplicas"),
            count("replicas"),
            count("availableReplicas"),
            count("unavailableReplicas")
        ),
    );
    w.field(0, "StrategyType", json::text(object, "spec.strategy.type"));
    w.field(0, "MinReadySeconds", json::int(object, "spec.minReadySeconds"));
    if let Some(rolling) = json::get(object, "spec.strategy.rollingUpdate") {
        let text = |field: &str| rolling.get(field).map(scalar).unwrap_or_default();
        w.field(
            0,
            "RollingUpdateStrategy",
            format!("{} max unavailable, {} max surge", text("maxUnavailable"), text("maxSurge")),
        );
    }
    under(w, object);
    conditions(w, object);
    let (new, old): (Vec<&Value>, Vec<&Value>) =
        sets.iter().filter(|s| owned(s, object)).partition(|s| same_template(s, object));
    if !old.is_empty() || !new.is_empty() {
        w.field(0, "OldReplicaSets", told(&old));
        w.field(0, "NewReplicaSet", told(&new));
    }
    true
}

fn owned(set: &Value, by: &Value) -> bool {
    let uid = json::text(by, "metadata.uid");
    json::list(set, "metadata.ownerReferences").iter().any(|o| json::text(o, "uid") == uid)
}

/// Whether a ReplicaSet was made from the template as it is now.
fn same_template(set: &Value, deployment: &Value) -> bool {
    let mut held = json::get(set, "spec.template").cloned().unwrap_or_default();
    json::below(&mut held, "metadata")
        .and_then(|m| json::below(m, "labels"))
        .and_then(|l| json::remove(l, "pod-template-hash"));
    json::get(deployment, "spec.template").is_some_and(|t| json::same(Some(t), Some(&held)))
}

fn told(sets: &[&Value]) -> String {
    let all: Vec<String> = sets
        .iter()
        .map(|s| {
            let (have, want) = (json::int(s, "status.replicas"), json::int(s, "spec.replicas"));
            format!("{} ({have}/{want} replicas created)", json::text(s, "metadata.name"))
        })
        .collect();
    if all.is_empty() { "<none>".into() } else { all.join(", ") }
}

/// ReplicaSets, StatefulSets and DaemonSets.
pub(super) fn set(w: &mut Writer, object: &Value, pods: &[Value]) -> bool {
    let text = |path: &str| json::text(object, path);
    let kind = text("kind");
    w.field(0, "Name", text("metadata.name"));
    // kubectl does not name the namespace of a DaemonSet.
    if kind != "DaemonSet" {
        w.maybe(0, "Namespace", text("metadata.namespace"));
    }
    if kind == "StatefulSet" {
        w.field(0, "CreationTimestamp", time(text("metadata.creationTimestamp")));
    }
    w.field(0, "Selector", selector(json::get(object, "spec.selector")));
    if kind == "DaemonSet" {
        let nodes = json::get(object, "spec.template.spec.nodeSelector");
        w.field(0, "Node-Selector", selector(nodes));
    }
    w.marks(object);
    w.maybe(0, "Controlled By", &controller(object));
    counts(w, object, kind);
    w.field(0, "Pods Status", phases(object, pods));
    under(w, object);
    match kind {
        "ReplicaSet" => conditions(w, object),
        "StatefulSet" => claims(w, object),
        _ => {}
    }
    true
}

fn counts(w: &mut Writer, object: &Value, kind: &str) {
    let status = |field: &str| json::int(object, &format!("status.{field}"));
    let wanted = json::int(object, "spec.replicas");
    match kind {
        "ReplicaSet" => w.field(0, "Replicas", format!("{} current / {wanted} desired", status("replicas"))),
        "StatefulSet" => {
            w.field(0, "Replicas", format!("{wanted} desired | {} total", status("replicas")));
            w.field(0, "Update Strategy", json::text(object, "spec.updateStrategy.type"));
            if json::get(object, "spec.updateStrategy.rollingUpdate.partition").is_some() {
                w.field(1, "Partition", json::int(object, "spec.updateStrategy.rollingUpdate.partition"));
            }
        }
        _ => {
            w.line(0, format!("Desired Number of Nodes Scheduled: {}", status("desiredNumberScheduled")));
            w.line(0, format!("Current Number of Nodes Scheduled: {}", status("currentNumberScheduled")));
            w.line(0, format!("Number of Nodes Scheduled with Up-to-date Pods: {}", status("updatedNumberScheduled")));
            w.line(0, format!("Number of Nodes Scheduled with Available Pods: {}", status("numberAvailable")));
            w.line(0, format!("Number of Nodes Misscheduled: {}", status("numberMisscheduled")));
        }
    }
}

fn phases(object: &Value, pods: &[Value]) -> String {
    let mine: Vec<&str> = pods.iter().filter(|p| owned(p, object)).map(|p| json::text(p, "status.phase")).collect();
    let count = |phase: &str| mine.iter().filter(|p| **p == phase).count();
    format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    )
}

fn claims(w: &mut Writer, object: &Value) {
    let all = json::list(object, "spec.volumeClaimTemplates");
    if all.is_empty() {
        return w.field(0, "Volume Claims", "<none>");
    }
    w.line(0, "Volume Claims:");
    for claim in all {
        let text = |path: &str| json::text(claim, path);
        w.field(1, "Name", text("metadata.name"));
        w.field(1, "StorageClass", text("spec.storageClassName"));
        w.field(1, "Capacity", text("spec.resources.requests.storage"));
        w.field(1, "Access Modes", format!("[{}]", json::texts(claim, "spec.accessModes").join(" ")));
    }
}
