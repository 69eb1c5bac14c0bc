//! Copies taken beside a busy store, and stores made of them.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use common::embedded;
use skiff_store::{
    Error, Expect, Store,
    backup::Backup,
    embedded::{Embedded, Options},
};

const JUMP: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_a_writer_holds_all_that_was_acknowledged_and_nothing_half() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(embedded(&dir, Options { snapshot_after: 5_000, ..Options::default() }));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            // Both keys in one commit: a copy in which they differ is half a write.
            for n in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let write = |key: &str| skiff_store::Write {
                    key: key.into(),
                    value: Some(format!("{n:0100}").into()),
                    expect: Expect::Any,
                };
                store.commit(vec![write("/a"), write("/b")]).await.expect("written");
            }
        }
    });
    for _ in 0..50 {
        let before = store.revision().await.expect("read");
        let copy = Backup::take(&dir.path().join("store")).expect("a copy");
        assert!(copy.rev >= before, "{} of {before}", copy.rev);
        let values: Vec<_> = copy.entries.iter().map(|e| e.value.clone()).collect();
        assert!(values.windows(2).all(|two| two[0] == two[1]), "{values:?}");
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("no panic");
    assert_eq!(Backup::take(&dir.path().join("store")).expect("a copy").rev, store.revision().await.expect("read"));
}

async fn filled(dir: &tempfile::TempDir) -> Backup {
    let store = embedded(dir, Options::default());
    for n in 0..5 {
        store.put(&format!("/{}", n % 3), format!("value {n}").into(), Expect::Any).await.expect("written");
    }
    store.delete("/0", Expect::Any).await.expect("deleted");
    drop(store);
    Backup::take(&dir.path().join("store")).expect("a copy")
}

#[tokio::test]
async fn a_store_made_of_a_copy_goes_on_above_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = filled(&dir).await;
    let path = dir.path().join("deep/restored");
    assert_eq!(copy.restore(&path, JUMP).expect("restored"), copy.rev + JUMP);
    let store = Embedded::open(&path, Options::default()).expect("opens");
    assert_eq!(store.list("", None, 0, None).await.expect("lists").entries, copy.entries);
    let watched = store.watch("", copy.rev).await.err();
    assert!(matches!(watched, Some(Error::Compacted { .. })), "{watched:?}");
    let written = store.put("/new", "value".into(), Expect::Absent).await.expect("written");
    assert_eq!(written.modified, copy.rev + JUMP + 1);
    drop(store);
    let refused = copy.restore(&path, JUMP).expect_err("a store is there");
    assert!(refused.to_string().contains("already"), "{refused}");
    let store = Embedded::open(&path, Options::default()).expect("opens");
    assert_eq!(store.revision().await.expect("read"), copy.rev + JUMP + 1);
}

#[tokio::test]
async fn a_damaged_or_cut_copy_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = filled(&dir).await;
    let mut bytes = vec![];
    copy.write(&mut bytes).expect("memory");
    assert_eq!(Backup::parse(&bytes), Some(copy));
    for at in 0..bytes.len() {
        assert_eq!(Backup::parse(&bytes[..at]), None, "cut at {at}");
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert_eq!(Backup::parse(&bad), None, "byte {at}");
    }
}

#[test]
fn where_no_store_is_there_is_nothing_to_copy() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(Backup::take(dir.path()).expect_err("empty").to_string().contains("there is no store in"));
    assert!(Backup::take(&dir.path().join("absent")).is_err());
}
