//! The controllers against a real API server over a store in memory. Nodes are played: a task marks bound pods as
//! running and ready and lets deleted ones go, as a node would.

mod balancer;
mod conformance;
mod faults;
mod sieve;
mod stateful;
mod support;
mod topology;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, ResultExt};

fn deployment(name: &str, replicas: i32, image: &str) -> Deployment {
    support::object(json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
    }))
}

fn service(name: &str, spec: Value) -> Service {
    let mut spec = spec;
    spec.as_object_mut().expect("an object").entry("ports").or_insert(json!([{"port": 17, "targetPort": 7777}]));
    support::object(json!({"metadata": {"name": name}, "spec": spec}))
}

/// Addresses that the Endpoints list as ready.
async fn ready(cluster: &Cluster, name: &str) -> Vec<String> {
    let found = cluster.api::<Endpoints>("default").get_opt(name).await.or_fail();
    let subsets = found.and_then(|e| e.subsets).unwrap_or_default();
    let mut ips: Vec<_> = subsets.into_iter().flat_map(|s| s.addresses.unwrap_or_default()).map(|a| a.ip).collect();
    ips.sort();
    ips
}

/// Addresses that the slices of a Service list as ready.
async fn ready_in_slices(cluster: &Cluster, service: &str) -> Vec<String> {
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = cluster.api::<EndpointSlice>("default").list(&of_service).await.or_fail();
    let endpoints = slices.items.into_iter().flat_map(|s| s.endpoints.unwrap_or_default());
    let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    let mut ips: Vec<String> = ready.flat_map(|e| e.addresses).collect();
    ips.sort();
    ips
}

fn is_owned(meta: &ObjectMeta) -> bool {
    meta.owner_references.as_ref().is_some_and(|all| !all.is_empty())
}

async fn rolled_out(cluster: &Cluster, name: &str) -> bool {
    let deployment = cluster.api::<Deployment>("default").get(name).await.or_fail();
    let (want, status) = (deployment.spec.and_then(|s| s.replicas), deployment.status.unwrap_or_default());
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == want
        && status.available_replicas == want
        && status.replicas == want
}

async fn merge<K>(cluster: &Cluster, name: &str, patch: Value)
where
    K: support::Namespaced,
{
    cluster.api::<K>("default").patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.or_fail();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_stands_behind_its_service() {
    let cluster = Cluster::start(&["n1", "n2"]).await;
    cluster.create("default", service("web", json!({"selector": {"app": "web"}}))).await;
    let started = std::time::Instant::now();
    cluster.create("default", deployment("web", 3, "v1")).await;
    cluster.until("three endpoints", async || ready(&cluster, "web").await.len() == 3).await;
    eprintln!("deployment to three ready endpoints: {:?}", started.elapsed());
    cluster
        .until("slices agree", async || ready_in_slices(&cluster, "web").await == ready(&cluster, "web").await)
        .await;
    cluster.until("rolled out", async || rolled_out(&cluster, "web").await).await;
    let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone());
    let pods = cluster.list::<Pod>("default").await;
    let mut nodes: Vec<_> = pods.iter().filter_map(node).collect();
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes, ["n1", "n2"], "replicas spread");

    for replicas in [5, 1] {
        merge::<Deployment>(&cluster, "web", json!({"spec": {"replicas": replicas}})).await;
        cluster.until("scaled", async || ready(&cluster, "web").await.len() == replicas).await;
    }
    let sets = cluster.list::<ReplicaSet>("default").await;
    assert_eq!(sets.len(), 1);

    cluster.api::<Deployment>("default").delete("web", &DeleteParams::default()).await.or_fail();
    cluster
        .until("everything owned is gone", async || {
            cluster.list::<Pod>("default").await.is_empty() && cluster.list::<ReplicaSet>("default").await.is_empty()
        })
        .await;
    cluster.until("no endpoints", async || ready(&cluster, "web").await.is_empty()).await;
    cluster.api::<Service>("default").delete("web", &DeleteParams::default()).await.or_fail();
    cluster
        .until("Endpoints and slices went with the Service", async || {
            let endpoints = cluster.list::<Endpoints>("default").await;
            let slices = cluster.list::<EndpointSlice>("default").await;
            endpoints.iter().all(|e| e.metadata.name.as_deref() == Some("kubernetes"))
                && slices.iter().all(|s| s.metadata.name.as_deref() == Some("kubernetes"))
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_keeps_the_service_served() {
    let cluster = Cluster::start(&["n1"]).await;
    cluster.create("default", service("web", json!({"selector": {"app": "web"}}))).await;
    cluster.create("default", deployment("web", 3, "v1")).await;
    cluster.until("rolled out", async || rolled_out(&cluster, "web").await).await;
    cluster.until("three endpoints", async || ready(&cluster, "web").await.len() == 3).await;
    let before = ready(&cluster, "web").await;
    let image =
        |image: &str| json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(image("v2")).expect("a patch"));
    cluster.api::<Deployment>("default").patch("web", &PatchParams::default(), &patch).await.or_fail();
    let mut fewest = usize::MAX;
    cluster
        .until("rolled out", async || {
            fewest = fewest.min(ready_in_slices(&cluster, "web").await.len());
            rolled_out(&cluster, "web").await
        })
        .await;
    assert!(fewest >= 3, "at one time only {fewest} of three were ready");
    cluster
        .until("only new pods", async || {
            let now = ready(&cluster, "web").await;
            now.len() == 3 && now.iter().all(|ip| !before.contains(ip))
        })
        .await;
    let revisions: Vec<_> = cluster.list::<ReplicaSet>("default").await.iter().map(support::revision).collect();
    assert_eq!(revisions.len(), 2);
    assert!(revisions.contains(&"1".into()) && revisions.contains(&"2".into()), "{revisions:?}");
    let events = cluster.list::<Event>("default").await;
    let said = |reason: &str| events.iter().any(|e| e.reason.as_deref() == Some(reason));
    assert!(said("ScalingReplicaSet") && said("SuccessfulCreate") && said("Scheduled"), "{events:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relabelled_pod_leaves_and_comes_back() {
    let cluster = Cluster::start(&["n1"]).await;
    cluster.create("default", service("web", json!({"selector": {"app": "web"}, "clusterIP": "None"}))).await;
    cluster.create("default", deployment("web", 2, "v1")).await;
    cluster.until("two endpoints", async || ready(&cluster, "web").await.len() == 2).await;
    let pod = cluster.list::<Pod>("default").await.remove(0);
    let name = pod.metadata.name.unwrap_or_default();
    let ip = pod.status.and_then(|s| s.pod_ip).unwrap_or_default();
    merge::<Pod>(&cluster, &name, json!({"metadata": {"labels": {"app": "debug"}}})).await;
    cluster
        .until("replaced", async || {
            let now = ready(&cluster, "web").await;
            now.len() == 2 && !now.contains(&ip)
        })
        .await;
    let out = cluster.api::<Pod>("default").get(&name).await.or_fail();
    assert!(!is_owned(&out.metadata), "released");
    merge::<Pod>(&cluster, &name, json!({"metadata": {"labels": {"app": "web"}}})).await;
    cluster
        .until("the surplus is gone", async || {
            let pods = cluster.list::<Pod>("default").await;
            pods.len() == 2 && pods.iter().all(|p| is_owned(&p.metadata))
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_written_by_hand_are_mirrored() {
    let cluster = Cluster::start(&[]).await;
    cluster.create("default", service("outside", json!({}))).await;
    let subsets = json!([{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 7777}]}]);
    cluster
        .create::<Endpoints>("default", support::object(json!({"metadata": {"name": "outside"}, "subsets": subsets})))
        .await;
    cluster.until("mirrored", async || ready_in_slices(&cluster, "outside").await == ["192.0.2.7"]).await;
    let other = json!({"subsets": [{"addresses": [{"ip": "192.0.2.8"}], "ports": [{"port": 7777}]}]});
    merge::<Endpoints>(&cluster, "outside", other).await;
    cluster.until("follows", async || ready_in_slices(&cluster, "outside").await == ["192.0.2.8"]).await;
    cluster.api::<Endpoints>("default").delete("outside", &DeleteParams::default()).await.or_fail();
    cluster.until("gone", async || ready_in_slices(&cluster, "outside").await.is_empty()).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_begins_and_ends() {
    let cluster = Cluster::start(&["n1"]).await;
    let all = cluster.all::<Namespace>();
    cluster.create_cluster::<Namespace>(support::object(json!({"metadata": {"name": "shop"}}))).await;
    cluster
        .until("account and certificate", async || {
            cluster.api::<ServiceAccount>("shop").get_opt("default").await.or_fail().is_some()
                && cluster.api::<ConfigMap>("shop").get_opt("kube-root-ca.crt").await.or_fail().is_some()
        })
        .await;
    cluster.create("shop", deployment("web", 2, "v1")).await;
    cluster.until("pods", async || cluster.list::<Pod>("shop").await.len() == 2).await;
    all.delete("shop", &DeleteParams::default()).await.or_fail();
    cluster.until("gone", async || all.get_opt("shop").await.or_fail().is_none()).await;
    assert!(cluster.list::<Pod>("shop").await.is_empty());
    assert!(cluster.list::<ConfigMap>("shop").await.is_empty());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_goes_when_it_does() {
    let cluster = Cluster::start(&[]).await;
    cluster.create("default", deployment("web", 1, "v1")).await;
    cluster
        .until("says why", async || {
            let pods = cluster.list::<Pod>("default").await;
            support::scheduled_message(&pods).as_deref() == Some("no nodes available to schedule pods")
        })
        .await;
    cluster.node("n1").await;
    cluster.until("runs", async || rolled_out(&cluster, "web").await).await;
    let node = cluster.all::<Node>().get("n1").await.or_fail();
    assert_eq!(node.spec.and_then(|s| s.pod_cidr).as_deref(), Some("10.244.0.0/24"));
    cluster
        .until("event", async || {
            cluster.list::<Event>("default").await.iter().any(|e| e.reason.as_deref() == Some("FailedScheduling"))
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_and_orphaning_deletions() {
    let cluster = Cluster::start(&["n1"]).await;
    let api = cluster.api::<Deployment>("default");
    cluster.create("default", deployment("a", 1, "v1")).await;
    cluster.create("default", deployment("b", 1, "v1")).await;
    cluster.until("both run", async || rolled_out(&cluster, "a").await && rolled_out(&cluster, "b").await).await;
    api.delete("a", &DeleteParams::foreground()).await.or_fail();
    cluster.until("a is gone", async || api.get_opt("a").await.or_fail().is_none()).await;
    let left: Vec<_> = cluster.list::<Pod>("default").await;
    assert!(
        left.iter().all(|p| p.metadata.name.as_ref().is_some_and(|n| n.starts_with("b-"))),
        "dependents went first"
    );
    api.delete("b", &DeleteParams::orphan()).await.or_fail();
    cluster.until("b is gone", async || api.get_opt("b").await.or_fail().is_none()).await;
    let sets = cluster.list::<ReplicaSet>("default").await;
    assert_eq!(sets.len(), 1, "orphaned, not deleted");
    assert!(!is_owned(&sets[0].metadata), "nobody will take it for garbage");
    cluster.end().await;
}
