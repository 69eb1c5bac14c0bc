//! ResourceQuotas and LimitRanges: exact, also when many ask at once.

mod support;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use support::Api;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn quota(hard: Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})
}

fn service(name: &str, kind: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}})
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]}})
}

async fn used(api: &Api) -> Value {
    api.get(&format!("{QUOTAS}/q")).await.1["status"]["used"].clone()
}

#[tokio::test]
async fn services_are_counted_by_kind() {
    let api = Api::new().await;
    api.create(SERVICES, service("before", "NodePort")).await;
    let hard =
        json!({"services": "3", "services.nodeports": "2", "services.loadbalancers": "1", "resourcequotas": "1"});
    let made = api.create(QUOTAS, quota(hard.clone())).await;
    assert_eq!(made["status"]["hard"], hard);
    // `kubernetes` and the one from before.
    let want = |services: &str, ports: &str, balancers: &str| json!({"services": services, "services.nodeports": ports, "services.loadbalancers": balancers, "resourcequotas": "1"});
    assert_eq!(used(&api).await, want("2", "1", "0"));
    api.create(SERVICES, service("lb", "LoadBalancer")).await;
    assert_eq!(used(&api).await, want("3", "2", "1"));
    let (code, status) = api.json(Method::POST, SERVICES, service("more", "ClusterIP")).await;
    let words = "services \"more\" is forbidden: exceeded quota: q, requested: services=1, used: services=3, limited: services=3";
    assert_eq!((code, status["message"].as_str().unwrap()), (403, words));
    // A change of type counts, and gives back.
    let (code, _) = api.merge(&format!("{SERVICES}/lb"), json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!((code, used(&api).await), (200, want("3", "1", "0")));
    api.merge(&format!("{SERVICES}/lb"), json!({"spec": {"type": "NodePort"}})).await;
    let (_, status) = api
        .merge(
            &format!("{SERVICES}/before"),
            json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}}),
        )
        .await;
    assert!(
        status["message"].as_str().unwrap().contains("exceeded quota: q, requested: services.nodeports=1"),
        "{status}"
    );
    api.delete(&format!("{SERVICES}/lb")).await;
    assert_eq!(used(&api).await, want("2", "1", "0"));
    // A dry run counts nothing, and another quota is one too many.
    assert_eq!(api.json(Method::POST, &format!("{SERVICES}?dryRun=All"), service("dry", "NodePort")).await.0, 201);
    assert_eq!(used(&api).await, want("2", "1", "0"));
    let mut second = quota(json!({"pods": "1"}));
    second["metadata"]["name"] = json!("second");
    assert_eq!(api.json(Method::POST, QUOTAS, second).await.0, 403);
    // A changed quota is counted anew.
    api.merge(&format!("{QUOTAS}/q"), json!({"spec": {"hard": {"count/services": "9", "services": null}}})).await;
    assert_eq!(
        used(&api).await,
        json!({"services.nodeports": "1", "services.loadbalancers": "0", "resourcequotas": "1", "count/services": "2"})
    );
    assert_eq!(api.delete(&format!("{QUOTAS}/q")).await.0, 200);
    api.create(SERVICES, service("free", "LoadBalancer")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_exactly_as_many_as_fit_get_in() {
    let api = Api::new().await;
    let making = (0..30).map(|n| {
        let api = &api;
        async move {
            if n == 10 {
                api.create(QUOTAS, quota(json!({"pods": "17"}))).await;
            }
            api.json(Method::POST, PODS, pod(&format!("p{n}"), json!({}))).await.0
        }
    });
    let codes = join_all(making).await;
    let made = codes.iter().filter(|code| **code == 201).count();
    assert_eq!(used(&api).await["pods"], made.to_string(), "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 201 | 403)), "{codes:?}");
    let (_, list) = api.get(PODS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), made);
    // Ended pods make room, and so do deleted ones; many at once.
    let ends = (0..30).map(|n| {
        let api = &api;
        async move {
            match n % 2 {
                0 => api.merge(&format!("{PODS}/p{n}/status"), json!({"status": {"phase": "Succeeded"}})).await.0,
                _ => api.delete(&format!("{PODS}/p{n}")).await.0,
            }
        }
    });
    join_all(ends).await;
    assert_eq!(used(&api).await["pods"], "0");
    assert_eq!(api.json(Method::POST, PODS, pod("again", json!({}))).await.0, 201);
    assert_eq!(used(&api).await["pods"], "1");
}

#[tokio::test]
async fn amounts_must_be_said_and_fit() {
    let api = Api::new().await;
    api.create(QUOTAS, quota(json!({"requests.cpu": "1", "limits.memory": "1Gi"}))).await;
    let (code, status) = api.json(Method::POST, PODS, pod("a", json!({}))).await;
    let words = "pods \"a\" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c";
    assert_eq!((code, status["message"].as_str().unwrap()), (403, words));
    let wants = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": "256Mi"}});
    api.create(PODS, pod("a", wants("600m"))).await;
    assert_eq!(used(&api).await, json!({"requests.cpu": "600m", "limits.memory": "256Mi"}));
    let (_, status) = api.json(Method::POST, PODS, pod("b", wants("500m"))).await;
    assert_eq!(
        status["message"],
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    // A LimitRange says it for those who do not, before the quota asks.
    let limits = json!([{"type": "Container", "default": {"memory": "128Mi"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]);
    api.create(
        "/api/v1/namespaces/default/limitranges",
        json!({"metadata": {"name": "l"}, "spec": {"limits": limits}}),
    )
    .await;
    let made = api.create(PODS, pod("c", json!({}))).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!((&resources["requests"]["cpu"], &resources["limits"]["cpu"]), (&json!("100m"), &json!("1")));
    let (code, status) = api.json(Method::POST, PODS, pod("d", json!({"limits": {"cpu": "2"}}))).await;
    assert_eq!(
        (code, &status["message"]),
        (403, &json!("pods \"d\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"))
    );
}
