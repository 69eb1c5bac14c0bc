//! Which nodes a pod asks for, by their labels and names.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::object::{labels, name};

/// nodeSelector and the required part of the node affinity.
pub(crate) fn allows(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels(&node.metadata).get(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node)))
}

/// The sum of the weights of the preferred terms that the node fulfils.
pub(crate) fn preference(pod: &Pod, node: &Node) -> i32 {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    preferred.into_iter().flatten().filter(|p| term(&p.preference, node)).map(|p| p.weight).sum()
}

/// All of a term's demands; a term without any fits nothing.
fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let fields: BTreeMap<String, String> = [("metadata.name".to_string(), name(&node.metadata).to_string())].into();
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let of_fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && of_fields.is_empty())
        && expressions.iter().all(|r| holds(r, labels(&node.metadata)))
        && of_fields.iter().all(|r| holds(r, &fields))
}

fn holds(requirement: &NodeSelectorRequirement, of: &BTreeMap<String, String>) -> bool {
    let value = of.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.contains(v));
    let compare = |test: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|v| v.parse().ok());
        value.and_then(|v| v.parse().ok()).zip(bound).is_some_and(|(v, b)| test(v, b))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|v, b| v > b),
        "Lt" => compare(|v, b| v < b),
        _ => false,
    }
}
