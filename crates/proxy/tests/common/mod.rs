//! Services, slices and nodes for tests, written as the API writes them.
#![allow(dead_code, unreachable_pub)]

pub mod isolated;
pub mod net;
pub mod table;

use serde_json::{Value, json};
use skiff_proxy::ruleset::{Networks, NodeView, Ruleset};
use skiff_services::{
    choice::Viewpoint,
    model::{Service, ServiceKey, Slice},
    snapshot::Snapshot,
};

pub const NODE_IP: &str = "192.0.2.1";
pub const OUTSIDE: &str = "192.0.2.2";
pub const DNS_IP: &str = "10.96.0.10";
/// Pods of node a, of node b.
pub const LOCAL: [&str; 2] = ["10.244.0.11", "10.244.0.12"];
pub const REMOTE: &str = "10.244.1.11";

pub fn service(name: &str, spec: Value, status: Value) -> Service {
    let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status});
    Service::from_api(&serde_json::from_value(object).expect("a Service")).expect("with a name")
}

/// "ip[@node][ r|s|t…]": states as letters, ready when absent.
pub fn endpoint(text: &str) -> Value {
    let (place, state) = text.split_once(' ').unwrap_or((text, "rs"));
    let (ip, node) = place.split_once('@').map_or((place, None), |(ip, node)| (ip, Some(node)));
    json!({
        "addresses": [ip],
        "nodeName": node,
        "conditions": {
            "ready": state.contains('r'), "serving": state.contains('s'), "terminating": state.contains('t'),
        },
    })
}

pub fn slice(service: &str, name: &str, protocol: &str, port: u16, endpoints: &[&str]) -> Slice {
    let ipv6 = endpoints.iter().any(|e| e.contains(':'));
    let endpoints: Vec<Value> = endpoints.iter().map(|e| endpoint(e)).collect();
    slice_of(service, name, protocol, port, ipv6, &endpoints)
}

pub fn slice_of(service: &str, name: &str, protocol: &str, port: u16, ipv6: bool, endpoints: &[Value]) -> Slice {
    let object = json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "", "protocol": protocol, "port": port}],
        "endpoints": endpoints,
    });
    Slice::from_api(&serde_json::from_value(object).expect("a slice")).expect("of a Service")
}

pub fn node_a() -> NodeView {
    NodeView {
        viewpoint: Viewpoint { node: "a".into(), zone: Some("east".into()) },
        addresses: vec![NODE_IP.parse().unwrap(), "2001:db8::1".parse().unwrap()],
    }
}

pub fn networks() -> Networks {
    Networks {
        internal: vec!["10.244.0.0/16".parse().unwrap(), "fd44::/16".parse().unwrap()],
        refused: vec!["10.96.0.0/12".parse().unwrap(), "fd96::/112".parse().unwrap()],
        masquerade_all: false,
    }
}

pub fn ruleset(snapshot: &Snapshot) -> Ruleset {
    let mut rules = Ruleset::new("skiff", networks(), node_a());
    let keys: Vec<ServiceKey> = snapshot.iter().map(|(k, _)| k.clone()).collect();
    rules.update(&keys, snapshot);
    rules
}

fn web(ip: &str) -> Value {
    json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "targetPort": 8080}]})
}

fn with(mut base: Value, more: Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

fn node_port(ip: &str, port: u16, more: Value) -> Value {
    let base = json!({
        "type": "NodePort", "clusterIP": ip, "clusterIPs": [ip],
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": port}],
    });
    with(base, more)
}

fn balancer(ip: &str, more: Value) -> Value {
    with(with(web(ip), json!({"type": "LoadBalancer"})), more)
}

/// One Service of each kind.
pub fn scenario() -> Snapshot {
    let lb = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    let local = json!({"externalTrafficPolicy": "Local"});
    let a = |ip: &str| format!("{ip}@a");
    let (one, two, far) = (a(LOCAL[0]), a(LOCAL[1]), format!("{REMOTE}@b"));
    let dying = |ip: &str| format!("{ip} st");
    let all: Vec<(&str, Value, Value, Vec<String>)> = vec![
        ("web", node_port("10.96.1.1", 30080, json!({})), json!({}), vec![one.clone(), two.clone(), far.clone()]),
        ("near", node_port("10.96.1.2", 30081, local.clone()), json!({}), vec![one.clone(), far.clone()]),
        ("empty", node_port("10.96.1.3", 30082, json!({})), json!({}), vec![]),
        ("away", node_port("10.96.1.4", 30083, local.clone()), json!({}), vec![far.clone()]),
        ("inner", with(web("10.96.1.5"), json!({"internalTrafficPolicy": "Local"})), json!({}), vec![far.clone()]),
        (
            "sticky",
            with(web("10.96.1.6"), json!({"sessionAffinity": "ClientIP"})),
            json!({}),
            vec![one.clone(), two.clone(), far.clone()],
        ),
        ("balanced", balancer("10.96.1.7", json!({})), lb("198.51.100.7"), vec![one.clone(), far.clone()]),
        ("balanced-near", balancer("10.96.1.8", local.clone()), lb("198.51.100.8"), vec![two.clone(), far.clone()]),
        (
            "guarded",
            balancer("10.96.1.9", json!({"loadBalancerSourceRanges": ["192.0.2.64/26"]})),
            lb("198.51.100.9"),
            vec![one.clone()],
        ),
        (
            "open",
            balancer("10.96.1.10", json!({"loadBalancerSourceRanges": [" 192.0.2.0/26 ", "10.244.0.0/24"]})),
            lb("198.51.100.10"),
            vec![one.clone()],
        ),
        ("outer", with(web("10.96.1.11"), json!({"externalIPs": ["203.0.113.11"]})), json!({}), vec![two.clone()]),
        ("leaving", node_port("10.96.1.12", 30084, local), json!({}), vec![dying(&one), far.clone()]),
        ("self", web("10.96.1.13"), json!({}), vec![one]),
        ("last", web("10.96.1.14"), json!({}), vec![dying(&two), dying(&far)]),
    ];
    let mut snapshot = Snapshot::default();
    for (name, spec, status, endpoints) in all {
        snapshot.apply_service(service(name, spec, status));
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        snapshot.apply_slice(slice(name, &format!("{name}-1"), "TCP", 8080, &endpoints));
    }
    let udp =
        json!({"clusterIP": "10.96.1.20", "clusterIPs": ["10.96.1.20"], "ports": [{"port": 53, "protocol": "UDP"}]});
    snapshot.apply_service(service("echo", udp, json!({})));
    snapshot.apply_slice(slice("echo", "echo-1", "UDP", 8080, &["10.244.0.11@a", "10.244.0.12@a"]));
    let sctp =
        json!({"clusterIP": "10.96.1.21", "clusterIPs": ["10.96.1.21"], "ports": [{"port": 99, "protocol": "SCTP"}]});
    snapshot.apply_service(service("sctp", sctp, json!({})));
    snapshot.apply_slice(slice("sctp", "sctp-1", "SCTP", 99, &["10.244.0.11@a"]));
    let v6 = json!({"type": "NodePort", "clusterIP": "fd96::1", "clusterIPs": ["fd96::1"], "sessionAffinity": "ClientIP",
        "ports": [{"port": 80, "nodePort": 30090}], "externalTrafficPolicy": "Local"});
    snapshot.apply_service(service("six", v6, json!({})));
    snapshot.apply_slice(slice("six", "six-1", "TCP", 8080, &["fd44::11@a", "fd44::12@a", "fd44:1::11@b"]));
    snapshot
}
