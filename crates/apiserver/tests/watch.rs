//! Watches, in process: where they start, what they see, how they end.

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, app: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": app}}})
}

fn version(value: &Value) -> String {
    value["metadata"]["resourceVersion"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn from_a_revision() {
    let api = Api::new().await;
    let first = api.create(MAPS, map("a", "x")).await;
    api.create(MAPS, map("b", "x")).await;
    api.merge(&format!("{MAPS}/b"), json!({"data": {"k": "v"}})).await;
    api.delete(&format!("{MAPS}/a")).await;
    let mut events = api.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&first))).await;
    assert_eq!(events.short().await, "ADDED b");
    assert_eq!(events.short().await, "MODIFIED b");
    let gone = events.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("a")));
    assert!(version(&gone["object"]).parse::<u64>().unwrap() > version(&first).parse().unwrap());
    api.create(MAPS, map("c", "x")).await;
    assert_eq!(events.short().await, "ADDED c");
}

#[tokio::test]
async fn selections_see_arrivals_and_departures() {
    let api = Api::new().await;
    let mut events = api.watch(&format!("{MAPS}?watch=1&labelSelector=app=x")).await;
    api.create(MAPS, map("a", "y")).await;
    api.merge(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"app": "x"}}})).await;
    api.merge(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await;
    api.merge(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"app": "y"}}})).await;
    api.delete(&format!("{MAPS}/a")).await;
    for want in ["ADDED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(events.short().await, want);
    }
}

#[tokio::test]
async fn watch_lists_end_with_a_bookmark() {
    let api = Api::new().await;
    api.create(MAPS, map("a", "x")).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = api.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.short().await, "ADDED a");
    let end = events.next().await.unwrap();
    assert_eq!((&end["type"], &end["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    api.create(MAPS, map("b", "x")).await;
    assert_eq!(events.short().await, "ADDED b");
    assert_eq!(api.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.0, 400);
}

#[tokio::test]
async fn the_time_is_kept_and_the_future_refused() {
    let api = Api::new().await;
    let mut events = api.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=0")).await;
    assert!(events.next().await.is_none());
    assert_eq!(api.get(&format!("{MAPS}?watch=1&resourceVersion=99999")).await.0, 504);
}

/// A client that lists, then watches from there, has at the end what a list shows, however its watches are cut.
#[tokio::test]
async fn nothing_is_lost_between_watches() {
    let api = std::sync::Arc::new(Api::new().await);
    let (_, list) = api.get(MAPS).await;
    let mut rv = version(&list);
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let writer = {
        let api = api.clone();
        tokio::spawn(async move {
            for i in 0..300u32 {
                let name = format!("m{}", i % 17);
                let path = format!("{MAPS}/{name}");
                match i % 5 {
                    0 => drop(api.delete(&path).await),
                    _ if api.get(&path).await.0 == 404 => drop(api.create(MAPS, map(&name, "x")).await),
                    _ => drop(api.merge(&path, json!({"data": {"i": i.to_string()}})).await),
                }
            }
            api.create(MAPS, map("end", "x")).await;
        })
    };
    let mut count = 0;
    'all: loop {
        let mut events = api.watch(&format!("{MAPS}?watch=1&resourceVersion={rv}")).await;
        loop {
            let event = events.next().await.unwrap();
            let name = event["object"]["metadata"]["name"].as_str().unwrap().to_string();
            rv = version(&event["object"]);
            match event["type"].as_str().unwrap() {
                "ADDED" => assert!(seen.insert(name.clone(), rv.clone()).is_none(), "{name} was there"),
                "MODIFIED" => assert!(seen.insert(name.clone(), rv.clone()).is_some(), "{name} was not there"),
                _ => assert!(seen.remove(&name).is_some(), "{name} was not there"),
            }
            count += 1;
            if name == "end" {
                break 'all;
            }
            if count % 7 == 0 {
                break;
            }
        }
    }
    writer.await.unwrap();
    let (_, list) = api.get(MAPS).await;
    let want: BTreeMap<String, String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (i["metadata"]["name"].as_str().unwrap().into(), version(i)))
        .collect();
    assert_eq!(seen, want);
}

/// One that does not read holds up nobody, costs no more than the ring, and is ended when the ring has gone on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_ended_alone() {
    let api = Api::new().await;
    let first = api.create(MAPS, map("a", "x")).await;
    let path = format!("{MAPS}?watch=1&resourceVersion={}", version(&first));
    let (mut slow, mut quick) = (api.watch(&path).await, api.watch(&path).await);
    let (large, before) = ("x".repeat(500_000), resident());
    for n in 0..100 {
        api.merge(&format!("{MAPS}/a"), json!({"data": {"n": n.to_string(), "large": large}})).await;
        let event = quick.next().await.expect("who reads is served");
        assert_eq!(event["object"]["data"]["n"], n.to_string());
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 200, "{grown} MB more, of a hundred changes");
    let mut seen = 0;
    while slow.next().await.is_some() {
        seen += 1;
    }
    assert!(seen < 100, "it is told to begin anew");
    api.merge(&format!("{MAPS}/a"), json!({"data": {"n": "last"}})).await;
    assert_eq!(quick.next().await.unwrap()["object"]["data"]["n"], "last");
}

/// Megabytes that this process has.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    (pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096) >> 20
}

/// Each address of a Service of two families is a change of its own.
#[tokio::test]
async fn changes_of_one_write_are_all_told() {
    let store = std::sync::Arc::new(skiff_store::memory::Memory::new());
    let api = Api::over(store, &["10.96.0.0/12", "fd00::/112"]).await;
    let mut events =
        api.watch("/apis/networking.k8s.io/v1/ipaddresses?watch=1&resourceVersion=0&labelSelector=!none").await;
    let first = events.short().await;
    assert!(first.starts_with("ADDED 10.96.0.1"), "{first}");
    let service =
        json!({"metadata": {"name": "two"}, "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}});
    let made = api.create("/api/v1/namespaces/default/services", service).await;
    let mut told = vec![events.short().await, events.short().await];
    told.sort();
    let ip = |n: usize| format!("ADDED {}", made["spec"]["clusterIPs"][n].as_str().unwrap());
    assert_eq!(told, [ip(0), ip(1)]);
}
