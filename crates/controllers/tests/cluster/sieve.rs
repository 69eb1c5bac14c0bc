//! Whatever happens between the controllers and the API server, the end is the one that a good connection leads to. One
//! history of Services, pods and slices is played with many kinds of faults; a failure names its seed, and
//! `SKIFF_SEED=N cargo test` plays that one alone.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Endpoints, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    deployment,
    faults::{Badness, Random},
    service,
    support::{Cluster, Namespaced, ResultExt, object},
};

const NS: &str = "default";
const PATIENCE: Duration = Duration::from_secs(60);

/// Bound to the node, so that it runs at once; with an address of our choice.
fn pod(name: &str, app: &str, ip: &str) -> Pod {
    object(json!({
        "metadata": {"name": name, "labels": {"app": app}, "annotations": {"test/ip": ip}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    }))
}

async fn merge<K: Namespaced>(cluster: &Cluster, name: &str, change: Value) {
    cluster.api::<K>(NS).patch(name, &PatchParams::default(), &Patch::Merge(change)).await.or_fail();
}

async fn set_ready(cluster: &Cluster, pod: &str, ready: bool) {
    let status = if ready { "True" } else { "False" };
    let condition = json!({"type": "Ready", "status": status, "lastTransitionTime": "2026-01-02T00:00:00Z"});
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    cluster.api::<Pod>(NS).patch_status(pod, &PatchParams::default(), &patch).await.or_fail();
}

async fn gone(cluster: &mut Cluster, name: &str) {
    cluster.api::<Pod>(NS).delete(name, &DeleteParams::default()).await.or_fail();
    let api = cluster.api::<Pod>(NS);
    cluster.until("the pod has ended", async || api.get_opt(name).await.or_fail().is_none()).await;
}

/// The history. Whoever plays it pauses now and then, so that the controllers meet it in every state.
async fn play(cluster: &mut Cluster, random: &mut Random) {
    let balancer = json!({"type": "LoadBalancer", "selector": {"app": "web"}});
    let outside = |ip: &str| json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 7777}]}]});
    for step in 0..12 {
        tokio::time::sleep(Duration::from_millis(random.below(25))).await;
        cluster.revive().await;
        match step {
            0 => {
                cluster.create(NS, service("web", json!({"selector": {"app": "web"}}))).await;
                cluster.create(NS, service("db", json!({"selector": {"app": "db"}, "clusterIP": "None"}))).await;
            }
            1 => {
                cluster.create(NS, pod("a", "web", "10.9.0.1")).await;
                cluster.create(NS, pod("b", "web", "10.9.0.2")).await;
                cluster.create(NS, pod("c", "db", "10.9.0.3")).await;
            }
            2 => {
                cluster.create(NS, service("lb", balancer.clone())).await;
                cluster.create(NS, service("lb2", balancer.clone())).await;
                cluster.create(NS, service("lb3", balancer.clone())).await;
            }
            3 => {
                cluster.create(NS, deployment("dep", 3, "v1")).await;
                cluster.create(NS, service("dep", json!({"selector": {"app": "dep"}}))).await;
            }
            4 => merge::<Pod>(cluster, "b", json!({"metadata": {"labels": {"app": "db"}}})).await,
            5 => {
                set_ready(cluster, "b", false).await;
                merge::<Deployment>(cluster, "dep", json!({"spec": {"replicas": 2}})).await;
            }
            6 => {
                // Its address is another pod's at once.
                gone(cluster, "a").await;
                cluster.create(NS, pod("d", "db", "10.9.0.1")).await;
            }
            7 => {
                cluster.create(NS, service("outside", json!({}))).await;
                let mut endpoints = outside("198.51.100.7");
                endpoints["metadata"] = json!({"name": "outside"});
                cluster.create::<Endpoints>(NS, object(endpoints)).await;
            }
            8 => {
                cluster.api::<Service>(NS).delete("lb2", &DeleteParams::default()).await.or_fail();
                merge::<Service>(cluster, "web", json!({"spec": {"selector": {"app": "db"}}})).await;
            }
            9 => {
                let slices = ListParams::default().labels("kubernetes.io/service-name=web");
                let all = cluster.api::<EndpointSlice>(NS);
                all.delete_collection(&DeleteParams::default(), &slices).await.or_fail();
                merge::<Endpoints>(cluster, "outside", outside("198.51.100.8")).await;
            }
            10 => drop(cluster.api::<Service>(NS).delete("db", &DeleteParams::default()).await.or_fail()),
            _ => set_ready(cluster, "b", true).await,
        }
    }
}

/// What the end is judged by. Names and addresses that are given out by chance are left out.
async fn state(cluster: &Cluster) -> String {
    let mut lines = vec![];
    let chance = |ip: &str| if ip.starts_with("10.244.") { "pod".to_string() } else { ip.to_string() };
    let mut balancers = BTreeSet::new();
    for service in cluster.list::<Service>(NS).await.iter().filter(|s| s.metadata.name.as_deref() != Some("kubernetes"))
    {
        let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
        let ips: Vec<_> = ingress.into_iter().flatten().filter_map(|i| i.ip.clone()).collect();
        lines.push(format!(
            "service {:?}: {} addresses, {:?}",
            service.metadata.name,
            ips.len(),
            service.metadata.finalizers
        ));
        balancers.extend(ips);
    }
    lines.push(format!("balancers: {balancers:?}"));
    for endpoints in
        cluster.list::<Endpoints>(NS).await.iter().filter(|e| e.metadata.name.as_deref() != Some("kubernetes"))
    {
        for subset in endpoints.subsets.iter().flatten() {
            let show = |l: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
                let mut all: Vec<_> = l.iter().flatten().map(|a| chance(&a.ip)).collect();
                all.sort();
                all.join(" ")
            };
            let (ready, other) = (show(&subset.addresses), show(&subset.not_ready_addresses));
            lines.push(format!("endpoints {:?}: {ready} | {other}", endpoints.metadata.name));
        }
        lines.push(format!("endpoints {:?}", endpoints.metadata.name));
    }
    for slice in cluster.list::<EndpointSlice>(NS).await {
        let labels = slice.metadata.labels.unwrap_or_default();
        let service = labels.get("kubernetes.io/service-name").cloned().unwrap_or_default();
        if service == "kubernetes" {
            continue;
        }
        let mut all: Vec<_> = slice
            .endpoints
            .unwrap_or_default()
            .into_iter()
            .map(|e| {
                let pod = e.target_ref.and_then(|t| t.name).filter(|n| n.len() == 1).unwrap_or_default();
                let conditions = e.conditions.unwrap_or_default();
                format!("{}={pod}({:?})", chance(&e.addresses[0]), conditions.ready)
            })
            .collect();
        all.sort();
        lines.push(format!("slice of {service} {}: {}", slice.address_type, all.join(" ")));
    }
    for set in cluster.list::<ReplicaSet>(NS).await {
        let status = set.status.unwrap_or_default();
        lines.push(format!("replicas: {} ready {:?}", status.replicas, status.ready_replicas));
    }
    lines.push(format!("pods: {}", cluster.list::<Pod>(NS).await.len()));
    lines.sort();
    lines.join("\n")
}

async fn run(seed: u64, badness: Badness, expect: Option<&str>) -> String {
    let mut cluster = Cluster::start_badly(&["n1"], seed, badness).await;
    play(&mut cluster, &mut Random(seed)).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        cluster.revive().await;
        let now = state(&cluster).await;
        let settled = match expect {
            Some(expect) => now == expect,
            // The first run says what is right; these lines say that it is.
            None => {
                now.contains("slice of web IPv4: 10.9.0.1=d(Some(true)) 10.9.0.2=b(Some(true)) 10.9.0.3=c(Some(true))")
                    && now.contains("endpoints Some(\"web\"): 10.9.0.1 10.9.0.2 10.9.0.3 | ")
                    && now.contains("slice of outside IPv4: 198.51.100.8=(Some(true))")
                    && now.contains("balancers: {\"192.0.2.101\", \"192.0.2.102\"}")
                    && now.contains("endpoints Some(\"dep\"): pod pod | ")
                    && now.contains("replicas: 2 ready Some(2)")
                    && now.contains("slice of dep IPv4: pod=(Some(true)) pod=(Some(true))\n")
                    && now.contains("pods: 5")
                    && !now.contains("\"db\"")
                    && !now.contains("slice of db")
            }
        };
        if settled {
            cluster.end().await;
            return now;
        }
        if tokio::time::Instant::now() > end {
            panic!(
                "SKIFF_SEED={seed} {badness:?}: the end is\n{now}\nand not\n{}",
                expect.unwrap_or("as it should be")
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_change_nothing_in_the_end() {
    let good = run(0, Badness::default(), None).await;
    let late = Badness { lateness: 40, ..Badness::default() };
    let broken = Badness { watch_length: 12, lateness: 15, ..Badness::default() };
    let failing = Badness { failures: 25, lateness: 8, ..Badness::default() };
    let all = Badness { failures: 15, lateness: 20, watch_length: 20, crash_every: 17, first_crash: 3 };
    let only: Option<u64> = std::env::var("SKIFF_SEED").ok().and_then(|s| s.parse().ok());
    let kinds = [late, broken, failing, all];
    let chosen: u64 = rand_seed();
    eprintln!("SKIFF_SEED={chosen} is the first of {}", kinds.len());
    for (number, badness) in kinds.into_iter().enumerate() {
        let seed = only.unwrap_or(chosen.wrapping_add(number as u64));
        run(seed, badness, Some(&good)).await;
    }
}

/// The controllers die at every ninth write, each run beginning three writes later than the one before.
#[tokio::test(flavor = "multi_thread")]
async fn death_at_any_write_changes_nothing_in_the_end() {
    let good = run(0, Badness::default(), None).await;
    for first_crash in [0, 3, 6] {
        let badness = Badness { crash_every: 9, first_crash, lateness: 4, ..Badness::default() };
        run(first_crash, badness, Some(&good)).await;
    }
}

/// Another one each time; printed, so that a failure can be played again.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("seed")
}
