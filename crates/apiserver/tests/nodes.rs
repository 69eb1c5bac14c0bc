//! What nodes may do: read what their own pods use, write themselves and the status of their own pods, and nothing else.

mod support;

use http::Method;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use support::Api;

async fn pod(api: &Api, name: &str, node: &str, secret: &str) -> Value {
    let container = json!({"name": "main", "image": "i",
        "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]});
    let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [container]}});
    api.create("/api/v1/namespaces/default/pods", pod).await
}

#[tokio::test]
async fn a_node_reads_what_its_pods_use() {
    let api = Api::new().await;
    for secret in ["mine", "theirs"] {
        api.create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": secret}})).await;
    }
    pod(&api, "one", "a", "mine").await;
    pod(&api, "two", "b", "theirs").await;
    let a = api.by(Identity::node("a"));
    for (path, code) in [
        ("/api/v1/namespaces/default/secrets/mine", 200),
        ("/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dmine", 200),
        ("/api/v1/namespaces/default/secrets/theirs", 403),
        ("/api/v1/namespaces/default/secrets", 403),
        ("/api/v1/secrets", 403),
        ("/api/v1/namespaces/default/pods/one", 200),
        ("/api/v1/namespaces/default/pods/two", 403),
        ("/api/v1/pods", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Da", 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Db", 403),
        ("/api/v1/services", 200),
        ("/api/v1/nodes", 200),
        ("/apis/apps/v1/deployments", 403),
    ] {
        assert_eq!(a.get(path).await.0, code, "{path}");
    }
    let (_, refused) = a.get("/api/v1/namespaces/default/secrets/theirs").await;
    let why = refused["message"].as_str().unwrap_or_default();
    assert!(why.contains("no relationship found between node \"a\" and this object"), "{why}");
    api.delete("/api/v1/namespaces/default/pods/one?gracePeriodSeconds=0").await;
    assert_eq!(a.get("/api/v1/namespaces/default/secrets/mine").await.0, 403, "its pod is gone");
}

#[tokio::test]
async fn a_node_writes_itself_and_its_pods() {
    let api = Api::new().await;
    let (one, two) = (pod(&api, "one", "a", "x").await, pod(&api, "two", "b", "x").await);
    let a = api.by(Identity::node("a"));
    let node = |name: &str| json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    assert_eq!(a.json(Method::POST, "/api/v1/nodes", node("a")).await.0, 201);
    let (code, refused) = a.json(Method::POST, "/api/v1/nodes", node("b")).await;
    assert_eq!(
        (code, refused["message"].as_str().unwrap()),
        (403, "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"")
    );
    api.create("/api/v1/nodes", node("b")).await;

    let running = json!({"status": {"phase": "Running"}});
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    for (path, body, code) in [
        ("/api/v1/namespaces/default/pods/one/status", running.clone(), 200),
        ("/api/v1/namespaces/default/pods/two/status", running, 403),
        ("/api/v1/namespaces/default/pods/one/status", label("app"), 403),
        ("/api/v1/namespaces/default/pods/one", label("app"), 403),
        ("/api/v1/nodes/a", label("rack"), 200),
        ("/api/v1/nodes/a", label("node-role.kubernetes.io/control-plane"), 403),
        ("/api/v1/nodes/a", taint, 403),
        ("/api/v1/nodes/b", label("rack"), 403),
        ("/api/v1/nodes/b/status", json!({"status": {"phase": "x"}}), 403),
    ] {
        let (seen, value) = a.merge(path, body.clone()).await;
        assert_eq!(seen, code, "{path} {body}: {value}");
    }

    let lease = |name: &str| json!({"metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(a.json(Method::POST, leases, lease("a")).await.0, 201);
    assert_eq!(a.json(Method::POST, leases, lease("b")).await.0, 403);
    assert_eq!(a.merge(&format!("{leases}/a"), json!({"spec": {"holderIdentity": "a"}})).await.0, 200);

    let token = |pod: &Value| {
        let bound =
            json!({"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
        json!({"spec": {"boundObjectRef": bound}})
    };
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(a.json(Method::POST, tokens, token(&one)).await.0, 201);
    assert_eq!(a.json(Method::POST, tokens, token(&two)).await.0, 403);
    assert_eq!(a.json(Method::POST, tokens, json!({"spec": {}})).await.0, 403);

    let plain =
        json!({"metadata": {"name": "own"}, "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(a.json(Method::POST, "/api/v1/namespaces/default/pods", plain).await.0, 403);
    assert_eq!(a.delete("/api/v1/namespaces/default/pods/two").await.0, 403);
    assert_eq!(a.delete("/api/v1/namespaces/default/pods/one").await.0, 200);
}
