//! What the store's tests share.

#![allow(dead_code, unreachable_pub)]

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use skiff_store::{
    Event, Store, Watch,
    embedded::{Embedded, Options},
    etcd::{self, Etcd},
};

/// One etcd for all tests of this process; None where there is none, which has been said.
pub fn etcd() -> Option<&'static str> {
    static ONE: OnceLock<Option<(skiff_testkit::etcd::Etcd, tempfile::TempDir)>> = OnceLock::new();
    let one = ONE.get_or_init(|| {
        let dir = etcd_dir()?;
        Some((skiff_testkit::etcd::Etcd::start(dir.path()).expect("etcd starts"), dir))
    });
    static ENDPOINT: OnceLock<String> = OnceLock::new();
    one.as_ref().map(|(etcd, _)| ENDPOINT.get_or_init(|| etcd.endpoint()).as_str())
}

/// A directory for an etcd of the test's own; None where there is no etcd.
pub fn etcd_dir() -> Option<tempfile::TempDir> {
    if !skiff_testkit::etcd::Etcd::is_installed() {
        skiff_testkit::tools::skip("this test needs etcd (Debian: etcd-server)");
        return None;
    }
    Some(tempfile::tempdir().expect("a directory"))
}

/// Options for a store that no other test has.
pub fn etcd_options(endpoint: &str) -> etcd::Options {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    etcd::Options::new(vec![endpoint.to_owned()], &format!("/registry/skiff/test{number}"))
}

pub async fn open_etcd(options: &etcd::Options) -> Etcd {
    Etcd::open(options.clone()).await.expect("etcd opens")
}

pub fn embedded(dir: &tempfile::TempDir, options: Options) -> Embedded {
    Embedded::open(dir.path().join("store"), options).expect("opens")
}

/// The next event that is no progress; fails if there is none soon.
pub async fn next(watch: &mut Watch) -> Event {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        match event.expect("an event within 10 s").expect("the watch goes on").expect("no error") {
            Event::Progress(_) => {}
            event => return event,
        }
    }
}

pub async fn keys(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    let page = store.list(prefix, None, 0, None).await.expect("lists");
    page.entries.iter().map(|entry| entry.key.to_string()).collect()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
