//! Disks that fail, files that are damaged, processes that are killed.

mod common;

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use common::{embedded, runtime};
use skiff_store::{
    Error, Expect, Store,
    embedded::{Embedded, Options},
    faulty::{Act, Disk, Fault, Faulty, Op, Step},
    memory::Memory,
};

fn on_disk(plan: impl Fn(u64, Step) -> Fault + Send + Sync + 'static) -> Options {
    Options { medium: Disk::wrap(Arc::new(plan)), ..Options::default() }
}

async fn put(store: &impl Store, key: &str) -> Result<u64, Error> {
    store.put(key, "value".into(), Expect::Any).await.map(|entry| entry.modified)
}

#[tokio::test]
async fn a_full_disk_refuses_cleanly_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a directory");
    // Steps: append, sync, then an append that writes 7 bytes only, then cut.
    let plan = |n, _| if n == 2 { Fault::Short(7, io::ErrorKind::StorageFull) } else { Fault::None };
    let store = embedded(&dir, on_disk(plan));
    assert_eq!(put(&store, "/a").await.expect("written"), 1);
    let full = put(&store, "/b").await;
    assert!(matches!(&full, Err(Error::Io { fatal: false, reason }) if reason.contains("log.")), "{full:?}");
    assert_eq!(store.get("/b").await.expect("read"), None);
    assert_eq!(put(&store, "/c").await.expect("written"), 2);
    drop(store);
    let store = embedded(&dir, Options::default());
    assert_eq!(store.list("", None, 0, None).await.expect("lists").entries.len(), 2);
}

#[tokio::test]
async fn after_a_failed_sync_the_store_is_read_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = |n, step| if n > 1 && step == Step::Sync { Fault::Fail(io::ErrorKind::Other) } else { Fault::None };
    let store = embedded(&dir, on_disk(plan));
    put(&store, "/a").await.expect("written");
    for _ in 0..2 {
        let refused = put(&store, "/b").await;
        assert!(
            matches!(&refused, Err(Error::Io { fatal: true, reason }) if reason.contains("read-only")),
            "{refused:?}"
        );
    }
    assert!(store.get("/a").await.expect("read").is_some());
    assert_eq!(store.get("/b").await.expect("read"), None);
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let slow = std::time::Duration::from_millis(300);
    let plan = move |_, step| if step == Step::Sync { Fault::Slow(slow) } else { Fault::None };
    let store = Arc::new(embedded(&dir, on_disk(plan)));
    let writer = tokio::spawn({
        let store = store.clone();
        async move { put(&*store, "/a").await }
    });
    tokio::time::sleep(slow / 3).await;
    assert_eq!(store.get("/a").await.expect("read"), None);
    writer.await.expect("no panic").expect("written");
    assert!(store.get("/a").await.expect("read").is_some());
}

#[tokio::test]
async fn damage_is_told_not_repaired() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = embedded(&dir, Options::default());
    for key in ["/a", "/b", "/c"] {
        put(&store, key).await.expect("written");
    }
    drop(store);
    let log = dir.path().join("store/log.0000000001");
    let mut bytes = fs::read(&log).expect("a log");
    bytes[30] ^= 1;
    fs::write(&log, bytes).expect("written");
    let error = Embedded::open(dir.path().join("store"), Options::default()).err().expect("refused");
    assert!(error.to_string().contains("log.0000000001 is damaged at byte 8"), "{error}");
}

#[tokio::test]
async fn snapshots_replace_the_log_and_lose_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { snapshot_after: 10_000, ..Options::default() };
    let store = embedded(&dir, options.clone());
    for n in 0..2_000 {
        put(&store, &format!("/{}", n % 50)).await.expect("written");
    }
    drop(store);
    let bytes: u64 = files(&dir.path().join("store")).map(|(_, size)| size).sum();
    assert!(bytes < 40_000, "{bytes} bytes for 50 small keys");
    let store = embedded(&dir, options);
    assert_eq!(store.revision().await.expect("read"), 2_000);
    assert_eq!(store.list("", None, 0, None).await.expect("lists").entries.len(), 50);
}

fn files(dir: &Path) -> impl Iterator<Item = (String, u64)> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("a file").len()))
}

#[tokio::test]
async fn a_missing_segment_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = embedded(&dir, Options::default());
    put(&store, "/a").await.expect("written");
    drop(store);
    let path = dir.path().join("store");
    fs::rename(path.join("log.0000000001"), path.join("log.0000000002")).expect("renamed");
    let error = Embedded::open(&path, Options::default()).err().expect("refused");
    assert!(error.to_string().contains("log.0000000001 is missing"), "{error}");
}

#[test]
fn one_store_per_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let _store = embedded(&dir, Options::default());
    let error = Embedded::open(dir.path().join("store"), Options::default()).err().expect("refused");
    let pid = std::process::id();
    assert!(matches!(&error, Error::Locked { .. }) && error.to_string().contains(&format!("(pid {pid})")), "{error}");
}

#[tokio::test]
async fn faults_follow_their_plan() {
    let plan = |n, op| match (n, op) {
        (1, Op::Put) => Act::Refuse,
        (2, Op::Put) => Act::Lose,
        (4, _) => Act::Crash,
        _ => Act::Pass,
    };
    let store = Faulty::wrap(Arc::new(Memory::new()), plan);
    assert!(put(&store, "/0").await.is_ok());
    assert!(put(&store, "/1").await.is_err());
    assert!(put(&store, "/2").await.is_err());
    let page = store.list("", None, 0, None).await.expect("lists");
    assert_eq!(page.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), ["/0", "/2"]);
    for _ in 0..2 {
        assert!(matches!(store.revision().await, Err(Error::Io { fatal: true, .. })));
    }
}

const WRITER_DIR: &str = "SKIFF_STORE_TEST_WRITER";

/// Not a test of its own: the process that `acknowledged_writes_survive_kill` kills. Prints each write once acknowledged.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(WRITER_DIR) else { return };
    let store = Arc::new(Embedded::open(dir, Options { snapshot_after: 50_000, ..Options::default() }).expect("opens"));
    let writer = |n: u64| {
        let store = store.clone();
        async move {
            for round in 0u64.. {
                let rev = put(&*store, &format!("/{n}/{}", round % 100)).await.expect("written");
                // One write call a line, so that a line is whole or not there.
                io::stdout().write_all(format!("acked /{n}/{} {rev}\n", round % 100).as_bytes()).expect("a reader");
            }
        }
    };
    runtime().block_on(futures::future::join_all((0..8).map(writer)));
}

fn spawn_writer(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "writer_process", "--nocapture"]).env(WRITER_DIR, dir);
    command.stdout(Stdio::piped()).spawn().expect("a child")
}

#[tokio::test]
async fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let mut newest = 0;
    for round in 0..10 {
        let mut child = spawn_writer(&path);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let acked = |line: String| {
            let mut words = line.split_once("acked ")?.1.split(' ');
            Some((words.next()?.to_string(), words.next()?.parse::<u64>().ok()?))
        };
        let mut seen: Vec<_> = lines.by_ref().filter_map(acked).take(100 + 377 * round).collect();
        child.kill().expect("killed");
        child.wait().expect("reaped");
        seen.extend(lines.filter_map(acked));
        let store = embedded(&dir, Options::default());
        let rev = store.revision().await.expect("read");
        assert!(rev >= newest && seen.iter().all(|(_, acked)| *acked > newest && *acked <= rev));
        for (key, acked) in seen {
            let entry = store.get(&key).await.expect("read").expect("acknowledged, so it is there");
            assert!(entry.modified >= acked, "{key}: {} but {acked} was acknowledged", entry.modified);
        }
        newest = rev;
    }
}
