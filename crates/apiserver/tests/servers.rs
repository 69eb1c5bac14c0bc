//! Several servers on one store: what one gives out or forbids holds for all.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_store::Store;
use skiff_store::memory::Memory;
use support::Api;

const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn two() -> [Api; 2] {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    [Api::one_of(&store, "192.0.2.1:6443").await, Api::one_of(&store, "192.0.2.2:6443").await]
}

fn node_port(name: &str, port: Option<u16>) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    if let Some(port) = port {
        service["spec"]["ports"][0]["nodePort"] = port.into();
    }
    service
}

#[tokio::test]
async fn of_many_who_ask_for_one_port_one_gets_it() {
    let servers = two().await;
    let asked = (0..20).map(|n| {
        let service = node_port(&format!("s{n}"), Some(30080));
        servers[n % 2].json(Method::POST, SERVICES, service)
    });
    let answers = join_all(asked).await;
    let won = answers.iter().filter(|(code, _)| *code == 201).count();
    assert_eq!(won, 1, "{answers:?}");
    for (code, refused) in answers.iter().filter(|(code, _)| *code != 201) {
        assert_eq!(*code, 422, "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("provided port is already allocated"), "{refused}");
    }
}

#[tokio::test]
async fn chosen_ports_and_addresses_are_distinct() {
    let servers = two().await;
    let made = join_all((0..100).map(|n| {
        let server = &servers[n % 2];
        async move { server.create(SERVICES, node_port(&format!("s{n}"), None)).await }
    }))
    .await;
    let ports: BTreeSet<u64> = made.iter().filter_map(|s| s["spec"]["ports"][0]["nodePort"].as_u64()).collect();
    let ips: BTreeSet<&str> = made.iter().filter_map(|s| s["spec"]["clusterIP"].as_str()).collect();
    assert_eq!((ports.len(), ips.len()), (100, 100));
}

#[tokio::test]
async fn what_one_server_takes_back_the_other_gives_out() {
    let [one, other] = two().await;
    let mut fixed = node_port("a", Some(30081));
    fixed["spec"]["clusterIP"] = "10.96.7.7".into();
    for round in 0..5 {
        let (making, ending) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        making.create(SERVICES, fixed.clone()).await;
        let (code, refused) = ending.json(Method::POST, SERVICES, node_port("b", Some(30081))).await;
        assert_eq!(code, 422, "{refused}");
        let (code, gone) = ending.json(Method::DELETE, &format!("{SERVICES}/a"), json!({})).await;
        assert_eq!(code, 200, "{gone}");
    }
    // A Service that gives its port up leaves it to others, whoever they ask.
    one.create(SERVICES, fixed.clone()).await;
    let to_cluster_ip = json!({"spec": {"type": "ClusterIP"}}).to_string();
    let (code, changed) =
        other.ask(Method::PATCH, &format!("{SERVICES}/a"), "application/merge-patch+json", to_cluster_ip).await;
    assert_eq!((code, &changed["spec"]["ports"][0]["nodePort"]), (200, &Value::Null), "{changed}");
    one.create(SERVICES, node_port("b", Some(30081))).await;
}

#[tokio::test]
async fn ports_of_services_without_a_record_get_one() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let first = Api::one_of(&store, "192.0.2.1:6443").await;
    first.create(SERVICES, node_port("a", Some(30082))).await;
    let records = store.list("/skiff/nodeports/", None, 0, None).await.unwrap().entries;
    assert_eq!(
        records.iter().map(|r| (&*r.key, &*r.value)).collect::<Vec<_>>(),
        [("/skiff/nodeports/30082", &b"default/a"[..])]
    );
    // As in a store from before there were records, and with one that was left.
    store.delete("/skiff/nodeports/30082", skiff_store::Expect::Any).await.unwrap();
    store.put("/skiff/nodeports/30083", "default/gone".into(), skiff_store::Expect::Any).await.unwrap();
    let second = Api::one_of(&store, "192.0.2.2:6443").await;
    let (code, _) = second.json(Method::POST, SERVICES, node_port("b", Some(30082))).await;
    assert_eq!(code, 422);
    second.create(SERVICES, node_port("b", Some(30083))).await;
}

#[tokio::test]
async fn quotas_are_exact_over_all_servers() {
    let servers = two().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"services": "12", "services.nodeports": "7"}}});
    // The kubernetes Service is in this namespace too.
    servers[0].create("/api/v1/namespaces/default/resourcequotas", quota).await;
    let asked = (0..30).map(|n| servers[n % 2].json(Method::POST, SERVICES, node_port(&format!("s{n}"), None)));
    let answers = join_all(asked).await;
    let won = answers.iter().filter(|(code, _)| *code == 201).count();
    assert_eq!(won, 7, "{answers:?}");
    let (_, quota) = servers[1].get("/api/v1/namespaces/default/resourcequotas/q").await;
    assert_eq!(quota["status"]["used"], json!({"services": "8", "services.nodeports": "7"}));
}

#[tokio::test]
async fn rights_given_at_one_server_hold_at_the_other() {
    let [one, other] = two().await;
    let jane = |server: &Api| {
        let mut request = Request::builder().uri("/api/v1/namespaces/default/configmaps");
        request.extensions_mut().unwrap().insert(Identity::component("jane"));
        server.server.handle(request.body(Full::new(bytes::Bytes::new())).unwrap())
    };
    assert_eq!(jane(&other).await.status(), 403);
    let role = json!({"metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    one.create(&format!("{rbac}/roles"), role).await;
    one.create(&format!("{rbac}/rolebindings"), binding).await;
    let becomes = async |code: u16| {
        while jane(&other).await.status() != code {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, becomes(200)).await.expect("given");
    one.json(Method::DELETE, &format!("{rbac}/rolebindings/b"), json!({})).await;
    tokio::time::timeout(patience, becomes(403)).await.expect("taken back");
}

#[tokio::test]
async fn all_servers_are_endpoints_of_the_kubernetes_service() {
    let [one, _other] = two().await;
    let (_, endpoints) = one.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}]));
    let (_, slice) = one.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    let addresses: Vec<_> = slice["endpoints"].as_array().unwrap().iter().map(|e| &e["addresses"][0]).collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2"]);
}
