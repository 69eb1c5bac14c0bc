//! Where packets go, asked of the rules as values. The same table is checked against the real kernel in `kernel.rs`.

mod common;

use std::{collections::BTreeMap, net::IpAddr};

use common::{CASES, DNS_IP, From, LOCAL, NODE_IP, OUTSIDE, ruleset, scenario};
use skiff_nft::{
    Family, Table, TableRef,
    trace::{Fate, Origin, Outcome, Packet, World, trace},
};

fn packet(from: From, text: &str) -> Packet {
    let words: Vec<&str> = text.split(' ').collect();
    let proto = match words[0] {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        _ => 1,
    };
    let (origin, saddr) = match from {
        From::Pod => (Origin::Outside, LOCAL[0]),
        From::Outside => (Origin::Outside, OUTSIDE),
        From::Node => (Origin::Node, NODE_IP),
    };
    let ip = |t: &str| t.parse::<IpAddr>().unwrap();
    Packet { origin, saddr: ip(saddr), daddr: ip(words[1]), proto, dport: words[2].parse().unwrap() }
}

fn world() -> World {
    World { local: vec![NODE_IP.parse().unwrap(), DNS_IP.parse().unwrap()], ..World::default() }
}

fn show(outcome: &Outcome) -> String {
    let word = |fate: &Fate| match fate {
        Fate::Untouched => "untouched".to_owned(),
        Fate::Drop => "drop".into(),
        Fate::Reset => "reset".into(),
        Fate::Unreachable => "unreachable".into(),
        Fate::To { endpoint, masqueraded } => {
            let ip = endpoint.ip().to_string();
            let short = ip.strip_prefix("10.244.").unwrap_or(&ip).to_owned();
            if *masqueraded { short + "!" } else { short }
        }
    };
    outcome.fates.keys().map(word).collect::<Vec<_>>().join(" ")
}

fn v4() -> Table {
    ruleset(&scenario()).tables()[&TableRef::new(Family::Ip, "skiff")].clone()
}

#[test]
fn every_kind_of_service() {
    let table = v4();
    let wrong: Vec<String> = CASES
        .iter()
        .map(|(from, to, want)| (from, to, want, show(&trace(&table, &world(), packet(*from, to)))))
        .filter(|(_, _, want, got)| got != *want)
        .map(|(from, to, want, got)| format!("{from:?} {to}: {got} instead of {want}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn endpoints_share_evenly() {
    let table = v4();
    for to in ["tcp 10.96.1.1 80", "tcp 10.96.1.6 80", "tcp 192.0.2.1 30080"] {
        let outcome = trace(&table, &world(), packet(From::Pod, to));
        assert_eq!(outcome.fates.len(), 3, "{to}");
        assert!(outcome.fates.values().all(|share| (share - 1.0 / 3.0).abs() < 1e-9), "{to}: {:?}", outcome.fates);
    }
}

#[test]
fn a_sticky_client_returns_to_its_endpoint_until_that_goes() {
    let table = v4();
    let first = trace(&table, &world(), packet(From::Pod, "tcp 10.96.1.6 80"));
    assert_eq!(first.remembered.len(), 3);
    for (set, key, data) in first.remembered {
        let mut remembering = world();
        remembering.remembered.insert((set, key), data);
        let again = trace(&table, &remembering, packet(From::Pod, "tcp 10.96.1.6 80"));
        assert_eq!(again.fates.len(), 1, "{:?}", again.fates);
        let other = trace(&table, &remembering, packet(From::Outside, "tcp 10.96.1.6 80"));
        assert_eq!(other.fates.len(), 3, "another client chooses for itself");

        let mut without = scenario();
        without.apply_slice(common::slice("sticky", "sticky-1", "TCP", 8080, &["10.244.9.9@b"]));
        let table = ruleset(&without).tables()[&TableRef::new(Family::Ip, "skiff")].clone();
        let moved = trace(&table, &remembering, packet(From::Pod, "tcp 10.96.1.6 80"));
        assert_eq!(show(&moved), "9.9");
    }
}

#[test]
fn ipv6_sticky_and_local() {
    let table = ruleset(&scenario()).tables()[&TableRef::new(Family::Ip6, "skiff")].clone();
    let ip = |t: &str| t.parse::<IpAddr>().unwrap();
    let ask = |saddr: &str, daddr: &str, dport| {
        let packet = Packet { origin: Origin::Outside, saddr: ip(saddr), daddr: ip(daddr), proto: 6, dport };
        show(&trace(&table, &World::default(), packet))
    };
    assert_eq!(ask("fd44::11", "fd96::1", 80), "fd44::11! fd44::12 fd44:1::11");
    assert_eq!(ask("2001:db8::2", "2001:db8::1", 30090), "fd44::11 fd44::12");
    assert_eq!(ask("fd44::11", "2001:db8::1", 30090), "fd44::11! fd44::12 fd44:1::11");
    assert_eq!(ask("fd44::11", "fd96::2", 80), "reset");
}

#[test]
fn two_services_with_one_frontend() {
    let claim = |name: &str| {
        let spec = serde_json::json!({"clusterIP": "10.96.2.1", "clusterIPs": ["10.96.2.1"], "ports": [{"port": 80}]});
        common::service(name, spec, serde_json::json!({}))
    };
    let mut snapshot = skiff_services::snapshot::Snapshot::default();
    let mut fates = BTreeMap::new();
    for (name, ip) in [("b", "10.244.0.2@a"), ("a", "10.244.0.1@a")] {
        snapshot.apply_service(claim(name));
        snapshot.apply_slice(common::slice(name, name, "TCP", 80, &[ip]));
        let table = ruleset(&snapshot).tables()[&TableRef::new(Family::Ip, "skiff")].clone();
        fates.insert(name, show(&trace(&table, &world(), packet(From::Outside, "tcp 10.96.2.1 80"))));
    }
    assert_eq!(fates["b"], "0.2!");
    assert_eq!(fates["a"], "0.1!", "the first by name has it");
}
