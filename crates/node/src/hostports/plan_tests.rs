use std::collections::BTreeMap;

use serde_json::json;
use skiff_nft::{
    Fake, Kernel,
    trace::{Fate, Origin, Packet, World, trace},
};

use super::*;
use crate::hostports::apply;

const NODE: &str = "172.30.0.11";

fn pod(ports: serde_json::Value) -> Pod {
    let spec = json!({"containers": [{"name": "c", "ports": ports}]});
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn published(name: &str, ip: &str, ports: serde_json::Value) -> Published {
    let ip = ip.parse().unwrap();
    Published { pod: name.into(), ip, ports: wanted(&pod(ports), ip) }
}

/// The three pods of Kubernetes' conformance test.
fn conformance() -> BTreeMap<String, Published> {
    let port = |ip: &str, protocol: &str| json!([{"containerPort": 8080, "hostPort": 54323, "hostIP": ip, "protocol": protocol}]);
    BTreeMap::from([
        ("1".into(), published("d/pod1", "10.244.0.2", port("127.0.0.1", "TCP"))),
        ("2".into(), published("d/pod2", "10.244.0.3", port(NODE, "TCP"))),
        ("3".into(), published("d/pod3", "10.244.0.4", port(NODE, "UDP"))),
    ])
}

fn around() -> Surroundings {
    Surroundings { node: vec![NODE.parse().unwrap()], services: vec!["10.96.0.10".parse().unwrap()] }
}

fn go(pods: &BTreeMap<String, Published>, origin: Origin, from: &str, to: &str, proto: u8) -> Vec<String> {
    let table = tables(pods.values(), &around()).remove(0).1.unwrap();
    let local = [NODE, "127.0.0.1", "10.244.0.1", "10.96.0.10"].map(|ip| ip.parse().unwrap()).to_vec();
    let to: std::net::SocketAddr = to.parse().unwrap();
    let packet = Packet { origin, saddr: from.parse().unwrap(), daddr: to.ip(), proto, dport: to.port() };
    let outcome = trace(&table, &World { local, ..World::default() }, packet);
    let said = |fate: &Fate| match fate {
        Fate::To { endpoint, masqueraded } => format!("{endpoint}{}", if *masqueraded { " masqueraded" } else { "" }),
        other => format!("{other:?}"),
    };
    outcome.fates.keys().map(said).collect()
}

#[test]
fn the_same_port_by_address_and_protocol() {
    let pods = conformance();
    let node = format!("{NODE}:54323");
    for (origin, from, to, proto, expect) in [
        (Origin::Node, NODE, "127.0.0.1:54323", 6, "10.244.0.2:8080"),
        (Origin::Node, NODE, node.as_str(), 6, "10.244.0.3:8080"),
        (Origin::Node, NODE, node.as_str(), 17, "10.244.0.4:8080"),
        (Origin::Outside, "198.51.100.7", node.as_str(), 6, "10.244.0.3:8080"),
        (Origin::Outside, "10.244.0.9", node.as_str(), 17, "10.244.0.4:8080"),
        (Origin::Outside, "10.244.0.3", node.as_str(), 6, "10.244.0.3:8080 masqueraded"),
        (Origin::Outside, "198.51.100.7", "10.244.0.1:54323", 6, "Untouched"),
        (Origin::Outside, "10.244.0.9", "198.51.100.7:54323", 6, "Untouched"),
        (Origin::Node, "127.0.0.1", "127.0.0.1:54323", 6, "Untouched"),
        (Origin::Node, NODE, "127.0.0.1:54324", 6, "Untouched"),
    ] {
        assert_eq!(go(&pods, origin, from, to, proto), [expect], "{from} to {to}/{proto}");
    }
}

#[test]
fn a_port_of_every_address_is_none_of_a_service() {
    let ports = json!([{"containerPort": 53, "hostPort": 53, "protocol": "UDP"}]);
    let pods = BTreeMap::from([("1".into(), published("d/dns", "10.244.0.2", ports))]);
    assert_eq!(go(&pods, Origin::Outside, "10.244.0.3", &format!("{NODE}:53"), 17), ["10.244.0.2:53"]);
    assert_eq!(go(&pods, Origin::Outside, "10.244.0.3", "10.244.0.1:53", 17), ["10.244.0.2:53"]);
    assert_eq!(go(&pods, Origin::Outside, "10.244.0.3", "10.96.0.10:53", 17), ["Untouched"]);
    assert_eq!(go(&pods, Origin::Outside, "10.244.0.3", "10.96.0.99:53", 17), ["Untouched"]);
}

#[test]
fn what_pods_want() {
    let of = |ports| published("p", "10.244.0.2", ports).ports.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(of(json!([{"containerPort": 80}])), [""; 0]);
    assert_eq!(of(json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "0.0.0.0"}])), ["8080/TCP"]);
    assert_eq!(of(json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "::"}])), [""; 0], "another family");
    assert_eq!(of(json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "nonsense"}])), [""; 0]);
    let twice = json!({"containerPort": 80, "hostPort": 9, "protocol": "SCTP", "hostIP": "1.2.3.4"});
    assert_eq!(of(json!([twice, twice])), ["9/SCTP of 1.2.3.4"]);
    let mut host = pod(json!([{"containerPort": 80, "hostPort": 80}]));
    host.spec.as_mut().unwrap().host_network = Some(true);
    assert_eq!(wanted(&host, "10.244.0.2".parse().unwrap()), []);
}

#[test]
fn conflicts_name_the_other_pod() {
    let pods = conformance();
    let port = |ip: &str, protocol: &str| {
        published(
            "p",
            "10.244.0.9",
            json!([{"containerPort": 1, "hostPort": 54323, "hostIP": ip, "protocol": protocol}]),
        )
    };
    let by = |ip, protocol| conflict(&pods, "9", &port(ip, protocol).ports).map(|(p, by)| format!("{p}: {by}"));
    assert_eq!(by("127.0.0.1", "UDP"), None);
    assert_eq!(by(NODE, "UDP").as_deref(), Some("54323/UDP of 172.30.0.11: d/pod3"));
    assert_eq!(by("", "TCP").as_deref(), Some("54323/TCP: d/pod1"));
    assert_eq!(conflict(&pods, "3", &pods["3"].ports), None, "its own");
}

#[test]
fn only_datagrams_of_this_pod_are_forgotten() {
    let pods = conformance();
    let flow = |proto, original: &str, answers: &str, status| Flow {
        proto,
        original: original.parse().unwrap(),
        answers: answers.parse().unwrap(),
        status,
    };
    let node = format!("{NODE}:54323");
    assert!(used(&pods["3"], &flow(17, &node, "10.244.0.4:8080", STATUS_DNAT)));
    assert!(!used(&pods["3"], &flow(17, &node, "10.244.0.5:8080", STATUS_DNAT)));
    assert!(!used(&pods["2"], &flow(6, &node, "10.244.0.3:8080", STATUS_DNAT)));
    assert!(bypasses(&pods["3"], &around(), &flow(17, &node, &node, 0)));
    assert!(bypasses(&pods["3"], &around(), &flow(17, &node, "10.244.0.99:8080", STATUS_DNAT)), "the pod before it");
    assert!(!bypasses(&pods["3"], &around(), &flow(17, &node, "10.244.0.4:8080", STATUS_DNAT)));
    let anywhere = published("d/dns", "10.244.0.5", json!([{"containerPort": 53, "hostPort": 53, "protocol": "UDP"}]));
    let dns = |to: &str| bypasses(&anywhere, &around(), &flow(17, to, to, 0));
    assert_eq!([dns("172.30.0.11:53"), dns("198.51.100.7:53"), dns("172.30.0.11:54")], [true, false, false]);
}

#[test]
fn the_table_stands_only_while_it_is_needed() {
    let mut kernel = Fake::default();
    let all = conformance();
    apply(&mut kernel, &all, &around()).unwrap();
    let (id, want) = tables(all.values(), &around()).remove(0);
    assert_eq!(kernel.dump(&id).unwrap(), want);
    let commits = kernel.commits;
    apply(&mut kernel, &all, &around()).unwrap();
    assert_eq!(kernel.commits, commits, "nothing to change, nothing sent");
    let fewer = BTreeMap::from([("1".to_owned(), all["1"].clone())]);
    apply(&mut kernel, &fewer, &around()).unwrap();
    assert_eq!(kernel.dump(&id).unwrap(), tables(fewer.values(), &around()).remove(0).1);
    apply(&mut kernel, &BTreeMap::new(), &around()).unwrap();
    assert!(kernel.state.is_empty());
}
