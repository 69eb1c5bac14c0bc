//! Any sequence of operations does to the store what it does to a map with a list of its past, also across restarts,
//! snapshots and torn ends.

mod common;

use std::{collections::BTreeMap, io, sync::Arc};

use common::{next, runtime};
use proptest::prelude::*;
use skiff_store::{
    Entry, Error, Event, Expect, Rev, Store,
    embedded::{Embedded, Options},
    faulty::{Disk, Fault, Step as DiskStep},
};

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, size: usize, expect: Want },
    Delete { key: u8, expect: Want },
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Want {
    Any,
    Absent,
    Current,
    Wrong,
}

/// Every state that ever was, by revision.
struct Model {
    states: Vec<BTreeMap<String, Entry>>,
}

impl Model {
    fn now(&self) -> &BTreeMap<String, Entry> {
        self.states.last().expect("never empty")
    }

    fn expect(&self, key: &str, want: Want) -> Expect {
        let modified = self.now().get(key).map_or(0, |entry| entry.modified);
        match want {
            Want::Any => Expect::Any,
            Want::Absent => Expect::Absent,
            Want::Current => Expect::Rev(modified),
            Want::Wrong => Expect::Rev(modified + 1000),
        }
    }

    fn holds(&self, key: &str, expect: Expect) -> bool {
        match expect {
            Expect::Any => true,
            Expect::Absent => !self.now().contains_key(key),
            Expect::Rev(rev) => self.now().get(key).is_some_and(|entry| entry.modified == rev),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<String, Entry>, Rev)) {
        let mut state = self.now().clone();
        change(&mut state, self.states.len() as Rev);
        self.states.push(state);
    }
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![4 => Just(Want::Any), 1 => Just(Want::Absent), 2 => Just(Want::Current), 1 => Just(Want::Wrong)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, 0..300usize, want()).prop_map(|(key, size, expect)| Step::Put { key, size, expect }),
        4 => (0..6u8, want()).prop_map(|(key, expect)| Step::Delete { key, expect }),
        1 => Just(Step::Restart),
    ]
}

fn options() -> Options {
    Options { snapshot_after: 2_000, ..Options::default() }
}

async fn put(store: &dyn Store, model: &mut Model, key: String, size: usize, want: Want) {
    let expect = model.expect(&key, want);
    let value = bytes::Bytes::from(vec![size as u8; size]);
    let answer = store.put(&key, value.clone(), expect).await;
    if !model.holds(&key, expect) {
        let current = model.now().get(&key).cloned();
        assert!(matches!(answer, Err(Error::Conflict { current: now, .. }) if now == current));
        return;
    }
    model.change(|state, rev| {
        let created = state.get(&key).map_or(rev, |entry| entry.created);
        state.insert(key.clone(), Entry { key: key.as_str().into(), value, created, modified: rev });
    });
    assert_eq!(answer.expect("allowed"), model.now()[&key]);
}

async fn delete(store: &dyn Store, model: &mut Model, key: String, want: Want) {
    let expect = model.expect(&key, want);
    let answer = store.delete(&key, expect).await;
    let Some(current) = model.now().get(&key).cloned() else {
        return assert!(matches!(answer, Err(Error::NotFound { .. })));
    };
    if !model.holds(&key, expect) {
        return assert!(matches!(answer, Err(Error::Conflict { current: Some(now), .. }) if now == current));
    }
    model.change(|state, _| drop(state.remove(&key)));
    assert_eq!(answer.expect("allowed"), (model.states.len() as Rev - 1, current));
}

/// Every kept revision lists as the model had it; the events from any kept revision lead from its state to today's.
async fn compare(store: &dyn Store, model: &Model) {
    let newest = model.states.len() as Rev - 1;
    assert_eq!(store.revision().await.expect("read"), newest);
    for (rev, state) in model.states.iter().enumerate().rev() {
        let page = match store.list("", None, 0, Some(rev as Rev)).await {
            Err(Error::Compacted { .. }) if (rev as Rev) < newest => break,
            page => page.expect("kept"),
        };
        assert!(page.entries.iter().eq(state.values()), "revision {rev}");
        let mut replayed = state.clone();
        let mut watch = store.watch("", rev as Rev).await.expect("kept");
        for _ in rev as Rev..newest {
            match next(&mut watch).await {
                Event::Put { entry, prev } => assert_eq!(replayed.insert(entry.key.to_string(), entry), prev),
                Event::Delete { prev, .. } => assert_eq!(replayed.remove(&*prev.key), Some(prev)),
                Event::Progress(_) => unreachable!("skipped"),
            }
        }
        assert_eq!(&replayed, model.now());
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut model = Model { states: vec![BTreeMap::new()] };
    let mut store = common::embedded(&dir, options());
    for step in steps {
        match step {
            Step::Put { key, size, expect } => put(&store, &mut model, format!("/{key}"), size, expect).await,
            Step::Delete { key, expect } => delete(&store, &mut model, format!("/{key}"), expect).await,
            Step::Restart => {
                drop(store);
                store = common::embedded(&dir, options());
            }
        }
    }
    compare(&store, &model).await;
    drop(store);
    compare(&common::embedded(&dir, options()), &model).await;
}

/// Over etcd, with two servers that take turns; a restart is that of one of them.
async fn run_over_etcd(endpoint: &str, steps: Vec<Step>) {
    let options = common::etcd_options(endpoint);
    let mut model = Model { states: vec![BTreeMap::new()] };
    let mut servers = [common::open_etcd(&options).await, common::open_etcd(&options).await];
    for (turn, step) in steps.into_iter().enumerate() {
        let store = &mut servers[turn % 2];
        match step {
            Step::Put { key, size, expect } => put(store, &mut model, format!("/{key}"), size, expect).await,
            Step::Delete { key, expect } => delete(store, &mut model, format!("/{key}"), expect).await,
            Step::Restart => *store = common::open_etcd(&options).await,
        }
    }
    for store in &servers {
        compare(store, &model).await;
    }
    compare(&common::open_etcd(&options).await, &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_servers_over_etcd_are_one_model(steps in proptest::collection::vec(step(), 1..80)) {
        if let Some(endpoint) = common::etcd() {
            runtime().block_on(run_over_etcd(endpoint, steps));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_its_model(steps in proptest::collection::vec(step(), 1..80)) {
        runtime().block_on(run(steps));
    }

    #[test]
    fn a_log_cut_anywhere_is_a_prefix_of_what_happened(writes in 1..40usize, cut in 0.0..1.0f64) {
        runtime().block_on(cut_and_reopen(writes, cut));
    }

    #[test]
    fn a_failing_disk_loses_nothing_acknowledged(faults in faults()) {
        runtime().block_on(fail_and_reopen(faults));
    }
}

async fn cut_and_reopen(writes: usize, cut: f64) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = common::embedded(&dir, Options::default());
    let mut model = Model { states: vec![BTreeMap::new()] };
    for n in 0..writes {
        put(&store, &mut model, format!("/{}", n % 5), n, Want::Any).await;
    }
    drop(store);
    let log = dir.path().join("store/log.0000000001");
    let length = std::fs::metadata(&log).expect("a log").len();
    let file = std::fs::OpenOptions::new().write(true).open(&log).expect("opens");
    file.set_len((length as f64 * cut) as u64).expect("cut");
    let store = common::embedded(&dir, Options::default());
    let kept = store.revision().await.expect("read") as usize;
    model.states.truncate(kept + 1);
    compare(&store, &model).await;
    // And it goes on from there, over another restart.
    put(&store, &mut model, "/on".into(), 1, Want::Absent).await;
    drop(store);
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path().join("store"), Options::default()).expect("opens"));
    compare(&*store, &model).await;
}

/// What the disk does at each of its steps, over and over.
fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let kind = io::ErrorKind::StorageFull;
    let fault = prop_oneof![
        20 => Just(Fault::None),
        1 => Just(Fault::Fail(kind)),
        2 => (0..200usize).prop_map(move |written| Fault::Short(written, kind)),
    ];
    proptest::collection::vec(fault, 1..60)
}

/// However the disk fails: what was acknowledged is there after the next start, and what was not is there wholly or not
/// at all.
async fn fail_and_reopen(faults: Vec<Fault>) {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = move |n: u64, _: DiskStep| faults[n as usize % faults.len()];
    let store = common::embedded(&dir, Options { medium: Disk::wrap(Arc::new(plan)), ..options() });
    let mut acked = BTreeMap::new();
    let mut asked = BTreeMap::new();
    for n in 0..60u64 {
        let key = format!("/{}", n % 7);
        let value = format!("{n}");
        asked.entry(key.clone()).or_insert_with(Vec::new).push(value.clone());
        match store.put(&key, value.into(), Expect::Any).await {
            Ok(entry) => drop(acked.insert(key, entry)),
            Err(Error::Io { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        let page = store.list("", None, 0, None).await.expect("reads go on");
        assert!(page.entries.iter().eq(acked.values()), "nothing is seen that was not acknowledged");
    }
    let newest = store.revision().await.expect("read");
    drop(store);
    let store = common::embedded(&dir, options());
    assert!(store.revision().await.expect("read") >= newest);
    for entry in store.list("", None, 0, None).await.expect("lists").entries {
        let value = std::str::from_utf8(&entry.value).expect("text").to_string();
        assert!(asked[&*entry.key].contains(&value));
        assert!(acked.remove(&*entry.key).is_none_or(|acked| entry.modified >= acked.modified));
    }
    assert!(acked.is_empty(), "lost: {acked:?}");
}
