use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::{
    fixture::{at, changed, now, object, ready_node},
    scheduler,
};

fn set(spec: Value) -> DaemonSet {
    let mut all = json!({
        "metadata": {"name": "agent", "namespace": "ns", "uid": "u"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        all["spec"][key] = value.clone();
    }
    object(all)
}

/// "n1:a!" is on n1, of revision a, ready; "x" terminating; "f" failed.
fn pod(set: &DaemonSet, text: &str) -> Arc<Pod> {
    let (node, rest) = text.split_once(':').unwrap();
    let mut pod = make(set, node, &rest[..1]);
    pod.metadata.uid = Some(text.into());
    pod.metadata.name = Some(text.into());
    let ready = if rest.contains('!') { "True" } else { "False" };
    let phase = if rest.contains('f') { "Failed" } else { "Running" };
    pod.status = Some(object(json!({"phase": phase, "conditions": [
        {"type": "Ready", "status": ready, "lastTransitionTime": at(900_000).to_string()}]})));
    pod.metadata.deletion_timestamp = rest.contains('x').then(|| Time(now()));
    Arc::new(pod)
}

fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
    changed(&ready_node(name), |n| {
        let taints = taint.map(|(key, effect)| object(json!([{"key": key, "effect": effect}])));
        n.spec = Some(k8s_openapi::api::core::v1::NodeSpec { taints, ..Default::default() });
    })
}

fn check_on(set: &DaemonSet, nodes: &[Arc<Node>], pods: &str, expect: &str) -> DaemonSetStatus {
    let pods: Vec<_> = pods.split_whitespace().map(|p| pod(set, p)).collect();
    let plan = plan(set, nodes, &pods, "b", now());
    let made = plan.create.iter().map(|p| format!("+{}", home(p).unwrap()));
    let deleted = plan.delete.iter().map(|p| format!("-{}", p.metadata.name.as_deref().unwrap()));
    assert_eq!(made.chain(deleted).collect::<Vec<_>>().join(" "), expect);
    plan.status
}

fn check(set: &DaemonSet, pods: &str, expect: &str) -> DaemonSetStatus {
    check_on(set, &[node("n1", None), node("n2", None), node("n3", None)], pods, expect)
}

#[test]
fn one_on_each_node() {
    let agent = set(json!({}));
    check(&agent, "", "+n1 +n2 +n3");
    check(&agent, "n2:b", "+n1 +n3");
    check(&agent, "n1:b! n2:b! n3:b!", "");
    check(&agent, "n1:b! n1:b1 n2:b! n3:b!", "-n1:b1");
    check(&agent, "n1:bf n2:b! n3:b!x", "-n1:bf");
    let status = check(&agent, "n1:b! n2:b n3:a!", "");
    assert_eq!((status.desired_number_scheduled, status.number_ready), (3, 2));
    assert_eq!((status.number_unavailable, status.updated_number_scheduled), (Some(1), Some(2)));
}

#[test]
fn taints_and_selectors_decide_where() {
    let agent = set(json!({}));
    let nodes = [
        node("n1", Some(("node.kubernetes.io/unschedulable", "NoSchedule"))),
        node("n2", Some(("dedicated", "NoSchedule"))),
        node("n3", Some(("broken", "NoExecute"))),
    ];
    check_on(&agent, &nodes, "", "+n1");
    check_on(&agent, &nodes, "n1:b! n2:b! n3:b!", "-n3:b!");
    let template = json!({"metadata": {"labels": {"app": "agent"}},
        "spec": {"containers": [], "nodeSelector": {"kubernetes.io/hostname": "n2"}}});
    check(&set(json!({"template": template})), "n1:b!", "+n2 -n1:b!");
}

#[test]
fn an_update_goes_node_by_node() {
    let agent = set(json!({}));
    check(&agent, "n1:a! n2:a! n3:a!", "-n1:a!");
    check(&agent, "n1:b n2:a! n3:a!", "");
    check(&agent, "n1:b! n2:a n3:a!", "-n2:a");
    let two = set(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}}));
    check(&two, "n1:a! n2:a! n3:a!", "-n1:a! -n2:a!");
    check(&set(json!({"updateStrategy": {"type": "OnDelete"}})), "n1:a! n2:a! n3:a!", "");
}

#[test]
fn the_scheduler_can_only_bind_it_to_its_node() {
    let made = make(&set(json!({})), "n2", "b");
    assert!(scheduler::affinity::allows(&made, &ready_node("n2")));
    assert!(!scheduler::affinity::allows(&made, &ready_node("n1")));
}
