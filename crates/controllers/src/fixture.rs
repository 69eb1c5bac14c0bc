//! Objects for tests.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{Node, Pod},
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

pub(crate) fn now() -> Timestamp {
    at(1_000_000)
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time in range")
}

pub(crate) fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("a well-formed object")
}

/// A ReplicaSet named `name` that selects `app: name`.
pub(crate) fn set(name: &str, replicas: i32) -> ReplicaSet {
    object(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    }))
}

pub(crate) fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
    object(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "uid-web", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
    }))
}

/// A pod of the set, on a node, running and ready.
pub(crate) fn pod_of(set: &ReplicaSet, name: &str) -> Pod {
    let labels = set.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.metadata.as_ref());
    object(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"),
            "labels": labels.and_then(|m| m.labels.clone()), "ownerReferences": [crate::object::controller_ref(set)]},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": at(900_000).to_string()}]},
    }))
}

pub(crate) fn ready_node(name: &str) -> Node {
    object(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    }))
}

pub(crate) fn changed<K: Clone>(object: &K, change: impl FnOnce(&mut K)) -> Arc<K> {
    let mut copy = object.clone();
    change(&mut copy);
    Arc::new(copy)
}
