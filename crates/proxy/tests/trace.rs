//! Where packets go, asked of the rules as values. `packets.rs` asks the real kernel the same.

mod common;

use std::{collections::BTreeMap, net::IpAddr};

use common::{
    DNS_IP, LOCAL, NODE_IP, OUTSIDE, ruleset, scenario,
    table::{Flow, Group, groups, host, name_of},
};
use skiff_nft::{
    Family, Table, TableRef,
    trace::{Fate, Origin, Outcome, Packet, World, trace},
};

/// On whose node a host is: there its packets meet rules first.
fn node_of(name: &str) -> Option<&'static str> {
    match name {
        "a" | "a2" | "p1" | "p2" => Some("a"),
        "b" | "r1" => Some("b"),
        _ => None,
    }
}

fn world_of(group: &Group, node: &str, ipv6: bool) -> World {
    let names: &[&str] = if node == "a" { &["a", "a2", "dns", "loopback"] } else { &["b", "dns", "loopback"] };
    let mut local: Vec<IpAddr> = names.iter().map(|n| host(n, ipv6)).collect();
    if node == "a" {
        local.extend(group.standing(ipv6));
    }
    World { local, ..World::default() }
}

/// Through the rules of the client's node, then through those of the node whose address it is.
fn follow(group: &Group, tables: &BTreeMap<&str, Table>, (from, to, _): &Flow, ipv6: bool) -> Outcome {
    let (proto, daddr, dport) = group.destination(to, ipv6);
    let (from, saddr, _) = group.source(from, ipv6);
    let first = node_of(from).unwrap_or_else(|| name_of(daddr).and_then(node_of).unwrap_or("a"));
    let origin = if from == first { Origin::Node } else { Origin::Outside };
    let ask = |node: &str, origin| {
        trace(&tables[node], &world_of(group, node, ipv6), Packet { origin, saddr, daddr, proto, dport })
    };
    let outcome = ask(first, origin);
    match name_of(daddr).and_then(node_of) {
        Some(second) if second != first && outcome.fates.keys().all(|f| *f == Fate::Untouched) => {
            ask(second, Origin::Outside)
        }
        _ => outcome,
    }
}

fn named(outcome: &Outcome) -> String {
    let word = |fate: &Fate| match fate {
        Fate::Untouched => "untouched".to_owned(),
        Fate::Drop => "drop".into(),
        Fate::Reset => "reset".into(),
        Fate::Unreachable => "unreachable".into(),
        Fate::To { endpoint, masqueraded } => {
            assert_eq!(endpoint.port(), 8080);
            let name = name_of(endpoint.ip()).map_or_else(|| endpoint.to_string(), str::to_owned);
            if *masqueraded { name + "!" } else { name }
        }
    };
    outcome.fates.keys().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_group_in_both_families() {
    let (mut wrong, mut asked) = (vec![], 0);
    for group in groups() {
        for ipv6 in [false, true] {
            let id = TableRef::new(if ipv6 { Family::Ip6 } else { Family::Ip }, "skiff");
            let tables = ["a", "b"].map(|node| (node, group.rules(node).tables().remove(&id).unwrap()));
            let tables = BTreeMap::from(tables);
            for flow in group.flows {
                let outcome = follow(&group, &tables, flow, ipv6);
                let (got, want) = (named(&outcome), flow.2.trim_start_matches("one of "));
                asked += 1;
                if got != want {
                    let family = if ipv6 { "IPv6" } else { "IPv4" };
                    wrong.push(format!("{}, {family}: {} {}: {got} instead of {want}", group.name, flow.0, flow.1));
                }
                let share: f64 = outcome.fates.values().sum();
                assert!((share - 1.0).abs() < 1e-9, "all sides of the dice: {share}");
            }
        }
    }
    assert!(asked > 400, "{asked}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// By construction: one slot each, and every slot as likely. For every number of endpoints up to 250, with and without
/// affinity, for clients inside and outside.
#[test]
fn endpoints_share_evenly_for_every_number_of_them() {
    for n in 1..=250usize {
        let plain = n % 2 == 0;
        let endpoints: Vec<String> = (0..n).map(|i| format!("10.244.{}.{}@a", 2 + i / 200, 1 + i % 200)).collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let affinity = if plain { "None" } else { "ClientIP" };
        let spec = serde_json::json!({
            "clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.9"], "ports": [{"port": 80}], "sessionAffinity": affinity,
        });
        let mut snapshot = skiff_services::snapshot::Snapshot::default();
        snapshot.apply_service(common::service("many", spec, serde_json::json!({})));
        snapshot.apply_slice(common::slice("many", "many-1", "TCP", 8080, &endpoints));
        let table = ruleset(&snapshot).tables()[&TableRef::new(Family::Ip, "skiff")].clone();
        let outcome = trace(&table, &world(), ask_v4(LOCAL[0], "10.96.9.9", 80));
        assert_eq!(outcome.fates.len(), n);
        let fair = 1.0 / n as f64;
        assert!(outcome.fates.values().all(|share| (share - fair).abs() < 1e-9), "{n}: {:?}", outcome.fates);
    }
}

fn ask_v4(saddr: &str, daddr: &str, dport: u16) -> Packet {
    Packet { origin: Origin::Outside, saddr: saddr.parse().unwrap(), daddr: daddr.parse().unwrap(), proto: 6, dport }
}

fn world() -> World {
    World { local: vec![NODE_IP.parse().unwrap(), DNS_IP.parse().unwrap()], ..World::default() }
}

fn show(outcome: &Outcome) -> String {
    let word = |fate: &Fate| match fate {
        Fate::To { endpoint, masqueraded } => {
            let ip = endpoint.ip().to_string();
            let short = ip.strip_prefix("10.244.").unwrap_or(&ip).to_owned();
            if *masqueraded { short + "!" } else { short }
        }
        other => format!("{other:?}").to_lowercase(),
    };
    outcome.fates.keys().map(word).collect::<Vec<_>>().join(" ")
}

fn v4() -> Table {
    ruleset(&scenario()).tables()[&TableRef::new(Family::Ip, "skiff")].clone()
}

#[test]
fn a_sticky_client_returns_to_its_endpoint_until_that_goes() {
    let table = v4();
    let first = trace(&table, &world(), ask_v4(LOCAL[0], "10.96.1.6", 80));
    assert_eq!(first.remembered.len(), 3);
    for (set, key, data) in first.remembered {
        let mut remembering = world();
        remembering.remembered.insert((set, key), data);
        let again = trace(&table, &remembering, ask_v4(LOCAL[0], "10.96.1.6", 80));
        assert_eq!(again.fates.len(), 1, "{:?}", again.fates);
        let other = trace(&table, &remembering, ask_v4(OUTSIDE, "10.96.1.6", 80));
        assert_eq!(other.fates.len(), 3, "another client chooses for itself");

        let mut without = scenario();
        without.apply_slice(common::slice("sticky", "sticky-1", "TCP", 8080, &["10.244.9.9@b"]));
        let table = ruleset(&without).tables()[&TableRef::new(Family::Ip, "skiff")].clone();
        let moved = trace(&table, &remembering, ask_v4(LOCAL[0], "10.96.1.6", 80));
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
        fates.insert(name, show(&trace(&table, &world(), ask_v4(OUTSIDE, "10.96.2.1", 80))));
    }
    assert_eq!(fates["b"], "0.2!");
    assert_eq!(fates["a"], "0.1!", "the first by name has it");
}

/// All of a small cluster's rules as text, but for the chains of more than three endpoints, which only differ by their
/// number. After a wanted change: `SKIFF_UPDATE=1 cargo test -p skiff-proxy --test trace`.
#[test]
fn the_whole_ruleset() {
    let group = groups().into_iter().find(|g| g.name == "the whole ruleset").unwrap();
    let mut text = String::new();
    for (id, mut table) in group.rules("a").tables() {
        let number = |name: &str| name.rsplit('-').next().and_then(|n| n.parse::<usize>().ok());
        table.chains.retain(|name, _| number(name).is_none_or(|n| n <= 3));
        let pick = table.sets.get_mut("pick").unwrap();
        pick.elements.retain(|class, _| !(4..=64).contains(&class.number_at(0).unwrap()));
        text += &skiff_nft::render(&id, &table);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ruleset.nft");
    if std::env::var_os("SKIFF_UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    let differs = golden.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(golden == text, "tests/golden/ruleset.nft differs, first here: {differs:?}");
}
