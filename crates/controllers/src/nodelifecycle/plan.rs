//! What a node's conditions and taints should be, and when its pods must go.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use crate::{object::is_deleted, scheduler::filter::tolerated_by};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Taints by condition: (condition, status, taint).
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub(crate) fn ready_status(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

/// The conditions to write for a node that was silent longer than the `grace` it has; None when they are right or the node
/// reports.
pub(crate) fn conditions(
    node: &Node,
    silence: Duration,
    grace: Duration,
    now: Timestamp,
) -> Option<Vec<NodeCondition>> {
    if silence <= grace {
        return None;
    }
    let known = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    let unknown = kinds.iter().filter_map(|kind| {
        let current = known.iter().find(|c| c.type_ == *kind);
        if current.is_some_and(|c| c.status == "Unknown") {
            return None;
        }
        let (reason, message) = match current {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        Some(NodeCondition {
            type_: kind.to_string(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: current.and_then(|c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        })
    });
    let unknown: Vec<_> = unknown.collect();
    (!unknown.is_empty()).then_some(unknown)
}

/// The taints to write; None when those there are right. Taints of others are left alone.
pub(crate) fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let have = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let wanted = wanted(node);
    let ours = |t: &Taint| {
        let by_condition = BY_CONDITION.iter().any(|(_, _, key)| *key == t.key);
        (by_condition || t.key == UNSCHEDULABLE) && t.effect != "PreferNoSchedule"
    };
    let is_wanted = |t: &Taint| wanted.iter().any(|(key, effect)| *key == t.key && *effect == t.effect);
    let mut want: Vec<Taint> = have.iter().filter(|t| !ours(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in wanted {
        if !want.iter().any(|t| t.key == key && t.effect == effect) {
            let added = (effect == "NoExecute").then_some(Time(now));
            want.push(Taint { key: key.into(), effect: effect.into(), time_added: added, value: None });
        }
    }
    (want != have).then_some(want)
}

fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut wanted = vec![];
    for (kind, status, key) in BY_CONDITION {
        if conditions.iter().any(|c| c.type_ == kind && c.status == status) {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    // A node that never reported is not ready.
    if ready_status(node).is_none() {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// When a pod must leave its node because of the node's NoExecute taints; None: it may stay.
pub(crate) fn eviction(pod: &Pod, node: &Node) -> Option<Timestamp> {
    if is_deleted(&pod.metadata) {
        return None;
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let ends = taints.iter().filter(|t| t.effect == "NoExecute").filter_map(|taint| {
        let since = taint.time_added.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let matching: Vec<_> = tolerations.iter().filter(|t| tolerated_by(t, taint)).collect();
        if matching.is_empty() {
            return Some(since);
        }
        let seconds = matching.iter().filter_map(|t| t.toleration_seconds).min()?.max(0);
        Some(since.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
    });
    ends.min()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::NODE_MONITOR_GRACE_PERIOD as GRACE;
    use crate::fixture::{at, changed, now, object, pod_of, ready_node, set};

    fn keys(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        taints.map(|all| {
            all.iter().map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)).collect()
        })
    }

    fn with_ready(status: &str) -> Arc<Node> {
        changed(&ready_node("n1"), |n| {
            n.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = status.into();
        })
    }

    #[test]
    fn silence_makes_a_node_unknown_once() {
        let node = ready_node("n1");
        assert_eq!(conditions(&node, GRACE, GRACE, now()), None);
        let unknown = conditions(&node, GRACE + Duration::from_secs(1), GRACE, now()).unwrap();
        assert_eq!(unknown.len(), 4);
        assert_eq!(unknown[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(unknown[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let silent = changed(&node, |n| n.status.as_mut().unwrap().conditions = Some(unknown));
        assert_eq!(conditions(&silent, GRACE * 2, GRACE, now()), None);
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        assert_eq!(keys(taints(&ready_node("n1"), now())), None);
        let down = with_ready("Unknown");
        assert_eq!(keys(taints(&down, now())).unwrap(), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
        let tainted = changed(&*with_ready("True"), |n| {
            let mut all = taints(&down, now()).unwrap();
            all.push(object(json!({"key": "mine", "effect": "NoSchedule"})));
            n.spec.get_or_insert_default().taints = Some(all);
        });
        assert_eq!(keys(taints(&tainted, now())).unwrap(), ["mine:NoSchedule"]);
        let cordoned = changed(&ready_node("n1"), |n| n.spec.get_or_insert_default().unschedulable = Some(true));
        assert_eq!(keys(taints(&cordoned, now())).unwrap(), ["unschedulable:NoSchedule"]);
    }

    #[test]
    fn pods_leave_when_their_toleration_ends() {
        let node = changed(&*with_ready("Unknown"), |n| {
            let all = taints(n, at(1000));
            n.spec.get_or_insert_default().taints = all;
        });
        let pod = pod_of(&set("web", 1), "a");
        assert_eq!(eviction(&pod, &node), Some(at(1000)));
        let patient = |seconds: Option<i64>| {
            changed(&pod, |p| {
                let t = json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
                p.spec.as_mut().unwrap().tolerations = Some(object(t));
            })
        };
        assert_eq!(eviction(&patient(Some(300)), &node), Some(at(1300)));
        assert_eq!(eviction(&patient(None), &node), None);
        assert_eq!(eviction(&pod, &ready_node("n1")), None);
    }
}
