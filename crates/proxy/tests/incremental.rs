//! Incremental equals from scratch: whatever the history, the tables hold what the last state asks for.

mod common;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_nft::{Batch, Fake, Kernel, State, apply, diff};
use skiff_proxy::{
    ruleset::{NodeView, Ruleset},
    sync::Syncer,
};
use skiff_services::{model::ServiceKey, snapshot::Snapshot};

#[derive(Clone, Debug)]
enum Step {
    Service { n: u8, shape: u8, affinity: u8, policy: u8 },
    DropService(u8),
    Slice { n: u8, which: u8, udp: bool, endpoints: Vec<(u8, u8, u8)> },
    DropSlice(u8, u8),
    Node(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let endpoint = (0..12u8, 0..3u8, 0..4u8);
    prop_oneof![
        4 => (0..5u8, 0..5u8, 0..4u8, 0..4u8).prop_map(|(n, shape, affinity, policy)| Step::Service { n, shape, affinity, policy }),
        1 => (0..5u8).prop_map(Step::DropService),
        6 => (0..5u8, 0..3u8, any::<bool>(), prop::collection::vec(endpoint, 0..9))
            .prop_map(|(n, which, udp, endpoints)| Step::Slice { n, which, udp, endpoints }),
        1 => (0..5u8, 0..3u8).prop_map(|(n, which)| Step::DropSlice(n, which)),
        1 => (0..3u8).prop_map(Step::Node),
    ]
}

fn spec(n: u8, shape: u8, affinity: u8, policy: u8) -> (Value, Value) {
    let ip = format!("10.96.3.{n}");
    let v6 = format!("fd96::3:{n}");
    let local = |bit: u8| if policy & bit != 0 { "Local" } else { "Cluster" };
    let mut spec = json!({
        "clusterIP": ip, "clusterIPs": [ip, v6], "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30000 + u16::from(n)}, {"port": 80, "protocol": "UDP"}],
        "externalTrafficPolicy": local(1), "internalTrafficPolicy": local(2),
    });
    if affinity > 1 {
        spec["sessionAffinity"] = "ClientIP".into();
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": u32::from(affinity) * 10}});
    }
    // An address that several Services claim.
    match shape {
        1 => spec["externalIPs"] = json!(["203.0.113.1"]),
        2 => spec["loadBalancerSourceRanges"] = json!(["198.51.100.0/25", "198.51.100.128/25", "192.0.2.0/24"]),
        3 => spec["clusterIP"] = "None".into(),
        _ => {}
    }
    if shape == 2 {
        spec["type"] = "LoadBalancer".into();
    }
    (spec, json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}]}}))
}

fn take(step: &Step, snapshot: &mut Snapshot) -> (BTreeSet<ServiceKey>, Option<NodeView>) {
    let name = |n: &u8| format!("s{n}");
    let dirty = match step {
        Step::Service { n, shape, affinity, policy } => {
            let (spec, status) = spec(*n, *shape, *affinity, *policy);
            snapshot.apply_service(common::service(&name(n), spec, status)).into_iter().collect()
        }
        Step::DropService(n) => snapshot.remove_service(&ServiceKey::new("default", &name(n))).into_iter().collect(),
        Step::Slice { n, which, udp, endpoints } => {
            let texts: Vec<String> = endpoints.iter().map(|(ip, node, state)| endpoint(*ip, *node, *state)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let protocol = if *udp { "UDP" } else { "TCP" };
            snapshot.apply_slice(common::slice(&name(n), &format!("s{n}-{which}"), protocol, 8080, &texts))
        }
        Step::DropSlice(n, which) => {
            snapshot.remove_slice(&"default".into(), &format!("s{n}-{which}").as_str().into()).into_iter().collect()
        }
        Step::Node(n) => {
            let mut node = common::node_a();
            node.viewpoint.node = ["a", "b", "c"][usize::from(*n)].into();
            node.addresses.push(format!("192.0.2.1{n}").parse().unwrap());
            return (BTreeSet::new(), Some(node));
        }
    };
    (dirty, None)
}

fn endpoint(ip: u8, node: u8, state: u8) -> String {
    let node = ["@a", "@b", ""][usize::from(node)];
    format!("10.244.0.{ip}{node} {}", ["rs", "rs", "st", "x"][usize::from(state)])
}

/// Slots may be in another order after another history: compare what a frontend's endpoints are, not where.
fn without_slots(state: &State) -> Vec<String> {
    let mut out = vec![];
    for (id, table) in state {
        for (name, set) in &table.sets {
            let slotted = name.ends_with("endpoints");
            for (key, value) in &set.elements {
                let key = if slotted { &key.as_bytes()[..key.as_bytes().len() - 4] } else { key.as_bytes() };
                out.push(format!("{id} {name} {key:?} {value:?}"));
            }
        }
        out.extend(table.chains.iter().map(|(name, chain)| format!("{id} {name} {chain:?}")));
    }
    out.sort();
    out
}

fn scratch(snapshot: &Snapshot, node: &NodeView) -> Ruleset {
    let mut rules = Ruleset::new("skiff", common::networks(), node.clone());
    let keys: Vec<ServiceKey> = snapshot.iter().map(|(k, _)| k.clone()).collect();
    rules.update(&keys, snapshot);
    rules
}

fn created(rules: &Ruleset) -> Vec<Batch> {
    let mut parts = vec![];
    rules.create(&mut |part| parts.push(part.clone()));
    parts
}

fn kernel_state(batches: &[Batch]) -> State {
    batches.iter().fold(State::default(), |state, batch| apply(&state, batch).expect("the batch fits"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equals_from_scratch(steps in prop::collection::vec(step(), 1..25), fail_at in 0..40usize) {
        let mut snapshot = Snapshot::default();
        let mut node = common::node_a();
        let rules = Ruleset::new("skiff", common::networks(), node.clone());
        let mut syncer = Syncer::new(Fake::default(), rules);
        for (i, step) in steps.iter().enumerate() {
            let (dirty, new_node) = take(step, &mut snapshot);
            if i == fail_at {
                syncer.kernel().fail_next = 1;
            }
            let result = match new_node {
                Some(new) => {
                    node = new.clone();
                    syncer.sync_node(new, common::networks(), &snapshot)
                }
                None => syncer.sync(&dirty, &snapshot),
            };
            if result.is_err() {
                prop_assert!(i >= fail_at, "{result:?}");
                syncer.sync(&BTreeSet::new(), &snapshot).expect("a second try repairs");
            }
            prop_assert_eq!(&syncer.kernel().state.clone(), &syncer.rules().tables());
        }
        let fresh = scratch(&snapshot, &node);
        prop_assert_eq!(without_slots(&syncer.rules().tables()), without_slots(&fresh.tables()));
        prop_assert_eq!(kernel_state(&created(&fresh)), fresh.tables());
    }

    #[test]
    fn any_two_states_differ_by_their_diff(a in prop::collection::vec(step(), 0..15), b in prop::collection::vec(step(), 0..15)) {
        let build = |steps: &[Step]| {
            let mut snapshot = Snapshot::default();
            steps.iter().for_each(|s| { take(s, &mut snapshot); });
            scratch(&snapshot, &common::node_a()).tables()
        };
        let (have, want) = (build(&a), build(&b));
        let mut batch = Batch::default();
        for id in have.keys() {
            batch.append(diff(id, have.get(id), want.get(id)));
        }
        prop_assert_eq!(apply(&have, &batch).expect("the diff fits"), want);
    }
}

#[test]
fn one_endpoint_is_two_elements() {
    let mut snapshot = common::scenario();
    let mut syncer = Syncer::new(Fake::default(), common::ruleset(&snapshot));
    syncer.sync(&BTreeSet::new(), &snapshot).unwrap();
    let key = ServiceKey::new("default", "self");
    let dirty = snapshot.apply_slice(common::slice("self", "self-1", "TCP", 8080, &["10.244.1.77@b"]));
    assert_eq!(dirty, BTreeSet::from([key]));
    let report = syncer.sync(&dirty, &snapshot).unwrap();
    assert_eq!((report.full, report.elements), (false, 2));
}

#[test]
fn a_foreign_change_is_repaired_unless_nobody_else_can() {
    let snapshot = common::scenario();
    let mut syncer = Syncer::new(Fake::default(), common::ruleset(&snapshot));
    syncer.sync(&BTreeSet::new(), &snapshot).unwrap();
    let want = syncer.kernel().state.clone();
    assert!(!syncer.check().unwrap());
    syncer.kernel().state.clear();
    syncer.kernel().generation += 1;
    assert!(syncer.check().unwrap());
    assert_eq!(syncer.kernel().state, want);
    assert!(!syncer.check().unwrap());

    syncer.kernel().exclusive = true;
    syncer.kernel().generation += 1;
    assert!(!syncer.check().unwrap(), "somebody's own table");
}

#[test]
fn the_fake_refuses_as_the_kernel_does() {
    let snapshot = common::scenario();
    let rules = common::ruleset(&snapshot);
    let mut fake = Fake::default();
    let all = created(&rules);
    assert!(fake.commit(&all[1]).is_err(), "no table yet");
    all.iter().for_each(|b| fake.commit(b).unwrap());
    let before = fake.state.clone();
    let twice = created(&rules);
    assert!(fake.commit(&twice[1]).is_ok(), "the same elements once more");
    assert_eq!(fake.state, before);
}
