//! Hints by the zones' processors, and what is told of them.

use k8s_openapi::api::{
    core::v1::{Event, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    deployment, merge, service,
    support::{Cluster, ResultExt},
};

/// How many ready endpoints are for each zone; those without a hint under "".
async fn hinted(cluster: &Cluster) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    let slices = cluster.list::<EndpointSlice>("default").await;
    let of_web = slices.iter().filter(|s| s.metadata.generate_name.as_deref() == Some("web-"));
    for endpoint in of_web.flat_map(|s| s.endpoints.iter().flatten()) {
        let zones = endpoint.hints.as_ref().and_then(|h| h.for_zones.as_ref());
        *counts.entry(zones.map_or(String::new(), |z| z[0].name.clone())).or_default() += 1;
    }
    counts.into_iter().collect()
}

async fn said(cluster: &Cluster, reason: &str, words: &str) -> bool {
    let of = |e: &Event| e.reason.as_deref() == Some(reason) && e.message.as_deref().is_some_and(|m| m.contains(words));
    cluster.list::<Event>("default").await.iter().any(of)
}

async fn patch_node(cluster: &Cluster, name: &str, patch: Value) {
    cluster.all::<Node>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.or_fail();
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_mode_auto() {
    let cluster = Cluster::start(&["n1", "n2"]).await;
    for (node, zone) in [("n1", "z1"), ("n2", "z2")] {
        patch_node(&cluster, node, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}})).await;
    }
    let annotations = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}});
    cluster
        .create("default", service("web", json!({"selector": {"app": "web"}, "trafficDistribution": "PreferClose"})))
        .await;
    merge::<Service>(&cluster, "web", annotations).await;
    cluster.create("default", deployment("web", 4, "v1")).await;
    let want = |zones: &[(&str, usize)]| -> Vec<(String, usize)> {
        zones.iter().map(|(zone, count)| ((*zone).to_owned(), *count)).collect()
    };
    let even = want(&[("z1", 2), ("z2", 2)]);
    cluster.until("two endpoints for each zone", async || hinted(&cluster).await == even).await;
    cluster.until("told", async || said(&cluster, "TopologyAwareHintsEnabled", "addressType: IPv4").await).await;

    // Without a zone on one node nobody knows a share.
    patch_node(&cluster, "n2", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": null}}})).await;
    let none = want(&[("", 4)]);
    cluster.until("no hints", async || hinted(&cluster).await == none).await;
    let why = "allocatable CPU or zone not specified on one or more nodes, addressType: IPv4";
    cluster.until("told why", async || said(&cluster, "TopologyAwareHintsDisabled", why).await).await;

    // Without the annotation the traffic distribution says: only who has a zone has a hint.
    merge::<Service>(&cluster, "web", json!({"metadata": {"annotations": null}})).await;
    let close = want(&[("", 2), ("z1", 2)]);
    cluster.until("hints of the distribution", async || hinted(&cluster).await == close).await;
    let over = "Topology Aware Hints has been disabled, addressType: IPv4";
    cluster.until("told the end", async || said(&cluster, "TopologyAwareHintsDisabled", over).await).await;
    cluster.end().await;
}
