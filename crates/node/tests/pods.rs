//! Pods from their API objects to running processes: the real API server over a store in memory, the real agent in a
//! network namespace of the test's own, containers of busybox. Needs root.
#![allow(unsafe_code)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Place, can_run, make_root, shim};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Service, ServiceAccount};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_apiserver::{Config as ServerConfig, Server, pki::Pki};
use skiff_client::{
    in_process::Clients,
    life::{Stop, readiness},
};
use skiff_node::{Config, Dns, Tls};
use skiff_store::memory::Memory;

const NODE: &str = "node-1";

/// One node and its API server.
struct Cluster {
    place: Place,
    clients: Clients,
    client: kube::Client,
    pki: Pki,
}

/// An image of one layer in docker's archive format.
fn archive(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    make_root(&root);
    let layer = dir.join("layer.tar");
    let mut tar = tar::Builder::new(fs::File::create(&layer).unwrap());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", &root).unwrap();
    tar.finish().unwrap();
    use sha2::Digest;
    let digest: String = sha2::Sha256::digest(fs::read(&layer).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": ["FROM_IMAGE=1"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": ["tiny:1"], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = dir.join("tiny.tar");
    let mut tar = tar::Builder::new(fs::File::create(&archive).unwrap());
    for file in ["manifest.json", "config.json", "layer.tar"] {
        tar.append_path_with_name(dir.join(file), file).unwrap();
    }
    tar.finish().unwrap();
    archive
}

impl Cluster {
    async fn new() -> Cluster {
        let place = Place::new();
        let pki = Pki::load_or_create(&place.dir.path().join("pki"), &["127.0.0.1".to_string()]).unwrap();
        let config = ServerConfig::new("test", "192.0.2.1:6443".parse().unwrap(), pki.service_account_key());
        let server = Server::new(config, Arc::new(Memory::new())).await.unwrap();
        let handler = move |request| {
            let server = server.clone();
            async move { server.handle(request).await }
        };
        let clients = Clients::new(tokio::runtime::Handle::current(), handler);
        let client = clients.as_identity(Identity::admin());
        let cluster = Cluster { place, clients, client, pki };
        // What controllers would make in every namespace.
        cluster.create::<ServiceAccount>(json!({"metadata": {"name": "default"}})).await;
        let root = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": cluster.pki.ca_pem()}});
        cluster.create::<ConfigMap>(root).await;
        let node =
            json!({"metadata": {"name": NODE}, "spec": {"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]}});
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let images = skiff_node::image::Images::open(cluster.path().join("images"), Default::default()).unwrap();
        images.load(&archive(cluster.path())).unwrap();
        cluster
    }

    fn path(&self) -> &Path {
        self.place.dir.path()
    }

    fn config(&self) -> Config {
        let credentials = self.pki.node(NODE, &["127.0.0.1".to_string()]).unwrap();
        Config {
            node_name: NODE.into(),
            node_ips: "127.0.0.1".parse::<std::net::IpAddr>().unwrap().into(),
            labels: Default::default(),
            zone: None,
            data_dir: self.path().join("data"),
            run_dir: self.path().join("run"),
            image_dir: self.path().join("images"),
            images: Default::default(),
            dns: Dns {
                ip: "10.96.0.10".parse().ok(),
                domain: "cluster.local".into(),
                host_resolv_conf: "/etc/resolv.conf".into(),
            },
            cgroup_root: self.place.cgroup.clone(),
            tls: Tls {
                certificate: credentials.serving.certificate,
                key: credentials.serving.key,
                client_ca: self.pki.ca_pem().to_owned(),
            },
            port: 0,
            lease: skiff_node::LEASE,
            max_pods: 110,
            farewells: Default::default(),
            shim: Some(shim()),
        }
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn pod(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        self.create(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).await
    }

    /// Waits until the pod is as wished; on failure shows what it was.
    async fn until(&self, name: &str, what: &str, test: impl Fn(&Pod) -> bool) -> Pod {
        let condition = |pod: Option<&Pod>| pod.is_some_and(&test);
        let waited = tokio::time::timeout(Duration::from_secs(20), await_condition(self.pods(), name, condition)).await;
        match waited {
            Ok(pod) => pod.unwrap().unwrap(),
            Err(_) => {
                let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
                let events = events.list(&ListParams::default()).await.unwrap();
                let events: Vec<_> = events.items.iter().map(|e| format!("{:?} {:?}", e.reason, e.message)).collect();
                panic!("{name} never was {what}: {:#?}\n{events:#?}", self.pods().get(name).await.map(|p| p.status));
            }
        }
    }

    async fn gone(&self, name: &str) {
        let gone = await_condition(self.pods(), name, |pod: Option<&Pod>| pod.is_none());
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the pod goes").unwrap();
    }
}

impl Drop for Cluster {
    /// Namespaces and volumes are mounted below; containers go with their groups afterwards.
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for path in mounts.lines().rev().filter_map(|l| l.split(' ').nth(4)).map(Path::new) {
            if path.starts_with(self.path()) {
                let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// The agent on a thread of its own in a fresh network namespace, as a node has it; the next agent of the same
/// cluster finds the namespace again.
struct Agent {
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    async fn start(cluster: &Cluster) -> Agent {
        let netns = cluster.path().join("node-netns");
        let (ready, readiness) = readiness();
        let stop = Stop::new();
        let (config, clients, token) = (cluster.config(), cluster.clients.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            if netns.exists() {
                let file = fs::File::open(netns).unwrap();
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
            } else {
                // SAFETY: only this thread, made for this, changes its namespace.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
                fs::write(&netns, "").unwrap();
                rustix::mount::mount_bind("/proc/thread-self/ns/net", &netns).unwrap();
            }
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = clients.as_identity(Identity::node(NODE));
                skiff_node::run(config, client, ready, token).await.unwrap();
            });
        });
        assert!(tokio::time::timeout(Duration::from_secs(20), readiness.wait()).await.expect("the agent gets ready"));
        Agent { stop, thread: Some(thread) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().map(|t| t.join());
    }
}

fn running(pod: &Pod) -> bool {
    phase(pod) == "Running" && ready(pod)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn sh(script: &str) -> Value {
    json!({"name": "main", "image": "tiny:1", "command": ["sh", "-c", script]})
}

/// Asks the node's own API, from inside the node's network namespace, with the API server's certificate or without.
async fn node_api(cluster: &Cluster, path: &str, trusted: bool) -> String {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let endpoints = nodes.get(NODE).await.unwrap().status.unwrap().daemon_endpoints.unwrap();
    let url = format!("https://127.0.0.1:{}{path}", endpoints.kubelet_endpoint.unwrap().port);
    let file = |name: &str| cluster.path().join("pki").join(name);
    let mut command = tokio::process::Command::new("nsenter");
    command.arg(format!("--net={}", cluster.path().join("node-netns").display())).args(["curl", "-s", "-m", "10"]);
    command.arg("--cacert").arg(file("ca.crt"));
    if trusted {
        command.arg("--cert").arg(file("kubelet-client.crt")).arg("--key").arg(file("kubelet-client.key"));
    }
    String::from_utf8(command.arg(url).output().await.unwrap().stdout).unwrap()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).sum()
}

fn log(cluster: &Cluster, pod: &Pod) -> String {
    let uid = pod.metadata.uid.clone().unwrap();
    let dir = cluster.path().join(format!("data/logs/default_{}_{uid}/main", pod.metadata.name.as_ref().unwrap()));
    let text = fs::read_to_string(dir.join("0.log")).unwrap_or_default();
    text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(|l| format!("{l}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_and_goes() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::new().await;
    let agent = Agent::start(&cluster).await;
    let begun = Instant::now();
    cluster
        .pod(
            "web",
            json!({"terminationGracePeriodSeconds": 1, "containers": [sh("echo first; echo second; exec sleep 1000")]}),
        )
        .await;
    let pod = cluster.until("web", "running", running).await;
    eprintln!("from create to ready in {:?}", begun.elapsed());
    let status = pod.status.clone().unwrap();
    assert!(status.pod_ip.unwrap().starts_with("10.244.9."));
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.container_id.as_ref().unwrap().starts_with("skiff://"));
    assert_eq!(node_api(&cluster, "/containerLogs/default/web/main?tailLines=1", true).await, "second\n");
    assert!(node_api(&cluster, "/containerLogs/default/web/main", false).await.starts_with("Forbidden"));
    let begun = Instant::now();
    cluster.pods().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.gone("web").await;
    eprintln!("from delete to gone in {:?}", begun.elapsed());
    assert_eq!(fs::read_dir(cluster.path().join("run/pods")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(cluster.path().join("data/pods")).unwrap().count(), 0);
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pod_is_given() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::new().await;
    let _agent = Agent::start(&cluster).await;
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "conf"}, "data": {"key": "value"}})).await;
    let service = json!({"metadata": {"name": "my-svc"}, "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 17}], "selector": {"a": "b"}}});
    cluster.create::<Service>(service).await;
    let mut container = sh("echo $MY_SVC_SERVICE_HOST:$MY_SVC_SERVICE_PORT $MODE $FROM_IMAGE $NAME; cat /conf/key; echo; hostname;
        cat /etc/resolv.conf; cat /etc/hosts; cat /made/by-init; ls /var/run/secrets/kubernetes.io/serviceaccount || true");
    container["env"] = json!([{"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "key"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    container["volumeMounts"] = json!([{"name": "conf", "mountPath": "/conf"}, {"name": "made", "mountPath": "/made"}]);
    let init = json!({"name": "init", "image": "tiny:1", "command": ["sh", "-c", "echo init was here > /made/by-init"],
        "volumeMounts": [{"name": "made", "mountPath": "/made"}]});
    let spec = json!({"restartPolicy": "Never", "initContainers": [init], "containers": [container],
        "volumes": [{"name": "conf", "configMap": {"name": "conf"}}, {"name": "made", "emptyDir": {}}]});
    // The watch of Services is asynchronous: a pod made at once might not see the newest.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _ = cluster.pod("job", spec).await;
    let pod = cluster.until("job", "done", |p| phase(p) == "Succeeded").await;
    let text = log(&cluster, &pod);
    let ip = pod.status.unwrap().pod_ip.unwrap();
    for part in [
        "10.96.0.77:17 value 1 job\n",
        "value\njob\n",
        "nameserver 10.96.0.10\nsearch default.svc.cluster.local",
        &format!("{ip}\tjob\n"),
        "init was here\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_probes_and_bad_images() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::new().await;
    let _agent = Agent::start(&cluster).await;
    cluster.pod("crash", json!({"containers": [sh("echo boom; exit 3")]})).await;
    let mut probed = sh("touch /tmp/ok; exec sleep 1000");
    probed["readinessProbe"] =
        json!({"exec": {"command": ["ls", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1});
    cluster.pod("probed", json!({"terminationGracePeriodSeconds": 0, "containers": [probed]})).await;
    let never = json!({"name": "main", "image": "nothing:1", "imagePullPolicy": "Never"});
    cluster.pod("never", json!({"containers": [never]})).await;
    let missing = json!({"name": "main", "image": "tiny:1", "command": ["/no/such/program"]});
    cluster.pod("missing", json!({"containers": [missing]})).await;
    let waiting = |pod: &Pod| -> Option<String> {
        pod.status.as_ref()?.container_statuses.as_ref()?[0].state.as_ref()?.waiting.as_ref()?.reason.clone()
    };
    cluster.until("never", "refused", |p| waiting(p).as_deref() == Some("ErrImageNeverPull")).await;
    let pod = cluster.until("crash", "in back-off", |p| waiting(p).as_deref() == Some("CrashLoopBackOff")).await;
    assert_eq!(restarts(&pod), 1);
    cluster.until("missing", "in back-off", |p| waiting(p).as_deref() == Some("CrashLoopBackOff")).await;
    cluster.until("probed", "ready", running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_agent_takes_over() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::new().await;
    let agent = Agent::start(&cluster).await;
    cluster.pod("stays", json!({"terminationGracePeriodSeconds": 0, "containers": [sh("exec sleep 1000")]})).await;
    cluster.pod("ends", json!({"terminationGracePeriodSeconds": 0, "containers": [sh("sleep 1; exit 1")], "restartPolicy": "Never"})).await;
    let before = cluster.until("stays", "running", running).await.status.unwrap();
    cluster.until("ends", "running", running).await;
    drop(agent);
    cluster.pods().delete("ends", &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await.unwrap();
    let _agent = Agent::start(&cluster).await;
    // The new agent says something of the pod: its status is still the same.
    let patch = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}}));
    cluster.pods().patch("stays", &PatchParams::default(), &patch).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = cluster.until("stays", "running", running).await.status.unwrap();
    assert_eq!(before.pod_ip, after.pod_ip);
    assert_eq!(before.container_statuses, after.container_statuses);
    cluster.pods().delete("stays", &DeleteParams::default()).await.unwrap();
    cluster.gone("stays").await;
}
