//! From what the API server says to the rules in the kernel, in this thread: G7 a cold start, G8 one endpoint, G11 a
//! Service that comes and goes.

use std::{
    cell::Cell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use kube::runtime::watcher::Event;
use skiff_client::feed::Change;
use skiff_nft::{Batch, Error, Kernel, Netlink, Ownership, Parts, Table, TableRef};
use skiff_proxy::{observe::Observed, ruleset::Ruleset, sync::Syncer};
use skiff_services::model::ServiceKey;

use crate::{
    cluster::{ENDPOINTS, typed_service, typed_slice},
    common,
    figures::{forget_peak, processor, quantiles, status_mb, tell},
};

const ROUNDS: u32 = 300;

/// Tells the kernel's time from ours.
pub(crate) struct Timed {
    kernel: Netlink,
    spent: Duration,
}

impl Timed {
    fn take(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }
}

impl Kernel for Timed {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        self.commit_parts(&|each| each(batch))
    }

    fn commit_parts(&mut self, parts: &Parts<'_>) -> Result<(), Error> {
        let (started, ours) = (Instant::now(), Cell::new(Duration::ZERO));
        let result = self.kernel.commit_parts(&|each| {
            let started = Instant::now();
            parts(each);
            ours.set(ours.get() + started.elapsed());
        });
        self.spent += started.elapsed() - ours.get();
        result
    }

    fn dump(&mut self, table: &TableRef) -> Result<Option<Table>, Error> {
        let started = Instant::now();
        let table = self.kernel.dump(table);
        self.spent += started.elapsed();
        table
    }

    fn generation(&mut self) -> Result<u32, Error> {
        self.kernel.generation()
    }

    fn exclusive(&mut self, table: &TableRef) -> Result<bool, Error> {
        self.kernel.exclusive(table)
    }
}

pub(crate) fn observed(services: u32) -> Observed {
    let mut observed = Observed::default();
    for n in 0..services {
        observed.take(Change::Service(Event::Apply(typed_service(n))));
        observed.take(Change::Slice(Event::Apply(typed_slice(n, 0))));
    }
    observed
}

pub(crate) fn load(observed: &mut Observed) -> Syncer<Timed> {
    let keys: BTreeSet<ServiceKey> = observed.snapshot.iter().map(|(k, _)| k.clone()).collect();
    observed.dirty.clear();
    let kernel = Timed { kernel: Netlink::open(Ownership::Exclusive).expect("nftables"), spent: Duration::ZERO };
    let mut syncer = Syncer::new(kernel, Ruleset::new("skiff", common::networks(), common::node_a()));
    syncer.sync(&keys, &observed.snapshot).expect("cold sync");
    syncer
}

/// Median and 99th percentile of all rounds, and the kernel's part of the median.
fn changes(
    observed: &mut Observed,
    syncer: &mut Syncer<Timed>,
    made: impl Fn(u32) -> Vec<Change>,
) -> (Duration, Duration, Duration) {
    let (mut times, mut kernel) = (vec![], vec![]);
    for round in 0..ROUNDS {
        let changes = made(round);
        syncer.kernel().take();
        let started = Instant::now();
        changes.into_iter().for_each(|change| observed.take(change));
        let dirty = std::mem::take(&mut observed.dirty);
        let report = syncer.sync(&dirty, &observed.snapshot).expect("the rules follow");
        times.push(started.elapsed());
        assert!(!report.full && report.elements > 0, "{report:?}");
        kernel.push(syncer.kernel().take());
    }
    let (median, slow) = quantiles(times);
    (median, slow, quantiles(kernel).0)
}

pub(crate) fn run(services: u32) {
    let mut observed = observed(services);
    let before = status_mb("VmRSS:");
    forget_peak();
    let (started, used) = (Instant::now(), processor());
    let mut syncer = load(&mut observed);
    let cold = started.elapsed();
    let [user, system] = processor();
    let (kernel, peak) = (syncer.kernel().take(), status_mb("VmHWM:"));
    println!(
        "skiff {services:6} x {ENDPOINTS}  G7 cold {cold:.1?}: ours {:.1?}, the kernel's {kernel:.1?} (processor: user {:.0?}, \
         system {:.0?}); memory {before:.0} MB of objects, {peak:.0} MB at most",
        cold - kernel,
        user - used[0],
        system - used[1],
    );
    tell("cold", cold);
    one_endpoint(&mut observed, &mut syncer, services);
    services_come_and_go(&mut observed, &mut syncer, services);
    drop(syncer);
    let started = Instant::now();
    drop(load(&mut observed));
    println!("{:18} taken over {:.1?}; memory {:.0} MB afterwards", "", started.elapsed(), status_mb("VmRSS:"));
}

fn one_endpoint(observed: &mut Observed, syncer: &mut Syncer<Timed>, services: u32) {
    let one = |round: u32| {
        let n = round * 7919 % services;
        vec![Change::Slice(Event::Apply(typed_slice(n, 1 + round / services % 5)))]
    };
    let (median, slow, kernel) = changes(observed, syncer, one);
    println!("{:18} G8 one endpoint changed {median:.1?}, p99 {slow:.1?}; the kernel's part {kernel:.1?}", "");
    tell("one", median);
}

fn services_come_and_go(observed: &mut Observed, syncer: &mut Syncer<Timed>, services: u32) {
    let come = |round: u32| {
        let n = services + round;
        vec![Change::Slice(Event::Apply(typed_slice(n, 0))), Change::Service(Event::Apply(typed_service(n)))]
    };
    let (made, made_slow, _) = changes(observed, syncer, come);
    let go = |round: u32| {
        let n = services + round;
        vec![Change::Service(Event::Delete(typed_service(n))), Change::Slice(Event::Delete(typed_slice(n, 0)))]
    };
    let (gone, gone_slow, _) = changes(observed, syncer, go);
    println!("{:18} G11 Service made {made:.1?}, p99 {made_slow:.1?}; gone {gone:.1?}, p99 {gone_slow:.1?}", "");
    tell("made", made);
}
