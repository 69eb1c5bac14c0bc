//! What upstream's conformance tests ask of the endpoint controllers, with played nodes: pods behind Services by number and
//! by name, Services that nobody stands behind, Endpoints by hand, and how long two hundred Services take.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Endpoints, Event as Told, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    api::{DeleteParams, ListParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::{Value, json};

use super::{
    deployment, merge, ready, service,
    support::{Cluster, ResultExt, object},
};

const NS: &str = "default";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

fn pod(name: &str, ports: Value) -> Pod {
    object(json!({
        "metadata": {"name": name, "labels": {"foo": "bar"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": ports}]},
    }))
}

async fn slices(cluster: &Cluster, service: &str) -> Vec<EndpointSlice> {
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    cluster.api::<EndpointSlice>(NS).list(&of_service).await.or_fail().items
}

/// "port name/port: pods" of each slice.
async fn shown(cluster: &Cluster, service: &str) -> Vec<String> {
    let show = |slice: &EndpointSlice| {
        let port = |p: &k8s_openapi::api::discovery::v1::EndpointPort| {
            assert_eq!(p.protocol.as_deref(), Some("TCP"));
            format!("{}/{}", p.name.as_deref().expect("a name, be it empty"), p.port.unwrap_or_default())
        };
        let ports: Vec<_> = slice.ports.iter().flatten().map(port).collect();
        let pods = slice.endpoints.iter().flatten().map(|e| {
            let target = e.target_ref.as_ref().expect("endpoints refer to their pods");
            assert_eq!((target.kind.as_deref(), target.namespace.as_deref()), (Some("Pod"), Some(NS)));
            assert!(target.uid.is_some());
            target.name.clone().unwrap_or_default()
        });
        let mut pods: Vec<_> = pods.collect();
        pods.sort();
        format!("{}: {}", ports.join(","), pods.join(","))
    };
    let mut all: Vec<_> = slices(cluster, service).await.iter().map(show).collect();
    all.sort();
    all
}

/// "ports: number of addresses" of each subset.
async fn subsets(cluster: &Cluster, service: &str) -> Vec<String> {
    let found = cluster.api::<Endpoints>(NS).get_opt(service).await.or_fail();
    let show = |s: &k8s_openapi::api::core::v1::EndpointSubset| {
        let ports: Vec<_> = s.ports.iter().flatten().map(|p| p.port.to_string()).collect();
        format!("{}: {}", ports.join(","), s.addresses.as_ref().map_or(0, Vec::len))
    };
    let mut all: Vec<_> = found.and_then(|e| e.subsets).iter().flatten().map(show).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_behind_services_by_number_and_by_name() {
    let cluster = Cluster::start(&["n1"]).await;
    let of = |target: Value| {
        json!({"selector": {"foo": "bar"}, "publishNotReadyAddresses": true,
            "ports": [{"name": "example", "port": 80, "targetPort": target}]})
    };
    cluster.create(NS, service("int-port", of(json!(8080)))).await;
    cluster.create(NS, service("named-port", of(json!("example-name")))).await;
    cluster.create(NS, pod("pod1", json!([{"name": "example-name", "containerPort": 3000}]))).await;
    let two = json!([{"name": "example-name", "containerPort": 3001}, {"name": "other-port", "containerPort": 3002}]);
    cluster.create(NS, pod("pod2", two)).await;
    let (by_number, by_name) = (["example/8080: pod1,pod2"], ["example/3000: pod1", "example/3001: pod2"]);
    for round in ["made", "made again"] {
        cluster.until(round, async || shown(&cluster, "int-port").await == by_number).await;
        cluster.until(round, async || shown(&cluster, "named-port").await == by_name).await;
        for service in ["int-port", "named-port"] {
            let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
            let api = cluster.api::<EndpointSlice>(NS);
            api.delete_collection(&DeleteParams::default(), &of_service).await.or_fail();
        }
    }
    cluster.until("one subset", async || subsets(&cluster, "int-port").await == ["8080: 2"]).await;
    cluster.until("two subsets", async || subsets(&cluster, "named-port").await == ["3000: 1", "3001: 1"]).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_matches_no_pods() {
    let cluster = Cluster::start(&[]).await;
    cluster.create(NS, service("empty", json!({"selector": {"does-not-match": "x"}}))).await;
    cluster.until("a slice without endpoints", async || shown(&cluster, "empty").await == [": "]).await;
    let endpoints = async || cluster.api::<Endpoints>(NS).get_opt("empty").await.or_fail();
    cluster.until("Endpoints", async || endpoints().await.is_some_and(|e| e.subsets.is_none())).await;
    let labels = slices(&cluster, "empty").await[0].metadata.labels.clone().unwrap_or_default();
    assert_eq!(labels[MANAGED_BY], "endpointslice-controller.k8s.io");
    cluster.api::<Service>(NS).delete("empty", &DeleteParams::default()).await.or_fail();
    cluster.until("no Endpoints", async || endpoints().await.is_none()).await;
    cluster.until("no slices", async || slices(&cluster, "empty").await.is_empty()).await;
    cluster.end().await;
}

/// First the Service's creation, then what the pods say of themselves.
#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_tell_when_the_change_happened() {
    let cluster = Cluster::start(&["n1"]).await;
    let made = cluster.create(NS, service("web", json!({"selector": {"foo": "bar"}}))).await;
    let told = async |expect: &str| {
        let of = |m: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>| {
            m.and_then(|m| m.annotations).and_then(|mut a| a.remove(TRIGGER)).unwrap_or_default()
        };
        let endpoints = cluster.api::<Endpoints>(NS).get_opt("web").await.or_fail().map(|e| e.metadata);
        let slice = slices(&cluster, "web").await.pop().map(|s| s.metadata);
        of(endpoints) == expect && of(slice) == expect
    };
    let created = made.metadata.creation_timestamp.expect("a time").0.to_string();
    cluster.until("the Service's time", async || told(&created).await).await;
    cluster.create(NS, pod("pod1", json!([]))).await;
    cluster.until("the pod's time", async || told("2026-01-01T00:00:00Z").await).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_by_hand_have_their_limits_and_their_end() {
    let mut cluster = Cluster::start(&[]).await;
    let outside = |addresses: Vec<String>| {
        let addresses: Vec<Value> = addresses.into_iter().map(|ip| json!({"ip": ip})).collect();
        json!([{"addresses": addresses, "ports": [{"port": 80}]}])
    };
    let many = (0..1003u32).map(|n| format!("198.18.{}.{}", n / 250, n % 250 + 1)).collect();
    cluster.create(NS, service("many", json!({}))).await;
    cluster.create::<Endpoints>(NS, object(json!({"metadata": {"name": "many"}, "subsets": outside(many)}))).await;
    let count = async || slices(&cluster, "many").await.iter().flat_map(|s| s.endpoints.iter().flatten()).count();
    cluster.until("a thousand are mirrored", async || count().await == 1000).await;
    let words =
        "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 3 addresses were skipped";
    let told = async || {
        let events = cluster.list::<Told>(NS).await;
        events
            .iter()
            .any(|e| e.reason.as_deref() == Some("TooManyAddressesToMirror") && e.message.as_deref() == Some(words))
    };
    cluster.until("and the rest is told", told).await;
    // A selector makes it the other controllers' Service.
    merge::<Service>(&cluster, "many", json!({"spec": {"selector": {"foo": "bar"}}})).await;
    let only_ours = async || {
        let all = slices(&cluster, "many").await;
        let manager = |s: &EndpointSlice| s.metadata.labels.as_ref().map(|l| l[MANAGED_BY].clone());
        all.iter().map(manager).collect::<Vec<_>>() == [Some("endpointslice-controller.k8s.io".to_string())]
    };
    cluster.until("the selector's slice alone", async || only_ours().await && count().await == 0).await;
    // Nobody's Endpoints go when the controllers start; those of leader elections never.
    let of_leader = json!({"control-plane.alpha.kubernetes.io/leader": "{}"});
    for (name, annotations) in [("lost", json!({})), ("leader", of_leader)] {
        let metadata = json!({"name": name, "annotations": annotations});
        cluster.create::<Endpoints>(NS, object(json!({"metadata": metadata}))).await;
    }
    cluster.restart().await;
    let is_there = async |name: &str| cluster.api::<Endpoints>(NS).get_opt(name).await.or_fail().is_some();
    cluster.until("the lost are gone", async || !is_there("lost").await).await;
    assert!(is_there("leader").await);
    cluster.end().await;
}

/// Upstream's limits: half of the Services within 20 seconds, 99 of 100 within 50.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_services_have_their_endpoints_soon() {
    const SERVICES: usize = 200;
    let cluster = Cluster::start(&["n1"]).await;
    cluster.create(NS, deployment("web", 1, "v1")).await;
    cluster.create(NS, service("first", json!({"selector": {"app": "web"}}))).await;
    cluster.until("a pod", async || ready(&cluster, "first").await.len() == 1).await;
    let mut events = std::pin::pin!(watcher(cluster.api::<EndpointSlice>(NS), watcher::Config::default()));
    let mut waiting: BTreeMap<String, Instant> = BTreeMap::new();
    for _ in 0..SERVICES {
        let mut made = service("", json!({"selector": {"app": "web"}}));
        (made.metadata.name, made.metadata.generate_name) = (None, Some("latency-svc-".into()));
        let before = Instant::now();
        let made = cluster.create(NS, made).await;
        waiting.insert(made.metadata.name.expect("a name"), before);
    }
    let mut took: Vec<Duration> = Vec::new();
    let all = async {
        while !waiting.is_empty() {
            let Some(Ok(Event::Apply(slice) | Event::InitApply(slice))) = events.next().await else { continue };
            let labels = slice.metadata.labels.unwrap_or_default();
            let serves = slice.endpoints.iter().flatten().next().is_some();
            let asked = labels.get("kubernetes.io/service-name").filter(|_| serves);
            took.extend(asked.and_then(|service| waiting.remove(service)).map(|before| before.elapsed()));
        }
    };
    tokio::time::timeout(Duration::from_secs(50), all).await.expect("all of them within the limit for 99 of 100");
    took.sort();
    let (half, most) = (took[SERVICES / 2], took[SERVICES * 99 / 100]);
    eprintln!("{SERVICES} Services to their endpoints: p50 {half:?}, p99 {most:?}");
    assert!(half < Duration::from_secs(20) && most < Duration::from_secs(50), "p50 {half:?}, p99 {most:?}");
    cluster.end().await;
}
