//! Services of type LoadBalancer and the pool, which has two addresses here.

use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    service,
    support::{Cluster, ResultExt},
};

const FIRST: &str = "192.0.2.101";
const SECOND: &str = "192.0.2.102";
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

async fn balancer(cluster: &Cluster, name: &str, more: Value) {
    let mut spec = json!({"type": "LoadBalancer", "selector": {"app": name}});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    cluster.create("default", service(name, spec)).await;
}

fn shown(service: &Service) -> String {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default();
    let entry = |i: &k8s_openapi::api::core::v1::LoadBalancerIngress| {
        assert_eq!(i.ip_mode.as_deref(), Some("VIP"));
        i.ip.clone().unwrap_or_default()
    };
    ingress.iter().map(entry).collect::<Vec<_>>().join(" ")
}

async fn address(cluster: &Cluster, name: &str) -> String {
    cluster.api::<Service>("default").get_opt(name).await.or_fail().as_ref().map(shown).unwrap_or_default()
}

async fn has(cluster: &Cluster, name: &str, ip: &str) {
    cluster.until(&format!("{name} has {ip:?}"), async || address(cluster, name).await == ip).await;
}

async fn said(cluster: &Cluster, name: &str, reason: &str, words: &str) {
    let is_so = async || {
        cluster.list::<Event>("default").await.iter().any(|e| {
            e.involved_object.name.as_deref() == Some(name)
                && e.reason.as_deref() == Some(reason)
                && e.message.as_deref().is_some_and(|m| m.contains(words))
        })
    };
    cluster.until(&format!("event {reason} of {name}: {words}"), is_so).await;
}

async fn patch(cluster: &Cluster, name: &str, change: Value) {
    let api = cluster.api::<Service>("default");
    api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await.or_fail();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_given_out_and_come_back() {
    let cluster = Cluster::start(&[]).await;
    let api = cluster.api::<Service>("default");
    balancer(&cluster, "a", json!({})).await;
    has(&cluster, "a", FIRST).await;
    let a = api.get("a").await.or_fail();
    assert_eq!(a.metadata.finalizers, Some(vec![FINALIZER.to_string()]));
    let spec = a.spec.expect("a spec");
    assert!(spec.cluster_ip.is_some() && spec.ports.expect("ports")[0].node_port.is_some());
    said(&cluster, "a", "EnsuringLoadBalancer", "Ensuring load balancer").await;
    said(&cluster, "a", "EnsuredLoadBalancer", "Ensured load balancer").await;

    balancer(&cluster, "b", json!({"loadBalancerIP": FIRST})).await;
    said(&cluster, "b", "SyncLoadBalancerFailed", "already in use").await;
    balancer(&cluster, "c", json!({})).await;
    has(&cluster, "c", SECOND).await;
    balancer(&cluster, "d", json!({})).await;
    said(&cluster, "d", "SyncLoadBalancerFailed", "no free IPv4 address is left").await;
    balancer(&cluster, "foreign", json!({"loadBalancerClass": "example.com/other"})).await;

    api.delete("a", &DeleteParams::default()).await.or_fail();
    cluster.until("a is gone", async || api.get_opt("a").await.or_fail().is_none()).await;
    said(&cluster, "a", "DeletedLoadBalancer", "Deleted load balancer").await;
    let either = async || {
        let (b, d) = (address(&cluster, "b").await, address(&cluster, "d").await);
        (b == FIRST && d.is_empty()) || (b.is_empty() && d == FIRST)
    };
    cluster.until("one of those that waited has it", either).await;

    patch(&cluster, "c", json!({"spec": {"type": "ClusterIP"}})).await;
    said(&cluster, "c", "Type", "LoadBalancer -> ClusterIP").await;
    let gone = async || api.get("c").await.or_fail().metadata.finalizers.is_none();
    cluster.until("c is no load balancer any more", gone).await;
    patch(&cluster, "b", json!({"spec": {"loadBalancerIP": null}})).await;
    let both = async || {
        let mut all = [address(&cluster, "b").await, address(&cluster, "d").await];
        all.sort();
        all == [FIRST, SECOND]
    };
    cluster.until("both have one", both).await;
    let foreign = api.get("foreign").await.or_fail();
    assert_eq!((shown(&foreign), foreign.metadata.finalizers), (String::new(), None));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_outlive_a_restart_and_status_is_put_right() {
    let mut cluster = Cluster::start(&[]).await;
    balancer(&cluster, "b", json!({"loadBalancerIP": SECOND})).await;
    has(&cluster, "b", SECOND).await;
    cluster.restart().await;
    balancer(&cluster, "a", json!({})).await;
    has(&cluster, "a", FIRST).await;
    assert_eq!(address(&cluster, "b").await, SECOND);
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}}});
    let api = cluster.api::<Service>("default");
    api.patch_status("b", &PatchParams::default(), &Patch::Merge(status)).await.or_fail();
    has(&cluster, "b", SECOND).await;
    cluster.end().await;
}
