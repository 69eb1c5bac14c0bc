//! ServiceCIDR and IPAddress objects: the truth of who has which service address.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use skiff_store::memory::Memory;
use support::Api;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec["ports"].is_null() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn range(name: &str, cidrs: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})
}

async fn small(ranges: &[&str]) -> Api {
    Api::over(Arc::new(Memory::new()), ranges).await
}

fn ip(service: &Value) -> &str {
    service["spec"]["clusterIP"].as_str().unwrap()
}

async fn names(api: &Api, path: &str) -> Vec<String> {
    let (_, list) = api.get(path).await;
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn has_event(list: &Value, reason: &str) -> bool {
    list["items"].as_array().unwrap().iter().any(|e| e["reason"] == reason)
}

#[tokio::test]
async fn a_cluster_begins_with_its_range() {
    let api = small(&["10.96.0.0/16", "fd00::/108"]).await;
    let (_, kubernetes) = api.get(&format!("{RANGES}/kubernetes")).await;
    assert_eq!(kubernetes["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00::/108"]));
    assert_eq!(kubernetes["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    let ready = &kubernetes["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
    assert_eq!(ready["message"], "Kubernetes default Service CIDR is ready");
    let (_, first) = api.get(&format!("{ADDRESSES}/10.96.0.1")).await;
    assert_eq!(
        first["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "kubernetes"})
    );
}

#[tokio::test]
async fn addresses_come_and_go_with_services() {
    let api = small(&["10.96.0.0/16", "fd00::/108"]).await;
    let made = api.create(SERVICES, service("a", json!({"ipFamilyPolicy": "RequireDualStack"}))).await;
    let ips: Vec<&str> = made["spec"]["clusterIPs"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
    for (ip, family) in ips.iter().zip(["IPv4", "IPv6"]) {
        let (code, address) = api.get(&format!("{ADDRESSES}/{ip}")).await;
        assert_eq!(code, 200, "{address}");
        assert_eq!(
            address["metadata"]["labels"],
            json!({"ipaddress.kubernetes.io/ip-family": family,
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
        );
        assert_eq!(address["spec"]["parentRef"]["name"], "a");
    }
    // One family less, one address less.
    let (code, single) = api.merge(&format!("{SERVICES}/a"), json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
    assert_eq!((code, &single["spec"]["clusterIPs"]), (200, &json!([ips[0]])));
    assert_eq!(api.get(&format!("{ADDRESSES}/{}", ips[1])).await.0, 404);
    // No address for an ExternalName, and one again after it.
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.example"}});
    assert_eq!(api.merge(&format!("{SERVICES}/a"), external).await.0, 200);
    assert_eq!(names(&api, ADDRESSES).await, ["10.96.0.1"]);
    let (_, again) =
        api.merge(&format!("{SERVICES}/a"), json!({"spec": {"type": "ClusterIP", "externalName": null}})).await;
    assert_eq!(names(&api, ADDRESSES).await.len(), 2);
    api.delete(&format!("{SERVICES}/a")).await;
    assert_eq!(api.get(&format!("{ADDRESSES}/{}", ip(&again))).await.0, 404);
    // Neither headless Services nor a dry run take one.
    api.create(SERVICES, service("headless", json!({"clusterIP": "None", "selector": {"a": "b"}}))).await;
    let (code, dry) = api.json(Method::POST, &format!("{SERVICES}?dryRun=All"), service("dry", json!({}))).await;
    assert_eq!((code, ip(&dry).is_empty()), (201, false));
    assert_eq!(names(&api, ADDRESSES).await, ["10.96.0.1"]);
}

#[tokio::test]
async fn an_address_made_by_hand_is_taken() {
    let api = small(&["10.96.0.0/28"]).await;
    let gateway = json!({"group": "example.com", "resource": "gateways", "name": "g"});
    for n in 2..14 {
        api.create(ADDRESSES, json!({"metadata": {"name": format!("10.96.0.{n}")}, "spec": {"parentRef": gateway}}))
            .await;
    }
    let wish = service("a", json!({"clusterIP": "10.96.0.5"}));
    let (code, status) = api.json(Method::POST, SERVICES, wish.clone()).await;
    let words = "Service \"a\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.5\"]: failed to allocate IP 10.96.0.5: provided IP is already allocated";
    assert_eq!((code, status["message"].as_str().unwrap()), (422, words));
    assert_eq!(ip(&api.create(SERVICES, service("last", json!({}))).await), "10.96.0.14");
    let (code, status) = api.json(Method::POST, SERVICES, service("b", json!({}))).await;
    assert_eq!(code, 500);
    assert!(status["message"].as_str().unwrap().contains("failed to allocate a serviceIP: range is full"), "{status}");
    api.delete(&format!("{ADDRESSES}/10.96.0.5")).await;
    assert_eq!(ip(&api.create(SERVICES, wish).await), "10.96.0.5");
}

#[tokio::test]
async fn of_many_writers_of_one_address_one_wins() {
    // Two servers on one store: what either has in memory is not the truth.
    let store = Arc::new(Memory::new());
    let (one, two) = (Api::over(store.clone(), &["10.96.0.0/24"]).await, Api::over(store, &["10.96.0.0/24"]).await);
    let wishes = (0..40).map(|n| {
        let api = if n % 2 == 0 { &one } else { &two };
        api.json(Method::POST, SERVICES, service(&format!("w{n}"), json!({"clusterIP": "10.96.0.9"})))
    });
    let codes: Vec<u16> = join_all(wishes).await.into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 201 | 422)), "{codes:?}");
    // Without a wish everybody gets an address of his own, until there are none.
    let free = 254 - 2;
    let plain = (0..free).map(|n| {
        let api = if n % 2 == 0 { &one } else { &two };
        api.json(Method::POST, SERVICES, service(&format!("p{n}"), json!({})))
    });
    let made = join_all(plain).await;
    let ips: BTreeSet<&str> = made.iter().filter(|(code, _)| *code == 201).map(|(_, s)| ip(s)).collect();
    assert_eq!(ips.len(), made.iter().filter(|(code, _)| *code == 201).count());
    assert_eq!(names(&one, ADDRESSES).await.len(), ips.len() + 2);
}

#[tokio::test]
async fn a_second_range_helps_out_and_goes_when_it_is_empty() {
    let api = small(&["10.96.0.0/29"]).await;
    for n in 0..5 {
        api.create(SERVICES, service(&format!("s{n}"), json!({}))).await;
    }
    assert_eq!(api.json(Method::POST, SERVICES, service("more", json!({}))).await.0, 500);
    let extra = api.create(RANGES, range("extra", &["10.97.0.0/29"])).await;
    assert_eq!(extra["status"]["conditions"][0]["message"], "Kubernetes Service CIDR is ready");
    let more = api.create(SERVICES, service("more", json!({}))).await;
    assert!(ip(&more).starts_with("10.97.0."), "{more}");
    // Going: no new addresses, and it says why it is still there.
    assert_eq!(api.delete(&format!("{RANGES}/extra")).await.0, 200);
    let (code, _) = api.json(Method::POST, SERVICES, service("later", json!({}))).await;
    assert_eq!(code, 500);
    let (code, status) = api.json(Method::POST, SERVICES, service("later", json!({"clusterIP": "10.97.0.6"}))).await;
    assert_eq!(code, 422, "{status}");
    let going = api.until(&format!("{RANGES}/extra"), |_, r| r["status"]["conditions"][0]["status"] == "False").await;
    let condition = &going["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Ready"), &json!("Terminating")));
    assert!(
        condition["message"].as_str().unwrap().starts_with("There are still IPAddresses referencing the ServiceCIDR")
    );
    api.delete(&format!("{SERVICES}/more")).await;
    api.until(&format!("{RANGES}/extra"), |code, _| code == 404).await;
}

#[tokio::test]
async fn a_range_within_another_goes_at_once() {
    let api = small(&["10.96.0.0/16"]).await;
    api.create(RANGES, range("wide", &["10.0.0.0/8"])).await;
    api.create(SERVICES, service("a", json!({"clusterIP": "10.96.7.7"}))).await;
    api.create(RANGES, range("narrow", &["10.96.7.0/24"])).await;
    api.delete(&format!("{RANGES}/narrow")).await;
    api.until(&format!("{RANGES}/narrow"), |code, _| code == 404).await;
    // The default range is made again.
    api.delete(&format!("{RANGES}/kubernetes")).await;
    api.until(&format!("{RANGES}/kubernetes"), |code, _| code == 404).await;
    assert_eq!(api.get(&format!("{SERVICES}/a")).await.0, 200);
}

#[tokio::test]
async fn a_second_family_makes_the_cluster_dual_stack() {
    let api = small(&["10.96.0.0/16"]).await;
    let dual = || service("a", json!({"ipFamilyPolicy": "RequireDualStack"}));
    assert_eq!(api.json(Method::POST, SERVICES, dual()).await.0, 422);
    let (code, _) =
        api.merge(&format!("{RANGES}/kubernetes"), json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00::/112"]}})).await;
    assert_eq!(code, 200);
    let made = api.create(SERVICES, dual()).await;
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(api.get(&format!("{ADDRESSES}/{}", made["spec"]["clusterIPs"][1].as_str().unwrap())).await.0, 200);
}

#[tokio::test]
async fn what_is_deleted_by_hand_comes_back() {
    let api = small(&["10.96.0.0/16"]).await;
    api.create(SERVICES, service("a", json!({"clusterIP": "10.96.0.7"}))).await;
    let path = format!("{ADDRESSES}/10.96.0.7");
    let (_, before) = api.get(&path).await;
    api.delete(&path).await;
    let back = api.until(&path, |code, _| code == 200).await;
    assert_ne!(back["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(back["spec"], before["spec"]);
    let events = api.until(EVENTS, |_, list| has_event(list, "ClusterIPNotAllocated")).await;
    assert_eq!(events["items"][0]["message"], "Cluster IP [IPv4]: 10.96.0.7 is not allocated; repairing");
    assert_eq!(events["items"][0]["involvedObject"]["name"], "a");
    // Nobody else could have it in between.
    let (code, _) = api.json(Method::POST, SERVICES, service("b", json!({"clusterIP": "10.96.0.7"}))).await;
    assert_eq!(code, 422);
    // An address that says it is a Service's but is none of its goes.
    let leaked = json!({"metadata": {"name": "10.96.0.8", "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "a"}}});
    api.create(ADDRESSES, leaked).await;
    api.until(&format!("{ADDRESSES}/10.96.0.8"), |code, _| code == 404).await;
    api.until(EVENTS, |_, list| has_event(list, "IPAddressWrongReference")).await;
}

#[tokio::test]
async fn a_store_from_before_gets_its_addresses() {
    let store = Arc::new(Memory::new());
    let first = Api::over(store.clone(), &["10.96.0.0/16"]).await;
    let made = first.create(SERVICES, service("a", json!({}))).await;
    let path = format!("{ADDRESSES}/{}", ip(&made));
    drop(first);
    use skiff_store::{Expect, Store};
    store.delete(&format!("/registry/networking.k8s.io/ipaddresses/{}", ip(&made)), Expect::Any).await.unwrap();
    let second = Api::over(store, &["10.96.0.0/16"]).await;
    let back = second.until(&path, |code, _| code == 200).await;
    assert_eq!(back["spec"]["parentRef"]["name"], "a");
}

#[tokio::test]
async fn what_does_not_fit_of_node_ports_is_told() {
    use skiff_apiserver::{Config, Server};
    use skiff_store::{Expect, Store};
    let store = Arc::new(Memory::new());
    let first = Api::over(store.clone(), &["10.96.0.0/16"]).await;
    for (name, port) in [("a", 31000), ("b", 32000)] {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
        first.create(SERVICES, service(name, spec)).await;
    }
    drop(first);
    store.delete("/skiff/nodeports/31000", Expect::Any).await.unwrap();
    // Another server, with other ports to give out.
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let config = Config::new("test", "192.0.2.1:6443".parse().unwrap(), &key);
    let config = Config { node_port_range: 31000..=31009, ..config };
    let second = Api::of(Server::new(config, store.clone()).await.unwrap());
    let (_, events) = second.get(EVENTS).await;
    let told: BTreeSet<(&str, &str, &str)> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["involvedObject"]["name"].as_str(), e["reason"].as_str(), e["message"].as_str()))
        .map(|(name, reason, message)| (name.unwrap(), reason.unwrap(), message.unwrap()))
        .collect();
    let out = "Port 32000 is not within the port range 31000-31009; please recreate service";
    assert_eq!(
        told,
        [("a", "PortNotAllocated", "Port 31000 is not allocated; repairing"), ("b", "PortOutOfRange", out),].into()
    );
    assert_eq!(events["items"][0]["source"]["component"], "portallocator-repair-controller");
    let record = store.get("/skiff/nodeports/31000").await.unwrap().expect("the record is back");
    assert_eq!(&*record.value, b"default/a");
}

#[tokio::test]
async fn making_a_service_walks_over_nothing() {
    use skiff_store::faulty::{Act, Faulty, Op};
    use std::sync::atomic::{AtomicUsize, Ordering};
    let lists = Arc::new(AtomicUsize::new(0));
    let counted = lists.clone();
    let store = Faulty::wrap(Arc::new(Memory::new()), move |_, op| {
        counted.fetch_add(usize::from(op == Op::List), Ordering::Relaxed);
        Act::Pass
    });
    let api = Api::over(Arc::new(store), &["10.96.0.0/16"]).await;
    let before = lists.load(Ordering::Relaxed);
    for n in 0..100 {
        api.create(SERVICES, service(&format!("s{n}"), json!({"type": "NodePort"}))).await;
        api.merge(&format!("{SERVICES}/s{n}"), json!({"spec": {"type": "ClusterIP"}})).await;
    }
    // The keeper looks around now and then, but not for each.
    let walked = lists.load(Ordering::Relaxed) - before;
    assert!(walked < 50, "{walked} lists");
}
