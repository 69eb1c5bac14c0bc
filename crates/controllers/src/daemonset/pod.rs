//! The pod for one node: the scheduler binds it, but only there.

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration,
    },
};

use crate::{
    history::LABEL as REVISION,
    object::{self, controller_ref, name, node_of},
    scheduler::{affinity, filter},
};

const FIELD: &str = "metadata.name";

/// A node's state does not keep its daemons away: taint and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

pub(crate) fn make(set: &DaemonSet, node: &str, revision: &str) -> Pod {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = object::pod_from(&template, &set.metadata, controller_ref(set));
    pod.metadata.labels.get_or_insert_default().insert(REVISION.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    let mut tolerated: Vec<(&str, &str)> = TOLERATED.to_vec();
    if spec.host_network == Some(true) {
        tolerated.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    spec.tolerations.get_or_insert_default().extend(tolerated.into_iter().map(toleration));
    bind(spec.affinity.get_or_insert_default(), node);
    pod
}

fn toleration((key, effect): (&str, &str)) -> Toleration {
    Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Default::default()
    }
}

/// The template's own demands on nodes were looked at already; here only the name counts.
fn bind(affinity: &mut Affinity, node: &str) {
    let values = Some(vec![node.into()]);
    let by_name = NodeSelectorRequirement { key: FIELD.into(), operator: "In".into(), values };
    let term = NodeSelectorTerm { match_fields: Some(vec![by_name]), match_expressions: None };
    let preferred = affinity.node_affinity.take().and_then(|a| a.preferred_during_scheduling_ignored_during_execution);
    affinity.node_affinity = Some(NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
        preferred_during_scheduling_ignored_during_execution: preferred,
    });
}

/// The node that a daemon is on, or is meant for.
pub(crate) fn home(pod: &Pod) -> Option<&str> {
    let required = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let mut fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten()).filter(|r| r.key == FIELD);
        fields.find_map(|r| r.values.as_ref()?.first().map(String::as_str))
    };
    node_of(pod).or_else(required)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// One is made, and stays.
    Run,
    /// None is made, but one that is there stays.
    Stay,
    No,
}

pub(crate) fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut asked = Pod { spec: template.spec, ..Default::default() };
    if !affinity::allows(&asked, node) {
        return Fit::No;
    }
    let spec = asked.spec.get_or_insert_default();
    spec.tolerations.get_or_insert_default().extend(TOLERATED.into_iter().map(toleration));
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let keeps_away = |effect: &str| taints.iter().any(|t| t.effect == effect && !filter::tolerates(&asked, t));
    match (keeps_away("NoExecute"), keeps_away("NoSchedule")) {
        (true, _) => Fit::No,
        (false, true) => Fit::Stay,
        (false, false) => Fit::Run,
    }
}

pub(crate) fn node_name(node: &Node) -> &str {
    name(&node.metadata)
}
