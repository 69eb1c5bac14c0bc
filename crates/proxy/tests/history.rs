//! Long random histories of Services, slices and this node's surroundings: what the rules become step by step is what they
//! would be from scratch, in the model and as the real kernel lists them; and faults between the proxy and the kernel
//! leave the old rules or the new ones, never half, until the next turn repairs.
//!
//! A seed can be given: `SKIFF_SEED=7`.

mod common;

use std::{collections::BTreeSet, io};

use common::isolated::isolated;
use serde_json::json;
use skiff_nft::{Batch, Change, Error, Fake, Kernel, Netlink, Ownership, State, Table, TableRef};
use skiff_proxy::{
    ruleset::{Networks, NodeView, Ruleset},
    sync::Syncer,
};
use skiff_services::{model::ServiceKey, snapshot::Snapshot};

/// xorshift64*: the history is a function of the seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % sides
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.roll(all.len())]
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SKIFF_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

const SERVICES: usize = 12;

/// The cluster as the history goes on.
struct Story {
    dice: Dice,
    snapshot: Snapshot,
    node: NodeView,
    networks: Networks,
}

enum Turn {
    Services(BTreeSet<ServiceKey>),
    Surroundings,
}

impl Story {
    fn new(seed: u64) -> Self {
        Story {
            dice: Dice::new(seed),
            snapshot: Snapshot::default(),
            node: common::node_a(),
            networks: common::networks(),
        }
    }

    fn rules(&self) -> Ruleset {
        Ruleset::new("skiff", self.networks.clone(), self.node.clone())
    }

    /// Several events at once, as they come in between two turns of the loop.
    fn turn(&mut self) -> Turn {
        let mut dirty = BTreeSet::new();
        for _ in 0..=self.dice.roll(3) {
            match self.dice.roll(20) {
                0..5 => dirty.extend(self.service()),
                5..7 => {
                    let key = self.key();
                    dirty.extend(self.snapshot.remove_service(&key));
                }
                7..16 => dirty.extend(self.slice()),
                16..18 => {
                    let name = format!("{}-{}", self.dice.roll(SERVICES), self.dice.roll(3));
                    dirty.extend(self.snapshot.remove_slice(&"default".into(), &name.as_str().into()));
                }
                18 => {
                    self.node();
                    return Turn::Surroundings;
                }
                _ => {
                    self.nets();
                    return Turn::Surroundings;
                }
            }
        }
        Turn::Services(dirty)
    }

    fn key(&mut self) -> ServiceKey {
        ServiceKey::new("default", &self.dice.roll(SERVICES).to_string())
    }

    fn service(&mut self) -> Option<ServiceKey> {
        let n = self.dice.roll(SERVICES);
        let (v4, v6) = (format!("10.96.3.{n}"), format!("fd96::3:{n:x}"));
        let families = match self.dice.roll(4) {
            0 => vec![v4.clone()],
            1 => vec![v6.clone()],
            _ => vec![v4, v6],
        };
        let mut spec = json!({
            "clusterIP": families[0], "clusterIPs": families,
            "type": self.dice.pick(&["ClusterIP", "NodePort", "LoadBalancer"]),
            "ports": [
                {"name": "web", "port": 80, "nodePort": 30000 + n},
                {"name": "dns", "port": 53, "protocol": self.dice.pick(&["UDP", "SCTP", "TCP"])},
            ],
            "externalTrafficPolicy": self.dice.pick(&["Cluster", "Local"]),
            "internalTrafficPolicy": self.dice.pick(&["Cluster", "Cluster", "Local"]),
        });
        if self.dice.roll(3) == 0 {
            spec["sessionAffinity"] = "ClientIP".into();
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10 + 10 * self.dice.roll(3)}});
        }
        match self.dice.roll(8) {
            // Addresses that several Services claim.
            0 | 1 => spec["externalIPs"] = json!(["203.0.113.1", "2001:db8:1::1"]),
            2 => spec["loadBalancerSourceRanges"] = json!(["198.51.100.0/25", "198.51.100.128/25", "2001:db8::/32"]),
            3 => spec["clusterIP"] = "None".into(),
            _ => {}
        }
        let ingress: Vec<_> = (0..self.dice.roll(3)).map(|i| json!({"ip": format!("203.0.113.{}", 2 + i)})).collect();
        let status = json!({"loadBalancer": {"ingress": ingress}});
        self.snapshot.apply_service(common::service(&n.to_string(), spec, status))
    }

    fn slice(&mut self) -> BTreeSet<ServiceKey> {
        let (n, which, v6) = (self.dice.roll(SERVICES), self.dice.roll(3), self.dice.roll(3) == 0);
        // Now and then more endpoints than there are chains ready for.
        let count = if self.dice.roll(12) == 0 { 60 + self.dice.roll(12) } else { self.dice.roll(7) };
        let endpoints: Vec<String> = (0..count)
            .map(|_| {
                let last = 1 + self.dice.roll(90);
                let ip = if v6 { format!("fd44::{last:x}") } else { format!("10.244.0.{last}") };
                let node = self.dice.pick(&["@a", "@b", ""]);
                format!("{ip}{node} {}", self.dice.pick(&["rs", "rs", "rs", "st", "x"]))
            })
            .collect();
        let values: Vec<_> = endpoints.iter().map(|e| common::endpoint(e)).collect();
        let port = 8080 + self.dice.roll(2) as u16;
        let mut slice = common::slice_of(&n.to_string(), &format!("{n}-{which}"), "TCP", port, v6, &values);
        slice.ports[0].name = "web".into();
        if self.dice.roll(2) == 0 {
            let dns = skiff_services::model::Protocol::parse(Some(self.dice.pick(&["UDP", "SCTP"]))).unwrap();
            slice.ports.push(skiff_services::model::SlicePort { name: "dns".into(), protocol: dns, port: 53 });
        }
        self.snapshot.apply_slice(slice)
    }

    fn node(&mut self) {
        self.node = common::node_a();
        self.node.viewpoint.node = self.dice.pick(&["a", "b"]).into();
        if self.dice.roll(2) == 0 {
            self.node.addresses.push("192.0.2.77".parse().unwrap());
        }
    }

    fn nets(&mut self) {
        self.networks = common::networks();
        match self.dice.roll(4) {
            0 => self.networks.refused.push("10.200.0.0/16".parse().unwrap()),
            1 => self.networks.internal = vec!["10.244.0.0/24".parse().unwrap()],
            2 => self.networks.masquerade_all = true,
            _ => {}
        }
    }

    fn rules_from_scratch(&self) -> Ruleset {
        let mut rules = self.rules();
        let keys: Vec<ServiceKey> = self.snapshot.iter().map(|(k, _)| k.clone()).collect();
        rules.update(&keys, &self.snapshot);
        rules
    }

    fn sync<K: Kernel>(&self, syncer: &mut Syncer<K>, turn: &Turn) -> Result<(), Error> {
        match turn {
            Turn::Services(dirty) => syncer.sync(dirty, &self.snapshot),
            Turn::Surroundings => syncer.sync_node(self.node.clone(), self.networks.clone(), &self.snapshot),
        }
        .map(drop)
    }
}

/// Another history may give the endpoints other slots: compared is which there are, not where.
fn without_slots(state: &State) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (id, table) in state {
        for (name, set) in &table.sets {
            let cut = if name.ends_with("endpoints") { 4 } else { 0 };
            let keys = set.elements.iter().map(|(k, v)| (&k.as_bytes()[..k.as_bytes().len() - cut], v));
            out.extend(keys.map(|(key, value)| format!("{id} {name} {key:?} {value:?}")));
        }
        out.extend(table.chains.iter().map(|(name, chain)| format!("{id} {name} {chain:?}")));
    }
    out
}

/// What went wrong, if anything: the kernel's tables are what the rules say, and these are what they would be from scratch.
fn check<K: Kernel>(story: &Story, syncer: &mut Syncer<K>) -> Result<(), String> {
    let want = syncer.rules().tables();
    for (id, table) in &want {
        let have = syncer.kernel().dump(id).map_err(|e| e.to_string())?;
        if have.as_ref() != Some(table) {
            return Err(format!("{id}: {}", difference(have.as_ref(), table)));
        }
    }
    match without_slots(&want) == without_slots(&story.rules_from_scratch().tables()) {
        true => Ok(()),
        false => Err("the rules differ from those made from scratch".into()),
    }
}

fn difference(have: Option<&Table>, want: &Table) -> String {
    let Some(have) = have else { return "no table".into() };
    let sets = want.sets.iter().filter(|(name, set)| have.sets.get(*name) != Some(set)).map(|(name, _)| name);
    let chains = want.chains.iter().filter(|(name, c)| have.chains.get(*name) != Some(c)).map(|(name, _)| name);
    format!("other content: {:?}", sets.chain(chains).collect::<Vec<_>>())
}

fn run<K: Kernel>(seed: u64, steps: usize, every: usize, kernel: K) {
    let mut story = Story::new(seed);
    let mut syncer = Syncer::new(kernel, story.rules());
    for step in 0..steps {
        let turn = story.turn();
        let done = story.sync(&mut syncer, &turn).map_err(|e| e.to_string());
        let checked = if step % every == 0 || step + 1 == steps { check(&story, &mut syncer) } else { Ok(()) };
        if let Err(e) = done.and(checked) {
            panic!("seed {seed}, step {step}: {e}; again with SKIFF_SEED={seed}");
        }
    }
}

#[test]
fn step_by_step_equals_from_scratch() {
    for seed in seeds(4) {
        run(seed, 300, 20, Fake::default());
        eprintln!("seed {seed}: 300 turns of one to three events");
    }
}

#[test]
fn the_kernel_lists_what_the_rules_say() {
    isolated("the_kernel_lists_what_the_rules_say", || {
        for seed in seeds(3) {
            run(seed, 120, 6, Netlink::open(Ownership::Shared).unwrap());
            skiff_proxy::remove_tables("skiff").unwrap();
            eprintln!("seed {seed}: 120 turns");
        }
    });
}

/// A door that sometimes fails, in every way in which a socket can.
struct Faulty<K> {
    kernel: K,
    dice: Dice,
    /// One call in this many fails; none does at 0.
    rate: usize,
    broken: usize,
}

impl<K: Kernel> Faulty<K> {
    fn fails(&mut self) -> bool {
        let fails = self.rate > 0 && self.dice.roll(self.rate) == 0;
        self.broken += usize::from(fails);
        fails
    }
}

fn cut() -> Error {
    Error::Socket("reading an answer", io::ErrorKind::ConnectionReset.into())
}

impl<K: Kernel> Kernel for Faulty<K> {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if !self.fails() {
            return self.kernel.commit(batch);
        }
        match self.dice.roll(3) {
            // Nothing arrived.
            0 => Err(cut()),
            // All arrived, the answer was lost.
            1 => self.kernel.commit(batch).and(Err(cut())),
            // One message in the middle was bad: the kernel refuses all of it.
            _ => {
                let mut spoiled = batch.clone();
                let at = self.dice.roll(spoiled.changes.len() + 1);
                let id = batch.changes[0].0.clone();
                spoiled.changes.insert(at, (id, Change::FlushChain { name: "no-such-chain".into() }));
                Err(self.kernel.commit(&spoiled).expect_err("a batch with a bad message is refused"))
            }
        }
    }

    fn dump(&mut self, table: &TableRef) -> Result<Option<Table>, Error> {
        if self.fails() { Err(Error::Interrupted) } else { self.kernel.dump(table) }
    }

    fn generation(&mut self) -> Result<u32, Error> {
        if self.fails() { Err(cut()) } else { self.kernel.generation() }
    }

    fn exclusive(&mut self, table: &TableRef) -> Result<bool, Error> {
        self.kernel.exclusive(table)
    }
}

fn dump_all<K: Kernel>(kernel: &mut K, ids: &[TableRef]) -> State {
    ids.iter().filter_map(|id| Some((id.clone(), kernel.dump(id).expect("no fault here")?))).collect()
}

fn run_with_faults<K: Kernel>(seed: u64, steps: usize, kernel: K) {
    let mut story = Story::new(seed);
    let faulty = Faulty { kernel, dice: Dice::new(seed + 1000), rate: 0, broken: 0 };
    let mut syncer = Syncer::new(faulty, story.rules());
    story.sync(&mut syncer, &Turn::Surroundings).unwrap();
    let ids = syncer.rules().table_refs();
    for step in 0..steps {
        let old = dump_all(&mut syncer.kernel().kernel, &ids);
        let turn = story.turn();
        syncer.kernel().rate = 3;
        let failed = story.sync(&mut syncer, &turn).is_err();
        syncer.kernel().rate = 0;
        let (now, new) = (dump_all(&mut syncer.kernel().kernel, &ids), syncer.rules().tables());
        let whole = now == new || failed && now == old;
        assert!(whole, "seed {seed}, step {step}: neither the old rules nor the new ones");
        if failed && story.dice.roll(3) > 0 {
            // Sometimes the next change comes before the next try.
            story.sync(&mut syncer, &Turn::Services(BTreeSet::new())).unwrap();
            check(&story, &mut syncer).unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
        }
    }
    story.sync(&mut syncer, &Turn::Services(BTreeSet::new())).unwrap();
    check(&story, &mut syncer).unwrap_or_else(|e| panic!("seed {seed}, at the end: {e}"));
    let broken = syncer.kernel().broken;
    assert!(broken > steps / 10, "{broken} faults in {steps} turns");
    eprintln!("seed {seed}: {steps} turns, {broken} faults");
}

#[test]
fn faults_leave_the_old_or_the_new_rules() {
    for seed in seeds(3) {
        run_with_faults(seed, 100, Fake::default());
    }
}

#[test]
fn faults_leave_the_old_or_the_new_rules_in_the_kernel() {
    isolated("faults_leave_the_old_or_the_new_rules_in_the_kernel", || {
        for seed in seeds(2) {
            run_with_faults(seed, 60, Netlink::open(Ownership::Shared).unwrap());
            skiff_proxy::remove_tables("skiff").unwrap();
        }
    });
}
