use serde_json::{Value, json};

use super::*;
use crate::fixture::{changed, object, ready_node};

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    spec.as_object_mut().unwrap().entry("containers").or_insert(json!([]));
    object(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}))
}

fn nodes() -> Vec<Arc<Node>> {
    ["n1", "n2"].map(|n| Arc::new(ready_node(n))).into()
}

fn check(pod: &Pod, nodes: &[Arc<Node>], placed: &[(&str, &Pod)], expect: &str) {
    let got = choose(pod, nodes, placed, &Namespaces::new()).unwrap_or_else(|unfit| unfit.message);
    assert_eq!(got, expect);
}

#[test]
fn who_waits() {
    assert!(is_waiting(&pod(json!({}))));
    assert!(!is_waiting(&pod(json!({"nodeName": "n1"}))));
    assert!(!is_waiting(&pod(json!({"schedulerName": "mine"}))));
    assert!(!is_waiting(&pod(json!({"schedulingGates": [{"name": "g"}]}))));
}

#[test]
fn reasons_are_counted() {
    let one = &nodes()[..1];
    check(&pod(json!({})), &[], &[], "no nodes available to schedule pods");
    check(&pod(json!({})), one, &[], "n1");
    let wants = |requests: Value| pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}));
    check(
        &wants(json!({"cpu": "3", "memory": "2Gi"})),
        one,
        &[],
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
    );
    check(
        &wants(json!({"example.com/gpu": "1"})),
        one,
        &[],
        "0/1 nodes are available: 1 Insufficient example.com/gpu.",
    );
    let full: Vec<Pod> = (0..10).map(|_| pod(json!({}))).collect();
    let placed: Vec<(&str, &Pod)> = full.iter().map(|p| ("n1", p)).collect();
    check(&pod(json!({})), one, &placed, "0/1 nodes are available: 1 Too many pods.");
    let selective = pod(json!({"nodeSelector": {"disk": "ssd"}}));
    check(&selective, &nodes(), &[], "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
}

#[test]
fn taints_need_tolerations() {
    let cordoned = changed(&ready_node("n1"), |n| n.spec.get_or_insert_default().unschedulable = Some(true));
    check(&pod(json!({})), &[cordoned], &[], "0/1 nodes are available: 1 node(s) were unschedulable.");
    let down = changed(&ready_node("n1"), |n| n.status = None);
    let message = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.";
    check(&pod(json!({})), std::slice::from_ref(&down), &[], message);
    check(&pod(json!({"tolerations": [{"operator": "Exists"}]})), &[down], &[], "n1");
    let tainted = changed(&ready_node("n1"), |n| {
        n.spec.get_or_insert_default().taints =
            Some(object(json!([{"key": "a", "value": "b", "effect": "NoExecute"}])));
    });
    let tolerant = pod(json!({"tolerations": [{"key": "a", "value": "b", "effect": "NoExecute"}]}));
    check(&tolerant, std::slice::from_ref(&tainted), &[], "n1");
    let other = pod(json!({"tolerations": [{"key": "a", "value": "c"}]}));
    check(&other, &[tainted], &[], "0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.");
}

#[test]
fn affinity_by_label_and_name() {
    let wants = |term: Value| {
        pod(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}}}))
    };
    let by_label =
        json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n1"]}]});
    check(&wants(by_label), &nodes(), &[], "n2");
    let by_name = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]});
    check(&wants(by_name), &nodes(), &[], "n2");
    let nothing = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    check(&wants(json!({})), &nodes(), &[], nothing);
}

#[test]
fn host_ports_collide_by_address_and_protocol() {
    let with = |ip: &str, protocol: &str| {
        pod(json!({"containers": [{"name": "c", "ports":
            [{"containerPort": 80, "hostPort": 54323, "hostIP": ip, "protocol": protocol}]}]}))
    };
    let one = &nodes()[..1];
    let local = with("127.0.0.1", "TCP");
    check(&with("10.0.0.1", "TCP"), one, &[("n1", &local)], "n1");
    check(&with("127.0.0.1", "UDP"), one, &[("n1", &local)], "n1");
    let message = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    check(&with("", "TCP"), one, &[("n1", &local)], message);
    check(&local, one, &[("n1", &local)], message);
}

#[test]
fn pods_of_one_owner_spread() {
    let set = crate::fixture::set("web", 3);
    let sibling = crate::fixture::pod_of(&set, "a");
    check(&sibling, &nodes(), &[("n1", &sibling)], "n2");
    let stranger = pod(json!({}));
    check(&sibling, &nodes(), &[("n1", &sibling), ("n2", &stranger)], "n2");
    check(&stranger, &nodes(), &[("n1", &sibling)], "n2");
}
