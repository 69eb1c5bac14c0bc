//! What every backend must do. Knows nothing of how.

mod common;

use std::{sync::Arc, time::Duration};

use common::{keys, next};
use futures::StreamExt;
use skiff_store::{
    Error, Event, Expect, Store, Write,
    embedded::Options,
    etcd,
    faulty::{Act, Faulty},
    memory::Memory,
};

type Shared = Arc<dyn Store>;

/// Runs a test over each backend, each with a history of 100 changes.
fn over_each<F: Future<Output = ()>>(test: impl Fn(Shared) -> F) {
    let options = Options { history: 100, ..Options::default() };
    let dir = tempfile::tempdir().expect("a directory");
    let memory: Shared = Arc::new(Memory::with(&options));
    let embedded: Shared = Arc::new(common::embedded(&dir, options.clone()));
    let faulty: Shared = Arc::new(Faulty::wrap(Arc::new(Memory::with(&options)), |_, _| Act::Pass));
    // One thread: what was woken runs before a later write is answered.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (name, store) in [("memory", memory), ("embedded", embedded), ("faulty", faulty)] {
        eprintln!("over {name}");
        runtime.block_on(test(store));
    }
    if let Some(endpoint) = common::etcd() {
        eprintln!("over etcd");
        let options = etcd::Options { history: options.history, ..common::etcd_options(endpoint) };
        let etcd: Shared = Arc::new(runtime.block_on(common::open_etcd(&options)));
        runtime.block_on(test(etcd));
    }
}

#[test]
fn writes_count_up_and_keep_their_creation() {
    over_each(|store| async move {
        let one = store.put("/a", "1".into(), Expect::Absent).await.expect("created");
        let two = store.put("/a", "2".into(), Expect::Rev(one.modified)).await.expect("updated");
        assert!(two.modified > one.modified);
        assert_eq!((two.created, one.created), (one.modified, one.modified));
        let (rev, gone) = store.delete("/a", Expect::Rev(two.modified)).await.expect("deleted");
        assert_eq!(gone, two);
        assert!(rev > two.modified);
        let anew = store.put("/a", "3".into(), Expect::Any).await.expect("created");
        assert_eq!(anew.created, anew.modified);
        assert!(anew.created > rev);
        assert_eq!(store.get("/a").await.expect("read"), Some(anew.clone()));
        assert_eq!(store.revision().await.expect("read"), anew.modified);
    });
}

#[test]
fn preconditions_refuse_and_change_nothing() {
    over_each(|store| async move {
        let entry = store.put("/a", "1".into(), Expect::Any).await.expect("created");
        let rev = store.revision().await.expect("read");
        for expect in [Expect::Absent, Expect::Rev(entry.modified + 1)] {
            let refused = store.put("/a", "2".into(), expect).await;
            assert!(
                matches!(&refused, Err(Error::Conflict { current: Some(now), .. }) if *now == entry),
                "{refused:?}"
            );
            let refused = store.delete("/a", expect).await;
            assert!(
                matches!(&refused, Err(Error::Conflict { current: Some(now), .. }) if *now == entry),
                "{refused:?}"
            );
        }
        let refused = store.put("/b", "2".into(), Expect::Rev(1)).await;
        assert!(matches!(refused, Err(Error::Conflict { current: None, .. })), "{refused:?}");
        for expect in [Expect::Any, Expect::Absent, Expect::Rev(1)] {
            assert!(matches!(store.delete("/b", expect).await, Err(Error::NotFound { .. })));
        }
        assert_eq!(store.revision().await.expect("read"), rev);
    });
}

#[test]
fn a_commit_is_all_or_nothing() {
    over_each(|store| async move {
        let write = |key: &str, value: Option<&'static str>, expect| Write {
            key: key.into(),
            value: value.map(Into::into),
            expect,
        };
        let both = vec![write("/a", Some("1"), Expect::Absent), write("/b", Some("1"), Expect::Absent)];
        let events = store.commit(both).await.expect("committed");
        assert_eq!(events.iter().map(Event::rev).collect::<Vec<_>>(), [1, 2]);
        let half = vec![write("/a", Some("2"), Expect::Rev(1)), write("/b", Some("2"), Expect::Absent)];
        let refused = store.commit(half).await;
        assert!(matches!(&refused, Err(Error::Conflict { key, .. }) if key == "/b"), "{refused:?}");
        assert_eq!(store.get("/a").await.expect("read").expect("there").value, "1");
        assert_eq!(store.revision().await.expect("read"), 2);
        // A later write of a commit sees the earlier ones.
        let again = vec![
            write("/a", None, Expect::Rev(1)),
            write("/a", Some("3"), Expect::Absent),
            write("/c", Some("1"), Expect::Any),
        ];
        store.commit(again).await.expect("committed");
        assert_eq!(store.get("/a").await.expect("read").expect("there").created, 4);
        assert_eq!(keys(&store, "/").await, ["/a", "/b", "/c"]);
    });
}

#[test]
fn of_many_committers_of_one_key_one_wins() {
    over_each(|store| async move {
        let commits = (0..50).map(|n| {
            let own = Write { key: format!("/own/{n}").into(), value: Some("x".into()), expect: Expect::Absent };
            let shared = Write { key: "/shared".into(), value: Some("x".into()), expect: Expect::Absent };
            store.commit(vec![own, shared])
        });
        let won = futures::future::join_all(commits).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1);
        assert_eq!(store.list("/own/", None, 0, None).await.expect("listed").entries.len(), 1);
    });
}

#[test]
fn of_many_creators_one_wins() {
    over_each(|store| async move {
        let creators = (0..50).map(|n| {
            let store = store.clone();
            async move { store.put("/one", format!("{n}").into(), Expect::Absent).await.is_ok() }
        });
        let won = futures::future::join_all(creators).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
    });
}

#[test]
fn lists_are_in_key_order_and_paged() {
    over_each(|store| async move {
        for key in ["/b/2", "/a/1", "/b/1", "/b/10", "/c/1", "/b", "/b/"] {
            store.put(key, "v".into(), Expect::Any).await.expect("created");
        }
        assert_eq!(keys(&store, "/b/").await, ["/b/", "/b/1", "/b/10", "/b/2"]);
        assert_eq!(keys(&store, "").await.len(), 7);
        assert_eq!(keys(&store, "/x").await, [""; 0]);
        let page = store.list("/b/", Some("/b/1"), 1, None).await.expect("lists");
        assert_eq!((&*page.entries[0].key, page.entries.len(), page.remaining), ("/b/10", 1, 1));
        let page = store.list("/b/", Some("/a"), 0, None).await.expect("lists");
        assert_eq!((page.entries.len(), page.remaining), (4, 0));
    });
}

#[test]
fn a_list_at_a_revision_shows_that_revision() {
    over_each(|store| async move {
        store.put("/a", "1".into(), Expect::Any).await.expect("created");
        let at = store.put("/b", "1".into(), Expect::Any).await.expect("created").modified;
        store.put("/a", "2".into(), Expect::Any).await.expect("updated");
        store.delete("/b", Expect::Any).await.expect("deleted");
        store.put("/b", "3".into(), Expect::Any).await.expect("created");
        store.put("/c", "1".into(), Expect::Any).await.expect("created");
        let page = store.list("/", None, 0, Some(at)).await.expect("lists");
        let seen: Vec<_> = page.entries.iter().map(|entry| (&*entry.key, &*entry.value)).collect();
        assert_eq!(seen, [("/a", &b"1"[..]), ("/b", b"1")]);
        assert_eq!(page.rev, at);
        let page = store.list("/", Some("/a"), 1, Some(at)).await.expect("lists");
        assert_eq!((&*page.entries[0].key, page.remaining), ("/b", 0));
        let now = store.revision().await.expect("read");
        let future = store.list("/", None, 0, Some(now + 1)).await;
        assert!(matches!(future, Err(Error::Future { .. })), "{future:?}");
    });
}

#[test]
fn a_watch_has_no_gaps() {
    over_each(|store| async move {
        let before = store.put("/a/0", "0".into(), Expect::Any).await.expect("created");
        store.put("/a/1", "1".into(), Expect::Any).await.expect("created");
        let mut watch = store.watch("/a/", before.modified).await.expect("watches");
        store.put("/b/1", "other".into(), Expect::Any).await.expect("created");
        store.put("/a/0", "2".into(), Expect::Any).await.expect("updated");
        store.delete("/a/1", Expect::Any).await.expect("deleted");
        let seen = [next(&mut watch).await, next(&mut watch).await, next(&mut watch).await];
        let [
            Event::Put { entry: one, prev: None },
            Event::Put { entry: two, prev: Some(prev) },
            Event::Delete { prev: gone, rev },
        ] = seen
        else {
            panic!("{seen:?}")
        };
        assert_eq!((&*one.key, &*two.value, prev), ("/a/1", &b"2"[..], before));
        assert_eq!((gone, rev), (one, store.revision().await.expect("read")));
    });
}

#[test]
fn progress_tells_of_what_is_not_seen() {
    over_each(|store| async move {
        let mut watch = store.watch("/a/", 0).await.expect("watches");
        let rev = store.put("/b", "1".into(), Expect::Any).await.expect("created").modified;
        let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("within 10 s");
        assert!(matches!(event, Some(Ok(Event::Progress(told))) if told == rev), "{event:?}");
    });
}

#[test]
fn too_old_and_future_revisions_are_errors_of_their_own() {
    over_each(|store| async move {
        for n in 0..10 {
            store.put("/a", format!("{n}").into(), Expect::Any).await.expect("written");
        }
        store.compact(5).await.expect("compacts");
        let old = store.list("/", None, 0, Some(4)).await;
        assert!(matches!(old, Err(Error::Compacted { asked: 4, oldest: 5 })), "{old:?}");
        assert_eq!(store.list("/", None, 0, Some(5)).await.expect("lists").entries.len(), 1);
        assert!(matches!(store.watch("/", 4).await.err(), Some(Error::Compacted { .. })));
        let mut watch = store.watch("/", 5).await.expect("watches");
        assert_eq!(next(&mut watch).await.rev(), 6);
        assert!(matches!(store.watch("/", 11).await.err(), Some(Error::Future { .. })));
        assert!(matches!(store.compact(11).await.err(), Some(Error::Future { .. })));
    });
}

#[test]
fn a_slow_watcher_ends_instead_of_growing() {
    over_each(|store| async move {
        let mut watch = store.watch("/a", 0).await.expect("watches");
        for n in 0..300 {
            store.put("/a", format!("{n}").into(), Expect::Any).await.expect("written");
        }
        let ended = watch.next().await;
        assert!(matches!(ended, Some(Err(Error::Compacted { asked: 0, .. }))), "{ended:?}");
        assert!(watch.next().await.is_none());
    });
}

#[test]
fn a_watcher_of_quiet_keys_is_not_slow() {
    over_each(|store| async move {
        let mut quiet = store.watch("/b", 0).await.expect("watches");
        let waiting = tokio::spawn(async move { next(&mut quiet).await });
        for n in 0..300 {
            store.put("/a", format!("{n}").into(), Expect::Any).await.expect("written");
        }
        let rev = store.put("/b", "1".into(), Expect::Any).await.expect("written").modified;
        assert_eq!(waiting.await.expect("no panic").rev(), rev);
    });
}

#[test]
fn a_watcher_that_keeps_up_outlives_any_history() {
    over_each(|store| async move {
        let mut watch = store.watch("/a", 0).await.expect("watches");
        for n in 1..=500 {
            store.put("/a", format!("{n}").into(), Expect::Any).await.expect("written");
            assert_eq!(next(&mut watch).await.rev(), n);
        }
    });
}

#[test]
fn a_thousand_watchers_see_everything() {
    over_each(|store| async move {
        let mut watches = Vec::new();
        for n in 0..1000 {
            watches.push(store.watch(&format!("/w/{}", n % 10), 0).await.expect("watches"));
        }
        for n in 0..50 {
            store.put(&format!("/w/{}", n % 10), format!("{n}").into(), Expect::Any).await.expect("written");
        }
        for (n, watch) in watches.iter_mut().enumerate() {
            for round in 0..5 {
                assert_eq!(next(watch).await.rev(), (n % 10 + 10 * round + 1) as u64);
            }
        }
    });
}
