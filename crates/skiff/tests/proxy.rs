//! `skiff proxy` as a process of its own, with no more capabilities and rights than deploy/skiff-proxy.yaml gives it,
//! against an API server over HTTPS: rules follow the API, outlast it and the proxy, and go when they are told to.

mod common;

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{SKIFF, eventually, machine::Machine, objects::object, text};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Node, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use skiff_apiserver::{Config, Server, pki::Pki};
use skiff_store::memory::Memory;
use tokio_util::sync::CancellationToken;

/// The machine's own address (see `Machine`): what listens there is the endpoint.
const HERE: &str = "198.51.100.2";
const NODE: &str = "n1";
const HEALTHZ: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells its word to whoever connects.
fn teller(word: &'static str) -> u16 {
    let listener = TcpListener::bind((HERE, 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, word.as_bytes());
        }
    });
    port
}

fn hear(at: &str) -> Result<String, String> {
    let address: SocketAddr = at.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| format!("{at}: {e}"))?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut word = String::new();
    stream.read_to_string(&mut word).map_err(|e| format!("{at}: {e}"))?;
    Ok(word)
}

fn get(at: &str, path: &str) -> Result<String, String> {
    use std::io::Write;
    let mut stream = TcpStream::connect(at).map_err(|e| format!("{at}: {e}"))?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| format!("{at}{path}: {e}"))?;
    Ok(answer)
}

fn until(what: &str, holds: impl Fn() -> Result<bool, String>) {
    eventually(what, || match holds() {
        Ok(true) => Ok(()),
        Ok(false) => Err("not yet".into()),
        Err(why) => Err(why),
    });
}

/// Serves until it is told to stop; says where, and how to reach it as administrator.
async fn api(dir: &Path, told: mpsc::Sender<SocketAddr>, stop: CancellationToken) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let pki = Pki::load_or_create(&dir.join("pki"), &["127.0.0.1".into()]).expect("certificates");
    let config = Config::new("test", "192.0.2.1:6443".parse().expect("an address"), pki.service_account_key());
    let server = Server::new(config, Arc::new(Memory::new())).await.expect("an API server");
    let admin = json!({"client-certificate-data": STANDARD.encode(&pki.admin().certificate),
        "client-key-data": STANDARD.encode(&pki.admin().key)});
    kubeconfig(&dir.join("admin"), address, pki.ca_pem(), &admin);
    std::fs::write(dir.join("ca.pem"), pki.ca_pem()).expect("write the authority");
    told.send(address).expect("the test waits");
    server.serve(listener, Arc::new(pki.server_config().expect("TLS")), stop).await;
}

fn kubeconfig(file: &Path, server: SocketAddr, ca: &str, user: &Value) {
    let cluster = json!({"server": format!("https://{server}"), "certificate-authority-data": STANDARD.encode(ca)});
    let all = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(file, all.to_string()).expect("write a kubeconfig");
}

fn slice(port: u16) -> EndpointSlice {
    object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string()}},
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": port}],
        "endpoints": [{"addresses": [HERE], "nodeName": NODE, "conditions": {"ready": true}}],
    }))
}

struct Story {
    dir: PathBuf,
    api: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Story {
    fn client(&self) -> Client {
        self.runtime.block_on(common::objects::client(&self.dir.join("admin")))
    }

    /// The objects of a cluster; the ClusterIP.
    fn cluster(&self, port: u16) -> String {
        let client = self.client();
        self.runtime.block_on(async {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
                "status": {"addresses": [{"type": "InternalIP", "address": HERE}]}});
            let nodes = Api::<Node>::all(client.clone());
            nodes.create(&PostParams::default(), &object(node.clone())).await.expect("create a Node");
            let status = nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(node)).await;
            status.expect("give the Node its address");
            let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
            let services = Api::<Service>::default_namespaced(client.clone());
            let made = services.create(&PostParams::default(), &object(service)).await.expect("create a Service");
            let slices = Api::<EndpointSlice>::default_namespaced(client.clone());
            slices.create(&PostParams::default(), &slice(port)).await.expect("create an EndpointSlice");
            format!("{}:80", common::objects::cluster_ip(&made))
        })
    }

    fn move_endpoint(&self, port: u16) {
        let client = self.client();
        self.runtime.block_on(async {
            let slices = Api::<EndpointSlice>::default_namespaced(client);
            let patch = slices.patch("web-1", &PatchParams::apply("test").force(), &Patch::Apply(slice(port))).await;
            patch.expect("move the endpoint");
        });
    }

    /// The manifest's ServiceAccount, with the rights that the manifest gives it.
    fn proxy_kubeconfig(&self) -> PathBuf {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/skiff-proxy.yaml");
        let admin = self.dir.join("admin").display().to_string();
        let applied = Command::new(SKIFF).args(["kubectl", "--kubeconfig", &admin, "apply", "-f", manifest]).output();
        done("apply the manifest", &applied.expect("skiff runs"));
        let client = self.client();
        let token = self.runtime.block_on(async {
            let accounts = Api::<ServiceAccount>::namespaced(client, "kube-system");
            let asked = TokenRequest::default();
            accounts.create_token_request("skiff-proxy", &PostParams::default(), &asked).await.expect("a token")
        });
        let file = self.dir.join("proxy");
        let ca = std::fs::read_to_string(self.dir.join("ca.pem")).expect("the authority");
        kubeconfig(&file, self.api, &ca, &json!({"token": token.status.expect("a token").token}));
        file
    }

    /// With the manifest's one capability.
    fn start(&self, kubeconfig: &Path, more: &[&str]) -> Running {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin", SKIFF, "proxy"]);
        command.arg("--kubeconfig").arg(kubeconfig);
        command.args(["--hostname-override", NODE, "--cluster-cidr", "10.244.0.0/16"]).args(more);
        Running(command.stderr(Stdio::inherit()).spawn().expect("setpriv runs"))
    }
}

struct Running(Child);

impl Running {
    /// As Kubernetes ends a container.
    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let code = eventually("the proxy ends", || match self.0.try_wait() {
            Ok(Some(status)) => Ok(status.code()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(code, Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn done(what: &str, output: &Output) {
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn takes_kube_proxys_place() {
    if !skiff_testkit::tools::root_with(&["setpriv"]) {
        return;
    }
    let Some(machine) = Machine::new() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let stop = CancellationToken::new();
    let (told, address) = mpsc::channel();
    std::thread::scope(|scope| {
        let (path, stopped, machine) = (dir.path(), stop.clone(), &machine);
        scope.spawn(move || machine.inside(|| api(path, told, stopped)));
        let stopping = stop.clone().drop_guard();
        let api = address.recv().expect("the API server starts");
        // Sockets and processes that it makes are the machine's.
        machine.on_thread(|| story(dir.path(), api, &stop));
        drop(stopping);
    });
}

fn story(dir: &Path, api: SocketAddr, stop: &CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let story = Story { dir: dir.into(), api, runtime };
    let (one, two) = (teller("one"), teller("two"));
    let web = story.cluster(one);
    let kubeconfig = story.proxy_kubeconfig();
    let says = |word: &'static str| {
        let web = web.clone();
        move || hear(&web).map(|w| w == word)
    };
    let proxy = story.start(&kubeconfig, &[]);
    until("the Service answers", says("one"));
    story.move_endpoint(two);
    until("the Service follows its endpoint", says("two"));
    healthy();
    metrics();

    stop.cancel();
    until("the API server is gone", || Ok(TcpStream::connect(api).is_err()));
    until("/healthz tells how old the news is", || {
        let health = get(HEALTHZ, "/healthz")?;
        let body: Value =
            health.split("\r\n\r\n").nth(1).and_then(|b| serde_json::from_str(b).ok()).unwrap_or_default();
        Ok(health.starts_with("HTTP/1.1 200") && body["newsAgeSeconds"].as_u64().is_some_and(|age| age >= 1))
    });
    assert_eq!(hear(&web), Ok("two".into()), "rules outlast the API server");
    proxy.terminate();
    assert_eq!(hear(&web), Ok("two".into()), "rules outlast the proxy");

    // Nobody can tell it the node's addresses now.
    let again = story.start(&kubeconfig, &["--bind-address", HERE]);
    until("the next proxy lives", || Ok(get(HEALTHZ, "/livez")?.starts_with("HTTP/1.1 200")));
    assert!(get(HEALTHZ, "/healthz").expect("/healthz").starts_with("HTTP/1.1 503"), "it has not synced yet");
    let cleanup = || Command::new(SKIFF).args(["proxy", "--cleanup"]).output().expect("skiff runs");
    assert_eq!(hear(&web), Ok("two".into()), "a proxy that cannot reach the API keeps the rules");
    again.terminate();
    done("clean up", &cleanup());
    assert!(hear(&web).is_err(), "--cleanup takes the rules away");
    done("clean up where nothing is", &cleanup());
}

fn healthy() {
    let health = get(HEALTHZ, "/healthz").expect("/healthz");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("lastUpdated"), "{health}");
    assert!(get(HEALTHZ, "/livez").expect("/livez").starts_with("HTTP/1.1 200"));
    assert!(get(METRICS, "/proxyMode").expect("/proxyMode").ends_with("nftables"));
}

fn metrics() {
    let text = get(METRICS, "/metrics").expect("/metrics");
    let value = |name: &str| {
        let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok();
        text.lines().find_map(of).unwrap_or_else(|| panic!("no {name}:\n{text}"))
    };
    let v4 = "{ip_family=\"IPv4\"}";
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
        "kubeproxy_network_programming_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    ] {
        assert!(value(&format!("{name}{v4}")) > 0.0, "{name}:\n{text}");
    }
    for name in [
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "process_resident_memory_bytes",
    ] {
        assert!(value(name) > 0.0, "{name}:\n{text}");
    }
    assert_eq!(value(&format!("kubeproxy_sync_proxy_rules_nftables_sync_failures_total{v4}")), 0.0);
}
