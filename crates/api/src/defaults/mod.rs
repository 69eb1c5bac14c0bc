//! What the API fills in when a client leaves it open. Idempotent: a defaulted object stays as it is.
//!
//! Admission (service accounts, tolerations, priorities) and allocation (addresses, ports) are not defaults: they need the cluster.

mod pod;
mod service;
mod workload;

use serde_json::{Map, Value, json};

use crate::json::{below, drop_nulls, each_mut, fill, fill_text, get_mut, list, text};
use crate::resources::Resource;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Fills in the defaults of `object`'s kind and drops nulls.
pub fn apply(res: &Resource, object: &mut Value) {
    if !object.is_object() {
        return;
    }
    drop_nulls(object);
    match res.id() {
        ("", "pods") => pod::pod(object),
        ("", "podtemplates") => pod::template(object, "template"),
        ("", "services") => service::apply(object),
        ("", "namespaces") => namespace(object),
        ("", "secrets") => fill_text(object, "type", "Opaque"),
        ("", "endpoints") => endpoints(object),
        ("", "limitranges") => each_mut(object, "spec.limits").for_each(limit_range),
        ("", "persistentvolumeclaims") => claim(object),
        ("", "persistentvolumes") => volume(object),
        ("apps" | "batch" | "autoscaling", _) | ("", "replicationcontrollers") => workload::apply(res, object),
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(object),
        ("networking.k8s.io", "networkpolicies") => network_policy(object),
        ("networking.k8s.io", "ingressclasses") => ingress_class(object),
        (RBAC, "rolebindings" | "clusterrolebindings") => binding(object),
        ("scheduling.k8s.io", "priorityclasses") => fill(object, "preemptionPolicy", "PreemptLowerPriority"),
        ("storage.k8s.io", "storageclasses") => storage_class(object),
        _ => {}
    }
}

/// The defaults of a TokenRequest.
pub fn token_request(object: &mut Value) {
    drop_nulls(object);
    if let Some(spec) = below(object, "spec") {
        fill(spec, "expirationSeconds", 3600);
    }
}

fn namespace(object: &mut Value) {
    let name = text(object, "metadata.name").to_owned();
    if let Some(labels) = below(object, "metadata").and_then(|m| below(m, "labels")).filter(|_| !name.is_empty()) {
        fill(labels, "kubernetes.io/metadata.name", name);
    }
}

fn endpoints(object: &mut Value) {
    for subset in each_mut(object, "subsets") {
        each_mut(subset, "ports").for_each(|p| fill_text(p, "protocol", "TCP"));
    }
}

/// A most is a default, a default is asked for, and so is a least.
fn limit_range(item: &mut Value) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let amounts = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        if !amounts.is_empty()
            && let Some(defaults) = below(item, to)
        {
            amounts.into_iter().for_each(|(name, amount)| fill(defaults, &name, amount));
        }
    }
}

fn endpoint_slice(object: &mut Value) {
    for port in each_mut(object, "ports") {
        fill(port, "name", "");
        fill(port, "protocol", "TCP");
    }
}

fn claim(object: &mut Value) {
    if let Some(spec) = below(object, "spec") {
        fill(spec, "volumeMode", "Filesystem");
    }
    if let Some(status) = below(object, "status") {
        fill_text(status, "phase", "Pending");
    }
}

fn volume(object: &mut Value) {
    if let Some(spec) = below(object, "spec") {
        fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
    }
    if let Some(status) = below(object, "status") {
        fill_text(status, "phase", "Pending");
    }
}

fn network_policy(object: &mut Value) {
    let Some(spec) = below(object, "spec") else { return };
    fill(spec, "podSelector", Map::new());
    for direction in ["ingress", "egress"] {
        for rule in each_mut(spec, direction) {
            each_mut(rule, "ports").for_each(|p| fill(p, "protocol", "TCP"));
        }
    }
    if list(spec, "policyTypes").is_empty() {
        let egress = !list(spec, "egress").is_empty();
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        crate::json::set(spec, "policyTypes", types);
    }
}

fn ingress_class(object: &mut Value) {
    if let Some(parameters) = get_mut(object, "spec.parameters") {
        fill(parameters, "scope", "Cluster");
    }
}

fn binding(object: &mut Value) {
    if let Some(role) = get_mut(object, "roleRef") {
        fill_text(role, "apiGroup", RBAC);
    }
    for subject in each_mut(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            fill_text(subject, "apiGroup", RBAC);
        }
    }
}

fn storage_class(object: &mut Value) {
    fill(object, "reclaimPolicy", "Delete");
    fill(object, "volumeBindingMode", "Immediate");
}

#[cfg(test)]
mod tests;
