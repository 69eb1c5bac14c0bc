//! What a client may set, by verb: the server's own fields are wiped on create and kept on update, and `generation` follows
//! the spec. Runs after defaults and before validation. uid, timestamps and resourceVersion are the caller's.

mod service;

use ::base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::json::{below, fill, get, get_mut, remove, restore, same, set};
use crate::quantity;
use crate::resources::Resource;

pub use service::{needs_cluster_ip, needs_health_check_port, needs_node_port};

/// Kinds whose `metadata.generation` counts changes of their spec.
fn has_generation(res: &Resource) -> bool {
    matches!(
        res.id(),
        ("", "pods" | "replicationcontrollers")
            | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
            | ("batch", "jobs" | "cronjobs")
            | ("networking.k8s.io", "ingresses" | "networkpolicies" | "ingressclasses" | "servicecidrs")
            | ("policy", "poddisruptionbudgets")
            | ("discovery.k8s.io", "endpointslices")
    )
}

/// Kinds that a client may create together with their status.
fn keeps_status_on_create(res: &Resource) -> bool {
    matches!(res.id(), ("", "nodes"))
}

fn has_status(res: &Resource) -> bool {
    res.subresource("status").is_some()
}

pub fn before_create(res: &Resource, object: &mut Value) {
    if let Some(metadata) = below(object, "metadata") {
        for key in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            remove(metadata, key);
        }
        if has_generation(res) {
            set(metadata, "generation", 1);
        }
    }
    if has_status(res) && !keeps_status_on_create(res) {
        let status = first_status(res, object);
        set(object, "status", status);
    }
    match res.id() {
        ("", "secrets") => merge_string_data(object),
        ("", "namespaces") => {
            if let Some(spec) = below(object, "spec") {
                set(spec, "finalizers", json!(["kubernetes"]));
            }
        }
        ("", "services") => service::normalize_cluster_ips(object, None),
        ("networking.k8s.io", "servicecidrs") => hold(object, "networking.k8s.io/service-cidr-finalizer"),
        ("discovery.k8s.io", "endpointslices") => drop_deprecated_topology(object),
        ("batch", "jobs") => job_selector(object),
        _ => {}
    }
}

/// The status of an object that nobody has worked on yet.
fn first_status(res: &Resource, object: &Value) -> Value {
    match res.id() {
        ("", "pods") => json!({"phase": "Pending", "qosClass": qos_class(object)}),
        ("", "namespaces") => json!({"phase": "Active"}),
        ("", "services") | ("networking.k8s.io", "ingresses") => json!({"loadBalancer": {}}),
        ("", "persistentvolumes" | "persistentvolumeclaims") => json!({"phase": "Pending"}),
        ("", "replicationcontrollers") | ("apps", "replicasets") => json!({"replicas": 0}),
        ("apps", "statefulsets") => json!({"replicas": 0, "availableReplicas": 0}),
        ("apps", "daemonsets") => json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }),
        ("policy", "poddisruptionbudgets") => {
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
        }
        ("autoscaling", _) => json!({"currentReplicas": 0, "desiredReplicas": 0}),
        ("networking.k8s.io", "servicecidrs") => range_status(object),
        _ => json!({}),
    }
}

/// Addresses may be given out of a range from the moment it is there.
fn range_status(object: &Value) -> Value {
    let message = match crate::json::text(object, "metadata.name") {
        "kubernetes" => "Kubernetes default Service CIDR is ready",
        _ => "Kubernetes Service CIDR is ready",
    };
    let since = crate::json::text(object, "metadata.creationTimestamp");
    json!({"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": message, "lastTransitionTime": since}]})
}

/// What must be cleared before the object may go.
fn hold(object: &mut Value, finalizer: &str) {
    let Some(metadata) = below(object, "metadata") else { return };
    let mut all: Vec<Value> = crate::json::list(metadata, "finalizers").to_vec();
    if !all.iter().any(|f| f == finalizer) {
        all.push(finalizer.into());
        set(metadata, "finalizers", all);
    }
}

/// Restores what an update through `subresource` (None: the object itself) must not change, and bumps `generation`.
pub fn before_update(res: &Resource, new: &mut Value, old: &Value, subresource: Option<&str>) {
    restore_metadata(new, old);
    match subresource {
        None => update_object(res, new, old),
        Some("status") => update_status(res, new, old),
        Some("finalize") => keep_only(new, old, &["spec"]),
        Some("approval") => keep_status_part(new, old, "conditions"),
        Some("ephemeralcontainers") => keep_spec_parts(new, old, &["ephemeralContainers"]),
        Some("resize") => keep_spec_parts(new, old, &["containers", "initContainers", "resources"]),
        Some(_) => {}
    }
    if has_generation(res) && subresource != Some("status") && spec_changed(res, new, old) {
        let generation = get(old, "metadata.generation").and_then(Value::as_i64).unwrap_or_default();
        if let Some(metadata) = below(new, "metadata") {
            set(metadata, "generation", generation + 1);
        }
    }
}

fn restore_metadata(new: &mut Value, old: &Value) {
    let empty = Value::Object(Map::new());
    let from = get(old, "metadata").unwrap_or(&empty);
    if let Some(metadata) = below(new, "metadata") {
        remove(metadata, "selfLink");
        for key in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
        ] {
            // What the old object never had does not appear, but a name prefix sent later does no harm and stays.
            if key != "generateName" || from.get(key).is_some() {
                restore(metadata, from, key);
            }
        }
    }
}

fn update_object(res: &Resource, new: &mut Value, old: &Value) {
    if has_status(res) {
        restore(new, old, "status");
    }
    match res.id() {
        ("", "services") => service::before_update(new, old),
        ("", "secrets") => {
            merge_string_data(new);
            let kind = get(old, "type").cloned();
            if let Some(kind) = kind.filter(|_| get(new, "type").is_none()) {
                set(new, "type", kind);
            }
        }
        ("", "namespaces") => {
            restore(new, old, "spec");
        }
        ("discovery.k8s.io", "endpointslices") => drop_deprecated_topology(new),
        ("batch", "jobs") if get(new, "spec.selector").is_none() => {
            if let (Some(spec), Some(selector)) = (get_mut(new, "spec"), get(old, "spec.selector")) {
                fill(spec, "selector", selector.clone());
            }
        }
        _ => {}
    }
}

/// Through `status` only the status changes, and metadata as far as the kind lets it.
fn update_status(res: &Resource, new: &mut Value, old: &Value) {
    let sent = remove(new, "status");
    keep_only(new, old, &[]);
    match sent {
        Some(status) => set(new, "status", status),
        None => {
            remove(new, "status");
        }
    }
    let kept: &[&str] = match res.id() {
        ("", "pods") => &["ownerReferences"],
        ("apps", "deployments") => &["labels"],
        _ => &[],
    };
    let empty = Value::Object(Map::new());
    if let Some(metadata) = below(new, "metadata") {
        let from = get(old, "metadata").unwrap_or(&empty);
        kept.iter().for_each(|key| restore(metadata, from, key));
    }
    if res.id() == ("", "services") {
        service::drop_foreign_status(new);
    }
    if res.id() == ("", "pods") && get(new, "status.qosClass").is_none() {
        let class = get(old, "status.qosClass").cloned().unwrap_or_else(|| qos_class(old).into());
        if let Some(status) = below(new, "status") {
            set(status, "qosClass", class);
        }
    }
}

/// Everything but metadata and the fields named goes back to what it was.
fn keep_only(new: &mut Value, old: &Value, fields: &[&str]) {
    let (Some(map), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    let mut kept = before.clone();
    for key in fields.iter().chain(&["metadata"]) {
        match map.shift_remove(*key) {
            Some(value) => kept.insert((*key).to_owned(), value),
            None => kept.shift_remove(*key),
        };
    }
    *map = kept;
}

fn keep_status_part(new: &mut Value, old: &Value, part: &str) {
    let sent = get(new, "status").and_then(|s| s.get(part)).cloned();
    keep_only(new, old, &[]);
    if let (Some(status), Some(value)) = (below(new, "status"), sent) {
        set(status, part, value);
    }
}

fn keep_spec_parts(new: &mut Value, old: &Value, parts: &[&str]) {
    let sent = get(new, "spec").cloned().unwrap_or_default();
    keep_only(new, old, &[]);
    if let Some(spec) = below(new, "spec") {
        parts.iter().for_each(|part| restore(spec, &sent, part));
    }
}

fn spec_changed(res: &Resource, new: &Value, old: &Value) -> bool {
    let differs = |path: &str| !same(get(new, path), get(old, path));
    match res.id() {
        ("discovery.k8s.io", _) => differs("endpoints") || differs("ports") || differs("addressType"),
        // A Deployment's annotations are copied to its ReplicaSets, so its controller must see them.
        ("apps", "deployments") => differs("spec") || differs("metadata.annotations"),
        _ => differs("spec"),
    }
}

/// `stringData` is written into `data` and never stored.
fn merge_string_data(object: &mut Value) {
    let Some(Value::Object(strings)) = remove(object, "stringData") else { return };
    let Some(data) = below(object, "data") else { return };
    for (key, value) in strings {
        if let Some(text) = value.as_str() {
            set(data, &key, base64(text.as_bytes()));
        }
    }
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn drop_deprecated_topology(object: &mut Value) {
    crate::json::each_mut(object, "endpoints").for_each(|e| {
        remove(e, "deprecatedTopology");
    });
}

/// A Job selects its own pods by its uid, unless the client took that over.
fn job_selector(object: &mut Value) {
    let uid = crate::json::text(object, "metadata.uid").to_owned();
    let name = crate::json::text(object, "metadata.name").to_owned();
    if uid.is_empty() || crate::json::truth(object, "spec.manualSelector") {
        return;
    }
    let Some(spec) = below(object, "spec") else { return };
    fill(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let labels = below(spec, "template").and_then(|t| below(t, "metadata")).and_then(|m| below(m, "labels"));
    if let Some(labels) = labels {
        for prefix in ["", "batch.kubernetes.io/"] {
            fill(labels, &format!("{prefix}controller-uid"), uid.as_str());
            fill(labels, &format!("{prefix}job-name"), name.as_str());
        }
    }
}

/// Guaranteed, Burstable or BestEffort, from the containers' requests and limits of CPU and memory.
pub fn qos_class(pod: &Value) -> &'static str {
    let containers = ["spec.initContainers", "spec.containers"].into_iter().flat_map(|p| crate::json::list(pod, p));
    let (mut any, mut all_limited) = (false, true);
    for container in containers {
        for name in ["cpu", "memory"] {
            let amount = |kind: &str| {
                let value = get(container, "resources").and_then(|r| r.get(kind)).and_then(|r| r.get(name));
                value.and_then(|v| quantity::millis(&v.as_str().map_or_else(|| v.to_string(), str::to_owned)))
            };
            let (request, limit) = (amount("requests").unwrap_or(0), amount("limits").unwrap_or(0));
            any |= request > 0 || limit > 0;
            all_limited &= limit > 0 && (request == limit || request == 0);
        }
    }
    match (any, all_limited) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests;
