//! A cluster without kernel: API server, controllers, played nodes.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use http_body_util::BodyExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Node, Pod},
    },
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    client::Body,
    runtime::watcher::{self, Event, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_apiserver::{
    Config, Server,
    pki::{Pki, requests::Signer},
};
use skiff_client::{
    in_process::Clients,
    life::{Stop, readiness},
};
use skiff_store::memory::Memory;

use super::faults::{Badness, Faults};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}
impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static> Kind for K {}
pub(crate) trait Namespaced: Kind + Resource<Scope = NamespaceResourceScope> {}
impl<K: Kind + Resource<Scope = NamespaceResourceScope>> Namespaced for K {}

pub(crate) trait ResultExt<T> {
    fn or_fail(self) -> T;
}

impl<T> ResultExt<T> for Result<T, kube::Error> {
    #[track_caller]
    fn or_fail(self) -> T {
        self.unwrap_or_else(|e| panic!("the server refused: {e}"))
    }
}

pub(crate) fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("a well-formed object")
}

pub(crate) fn revision(set: &ReplicaSet) -> String {
    let annotations = set.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get("deployment.kubernetes.io/revision")).cloned().unwrap_or_default()
}

pub(crate) fn scheduled_message(pods: &[Pod]) -> Option<String> {
    let conditions = pods.first()?.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "PodScheduled")?.message.clone()
}

pub(crate) struct Cluster {
    client: Client,
    stop: Stop,
    clients: Clients,
    faults: Arc<Faults>,
    config: skiff_controllers::Config,
    controllers: Controllers,
    _keys: tempfile::TempDir,
}

/// The controllers of one life.
struct Controllers {
    stop: Stop,
    ended: tokio::task::JoinHandle<Result<(), skiff_controllers::Error>>,
}

impl Controllers {
    /// Returns when they are ready, or dead by a fault.
    async fn start(config: skiff_controllers::Config, clients: Clients, faults: &Faults) -> Self {
        let stop = Stop::new();
        faults.begin(stop.clone());
        let (ready, readiness) = readiness();
        let as_controller = Arc::new(move |name: &str| clients.as_controller(name));
        let ended = tokio::spawn(skiff_controllers::run(config, as_controller, ready, stop.clone()));
        assert!(readiness.wait().await || stop.is_cancelled(), "the controllers ended before they were ready");
        Controllers { stop, ended }
    }

    async fn end(&mut self) {
        self.stop.cancel();
        let ended = (&mut self.ended).await;
        ended.expect("the controllers did not panic").expect("they ended because they were told to");
    }
}

impl Cluster {
    pub(crate) async fn start(nodes: &[&str]) -> Self {
        Cluster::start_badly(nodes, 0, Badness::default()).await
    }

    /// The controllers have a bad connection; the test and the nodes have a good one.
    pub(crate) async fn start_badly(nodes: &[&str], seed: u64, badness: Badness) -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let pki = Pki::load_or_create(keys.path(), &["127.0.0.1".to_string()]).expect("keys");
        let address = "192.0.2.1:6443".parse().expect("an address");
        let config = Config::new("test", address, pki.service_account_key());
        let server = Server::new(config, Arc::new(Memory::new())).await.expect("a server");
        let serve = move |request| {
            let reply = server.handle(request);
            async move { reply.await.map(|body| body.map_err(Into::into).boxed_unsync()) }
        };
        let good = Clients::new(tokio::runtime::Handle::current(), serve.clone());
        let faults = Faults::new(seed, badness);
        let bad = faults.clone();
        let clients = Clients::new(tokio::runtime::Handle::current(), move |request: http::Request<Body>| {
            let (asked, body) = request.into_parts();
            let mut like = http::Request::new(Body::empty());
            (*like.method_mut(), *like.uri_mut()) = (asked.method.clone(), asked.uri.clone());
            bad.clone().serve(like, serve(http::Request::from_parts(asked, body)))
        });
        let stop = Stop::new();
        let config = skiff_controllers::Config {
            pod_ranges: vec![skiff_controllers::PodRange {
                cluster: "10.244.0.0/16".parse().expect("a range"),
                node_mask: 24,
            }],
            node_monitor_grace_period: skiff_controllers::NODE_MONITOR_GRACE_PERIOD,
            lb_pool: "192.0.2.101-192.0.2.102".parse().expect("a pool"),
            ca: pki.ca_pem().to_string(),
            sign: sign(&pki),
        };
        let controllers = Controllers::start(config.clone(), clients.clone(), &faults).await;
        let client = good.as_identity(Identity::admin());
        let cluster = Cluster { client, stop: stop.clone(), clients, faults, config, controllers, _keys: keys };
        tokio::spawn(play_nodes(cluster.client.clone(), stop));
        for node in nodes {
            cluster.node(node).await;
        }
        cluster
    }

    pub(crate) async fn node(&self, name: &str) {
        let node: Node = object(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        }));
        self.create_cluster(node).await;
        let status = json!({"status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        self.all::<Node>().patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.or_fail();
    }

    pub(crate) fn api<K: Namespaced>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn all<K: Kind>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn create<K: Namespaced>(&self, namespace: &str, object: K) -> K {
        self.api(namespace).create(&PostParams::default(), &object).await.or_fail()
    }

    pub(crate) async fn create_cluster<K: Kind>(&self, object: K) -> K {
        self.all().create(&PostParams::default(), &object).await.or_fail()
    }

    pub(crate) async fn list<K: Namespaced>(&self, namespace: &str) -> Vec<K> {
        self.api::<K>(namespace).list(&ListParams::default()).await.or_fail().items
    }

    /// Looks again and again until it is so; fails the test when it takes too long.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("still not so after {PATIENCE:?}: {what}");
        }
    }

    /// The controllers end and others begin, which know only what the server knows.
    pub(crate) async fn restart(&mut self) {
        self.controllers.end().await;
        self.controllers = Controllers::start(self.config.clone(), self.clients.clone(), &self.faults).await;
    }

    /// Others take the place of controllers that a fault has killed.
    pub(crate) async fn revive(&mut self) {
        while self.faults.killed() {
            self.restart().await;
        }
    }

    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        self.controllers.end().await;
    }
}

/// All nodes at once: pods that are bound run, pods that are deleted end.
async fn play_nodes(client: Client, stop: Stop) {
    let next = AtomicU32::new(1);
    let pods: Api<Pod> = Api::all(client.clone());
    let mut events = std::pin::pin!(watcher(pods, watcher::Config::default()));
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        if let Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) = event {
            play(&client, &pod, &next).await;
        }
    }
}

async fn play(client: &Client, pod: &Pod, next: &AtomicU32) {
    let meta = &pod.metadata;
    let api: Api<Pod> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let name = meta.name.as_deref().unwrap_or_default();
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let outcome = if meta.deletion_timestamp.is_some() {
        api.delete(name, &DeleteParams::default().grace_period(0)).await.map(drop)
    } else if bound && phase.is_none_or(|p| p == "Pending") {
        let wish = meta.annotations.as_ref().and_then(|a| a.get("test/ip")).cloned();
        let ip = wish.unwrap_or_else(|| format!("10.244.0.{}", next.fetch_add(1, Ordering::Relaxed)));
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]});
        let patch = Patch::Strategic(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
    } else {
        Ok(())
    };
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => other.or_fail(),
    }
}

fn sign(pki: &Pki) -> skiff_controllers::Sign {
    let authority = pki.authority();
    skiff_controllers::Sign(Arc::new(move |signer, request, usages, seconds| {
        Some(authority.sign(Signer::of(signer)?, request, usages, seconds))
    }))
}
