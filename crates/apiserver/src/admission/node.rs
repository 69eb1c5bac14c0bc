//! What a node may write, beyond what its role says: its own Node and lease, the status of its own pods, tokens for pods
//! that it runs. The reference's NodeRestriction, in its words.

use serde_json::Value;
use skiff_api::status::Status;

use crate::Result;
use crate::authz::node_name;
use crate::call::Call;
use crate::object::{self, text};

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels of these domains mean something to the cluster; a node says only the ones below of itself.
const RESERVED: [&str; 2] = ["kubernetes.io", "k8s.io"];
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "kubernetes.io/windows-build",
];
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn refuse(call: &Call, name: &str, why: String) -> Result<()> {
    Err(Status::forbidden(call.resource(), name, why))
}

pub(super) fn create(call: &Call, value: &Value) -> Result<()> {
    let Some(node) = node_name(&call.identity) else { return Ok(()) };
    let name = object::name(value);
    match call.resource().id() {
        ("", "pods") => mirror_pod(call, node, value),
        ("", "nodes") => own_node(call, node, name, value, None),
        ("coordination.k8s.io", "leases") => lease(call, node, name),
        ("storage.k8s.io", "csinodes") if name != node => {
            refuse(call, name, format!("node {node:?} is not allowed to modify CSINode {name:?}"))
        }
        _ => Ok(()),
    }
}

pub(super) fn update(call: &Call, old: &Value, next: &Value, subresource: Option<&str>) -> Result<()> {
    let Some(node) = node_name(&call.identity) else { return Ok(()) };
    let name = object::name(old);
    match (call.resource().id(), subresource) {
        (("", "pods"), Some("status")) => {
            own_pod(call, node, old, "only update pod status for pods with spec.nodeName set to itself")?;
            match old["metadata"]["labels"] == next["metadata"]["labels"] {
                true => Ok(()),
                false => refuse(call, name, format!("node {node:?} cannot update labels through pod status")),
            }
        }
        (("", "nodes"), _) => own_node(call, node, name, next, Some(old)),
        (("coordination.k8s.io", "leases"), _) => lease(call, node, name),
        _ => Ok(()),
    }
}

/// Deleting and evicting.
pub(super) fn delete(call: &Call, value: &Value) -> Result<()> {
    let Some(node) = node_name(&call.identity) else { return Ok(()) };
    match call.resource().id() {
        ("", "pods") => own_pod(call, node, value, "only delete pods with spec.nodeName set to itself"),
        ("coordination.k8s.io", "leases") => lease(call, node, object::name(value)),
        _ => Ok(()),
    }
}

/// A token that a node asks for is bound to a pod that it runs under this account.
pub(crate) fn token(call: &Call, request: &Value) -> Result<()> {
    let Some(node) = node_name(&call.identity) else { return Ok(()) };
    let (namespace, account) = (call.namespace().unwrap_or_default(), call.name()?);
    let bound = &request["spec"]["boundObjectRef"];
    if text(bound, "/kind") != "Pod" || text(bound, "/name").is_empty() {
        return refuse(call, account, "node requested token not bound to a pod".into());
    }
    if text(bound, "/uid").is_empty() {
        return refuse(call, account, "node requested token with a pod binding without a uid".into());
    }
    match call.server.access.authorizer().nodes(|nodes| nodes.runs(node, namespace, text(bound, "/name"), account)) {
        true => Ok(()),
        false => refuse(call, account, "node requested token bound to a pod scheduled on a different node".into()),
    }
}

fn own_pod(call: &Call, node: &str, pod: &Value, may: &str) -> Result<()> {
    match text(pod, "/spec/nodeName") == node {
        true => Ok(()),
        false => refuse(call, object::name(pod), format!("node {node:?} can {may}")),
    }
}

/// A pod of the node's own making stands for one that the API cannot give rights to.
fn mirror_pod(call: &Call, node: &str, pod: &Value) -> Result<()> {
    let why = match pod["metadata"]["annotations"].get(MIRROR) {
        None => format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"),
        Some(_) if text(pod, "/spec/nodeName") != node => {
            format!("node {node:?} can only create pods with spec.nodeName set to itself")
        }
        Some(_) if !text(pod, "/spec/serviceAccountName").is_empty() => {
            format!("node {node:?} can not create pods that reference a service account")
        }
        Some(_) => return Ok(()),
    };
    refuse(call, object::name(pod), why)
}

fn own_node(call: &Call, node: &str, name: &str, next: &Value, old: Option<&Value>) -> Result<()> {
    if name != node {
        return refuse(call, name, format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if let Some(old) = old {
        if next["spec"]["taints"] != old["spec"]["taints"] {
            return refuse(call, name, format!("node {node:?} is not allowed to modify taints"));
        }
        if next["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
            return refuse(call, name, format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    let before = old.map(|old| &old["metadata"]["labels"]);
    let labels = next["metadata"]["labels"].as_object().into_iter().flatten();
    let changed = labels.filter(|(key, value)| before.is_none_or(|before| before.get(key.as_str()) != Some(value)));
    let forbidden: Vec<&str> = changed.map(|(key, _)| key.as_str()).filter(|key| !own_label(key)).collect();
    match forbidden.is_empty() {
        true => Ok(()),
        false => {
            let labels = forbidden.join(", ");
            refuse(call, name, format!("node {node:?} is not allowed to set the following labels: {labels}"))
        }
    }
}

fn own_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    OWN_LABELS.contains(&key) || OWN_DOMAINS.iter().any(|d| within(d)) || !RESERVED.iter().any(|d| within(d))
}

fn lease(call: &Call, node: &str, name: &str) -> Result<()> {
    match call.namespace() == Some("kube-node-lease") && name == node {
        true => Ok(()),
        false => refuse(call, name, format!("node {node:?} can only access its own lease in kube-node-lease")),
    }
}

#[cfg(test)]
mod tests {
    use super::own_label;

    #[test]
    fn labels_of_a_node_itself() {
        for own in
            ["team", "example.org/rack", "kubernetes.io/hostname", "node.kubernetes.io/x", "a.node.kubernetes.io/x"]
        {
            assert!(own_label(own), "{own}");
        }
        for others in ["node-role.kubernetes.io/control-plane", "node-restriction.kubernetes.io/x", "k8s.io/x"] {
            assert!(!own_label(others), "{others}");
        }
    }
}
