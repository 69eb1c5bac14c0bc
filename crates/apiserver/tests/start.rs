//! What a server writes when it starts, and keeps as it must be.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::{Config, Server};
use skiff_store::memory::Memory;
use skiff_store::{Entry, Event, Expect, Page, Result, Rev, Store, Watch, Write};
use support::Api;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn config(advertise: &str) -> Config {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    Config::new("test", advertise.parse().unwrap(), &key)
}

/// A store that notes how many writes were under way at once: those share one wait for the disk.
struct Crowd {
    store: Memory,
    writing: AtomicUsize,
    most: AtomicUsize,
}

impl Store for Crowd {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.store.get(key)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Rev>,
    ) -> BoxFuture<'a, Result<Page>> {
        self.store.list(prefix, after, limit, at)
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Entry>> {
        Box::pin(async move {
            let writing = self.writing.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(writing, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let written = self.store.put(key, value, expect).await;
            self.writing.fetch_sub(1, Ordering::SeqCst);
            written
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(Rev, Entry)>> {
        self.store.delete(key, expect)
    }

    fn commit<'a>(&'a self, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Event>>> {
        Box::pin(async move {
            let writing = self.writing.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(writing, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let written = self.store.commit(writes).await;
            self.writing.fetch_sub(1, Ordering::SeqCst);
            written
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Rev) -> BoxFuture<'a, Result<Watch>> {
        self.store.watch(prefix, after)
    }

    fn revision<'a>(&'a self) -> BoxFuture<'a, Result<Rev>> {
        self.store.revision()
    }

    fn compact<'a>(&'a self, rev: Rev) -> BoxFuture<'a, Result<()>> {
        self.store.compact(rev)
    }
}

#[tokio::test]
async fn the_objects_of_the_start_share_their_way_to_the_disk() {
    let store = Crowd { store: Memory::new(), writing: AtomicUsize::new(0), most: AtomicUsize::new(0) };
    let store = Arc::new(store);
    Server::new(config("192.0.2.1:6443"), store.clone()).await.unwrap();
    let most = store.most.load(Ordering::SeqCst);
    assert!(most > 100, "only {most} writes at once");
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let store = Arc::new(Memory::new());
    let config = config("192.0.2.1:6443");
    Server::new(config.clone(), store.clone()).await.unwrap();
    let rev = store.revision().await.unwrap();
    Server::new(config, store.clone()).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), rev);
}

#[tokio::test]
async fn a_server_on_loopback_starts_and_has_no_endpoints() {
    let api = Api::of(Server::new(config("127.0.0.1:6443"), Arc::new(Memory::new())).await.unwrap());
    let (code, endpoints) = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!((code, endpoints["subsets"].as_array().map_or(0, Vec::len)), (200, 0));
    let (code, service) = api.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!((code, &service["spec"]["clusterIP"]), (200, &json!("10.96.0.1")));
}

fn shows_widgets(role: &Value) -> bool {
    role["rules"].as_array().unwrap().iter().any(|rule| rule["resources"] == json!(["widgets"]))
}

#[tokio::test]
async fn roles_made_of_others_show_their_rules() {
    let api = Api::new().await;
    let rule = |resource: &str| json!([{"apiGroups": ["example.com"], "resources": [resource], "verbs": ["get"]}]);
    let label = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let role = json!({"metadata": {"name": "widget-viewer", "labels": label}, "rules": rule("widgets")});
    let path = format!("{ROLES}/widget-viewer");
    for round in ["created", "changed", "removed"] {
        match round {
            "created" => drop(api.create(ROLES, role.clone()).await),
            "changed" => assert_eq!(api.merge(&path, json!({"rules": rule("gadgets")})).await.0, 200),
            _ => assert_eq!(api.delete(&path).await.0, 200),
        }
        for name in ["view", "edit", "admin"] {
            let (_, whole) = api.get(&format!("{ROLES}/{name}")).await;
            assert_eq!(shows_widgets(&whole), round == "created", "{name} after the role was {round}");
            assert!(whole["rules"].as_array().unwrap().len() > 5, "{name}");
        }
    }
    let (_, own) = api.merge(&format!("{ROLES}/view"), json!({"rules": []})).await;
    assert_eq!(own["kind"], "ClusterRole");
    let (code, view) = api.json(Method::GET, &format!("{ROLES}/view"), Value::Null).await;
    assert_eq!((code, view["rules"].as_array().unwrap().len() > 5), (200, true));
}
