//! What the store's tests share.

#![allow(dead_code, unreachable_pub)]

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use skiff_store::{
    Event, Store, Watch,
    embedded::{Embedded, Options},
};

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
