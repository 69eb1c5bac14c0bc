//! Pods and Services for tests of the cluster itself, made and asked through a client of Kubernetes.

use std::{fs, future::Future, net::Ipv4Addr, path::Path, time::Duration};

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use skiff_node::image::make::{Layer, Recipe, archive};

use super::{Cluster, eventually, text};

pub(crate) const IMAGE: &str = "skiff.local/busybox:test";
pub(crate) const PORT: u16 = 8080;

/// Each try to reach a Service takes at most so many seconds.
const TRY: &str = "2";

impl Cluster {
    /// Runs `work` with an administrator's client, in the machine's network.
    pub(crate) fn with<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(Client) -> F + Send) -> T {
        self.machine().inside(|| async move { work(client(&self.kubeconfig()).await).await })
    }

    pub(crate) fn load_busybox(&self) {
        let file = self.data().join("busybox.tar");
        self.busybox_archive(&file);
        self.skiff_ok(&["image", "load", &file.display().to_string()]);
        fs::remove_file(file).expect("remove the archive");
    }

    pub(crate) fn busybox_archive(&self, file: &Path) {
        let program = fs::read("/bin/busybox").expect("/bin/busybox");
        let links = ["sh", "httpd", "hostname", "sleep", "nc", "tail"].map(|name| (format!("bin/{name}"), "busybox"));
        let links: Vec<_> = links.iter().map(|(name, target)| (name.as_str(), *target)).collect();
        let layer = Layer::files(&[("bin/busybox", 0o755, &program)], &links).expect("a layer");
        let cmd = vec!["sh", "-c", "hostname > /index.html && exec httpd -f -p 8080 -h /"];
        let recipe = Recipe { name: IMAGE, layers: vec![&layer], env: vec!["PATH=/bin"], cmd, working_dir: "/" };
        archive(file, &[recipe]).expect("an archive");
    }

    pub(crate) fn create_web(&self, pods: &[&str], app: &str, node: Option<&str>) {
        self.with(|client| async move {
            for name in pods {
                create_pod(&client, &pod(name, app, node)).await;
            }
        });
    }

    pub(crate) fn create_service(&self, name: &str, kind: &str) -> Service {
        let spec = json!({"type": kind, "selector": {"app": name}, "ports": [{"port": 80, "targetPort": PORT}]});
        let service = object(json!({"metadata": {"name": name}, "spec": spec}));
        self.with(|client| async move {
            let api = Api::<Service>::default_namespaced(client);
            api.create(&PostParams::default(), &service).await.expect("create a Service")
        })
    }

    /// Waits until all of the pods are ready and the Service has so many endpoints.
    pub(crate) fn settled(&self, service: &str, endpoints: usize) {
        let what = format!("{endpoints} endpoints of {service}");
        eventually(&what, || {
            let found = self.with(|client| async move { endpoint_count(&client, service).await });
            if found == endpoints { Ok(()) } else { Err(format!("{found} endpoints\n{}", self.describe())) }
        });
    }

    /// Pods as they are, for a failure's message.
    pub(crate) fn describe(&self) -> String {
        let pods = self.pods_now();
        let status =
            |p: &Pod| format!("{:?} {}\n", p.metadata.name, serde_json::to_string(&p.status).unwrap_or_default());
        format!("{}{}", pods.iter().map(status).collect::<String>(), self.log())
    }

    pub(crate) fn pods_now(&self) -> Vec<Pod> {
        self.with(|client| async move {
            let api = Api::<Pod>::default_namespaced(client);
            api.list(&Default::default()).await.expect("list pods").items
        })
    }

    /// What an HTTP server says to someone on the node.
    pub(crate) fn ask(&self, node: Option<&str>, address: &str) -> Result<String, String> {
        let mut args = vec!["shell"];
        args.extend(node.iter().flat_map(|n| ["--node", n]));
        let url = format!("http://{address}/");
        args.extend(["--", "curl", "-sS", "-m", TRY, &url]);
        let output = self.skiff(&args);
        match output.status.success() {
            true => Ok(text(&output.stdout).trim().to_owned()),
            false => Err(format!("{url}: {}: {}", output.status, text(&output.stderr))),
        }
    }

    /// Waits until the Service's address answers on the node; the pod that answered.
    pub(crate) fn answers(&self, node: Option<&str>, address: &str) -> String {
        eventually(&format!("{address} answers"), || {
            self.ask(node, address).map_err(|e| format!("{e}\n{}", self.describe()))
        })
    }
}

pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a client's configuration");
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).expect("a client")
}

pub(crate) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// A web server that says its pod's name.
pub(crate) fn pod(name: &str, app: &str, node: Option<&str>) -> Pod {
    let container = json!({"name": "web", "image": IMAGE, "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1}});
    object(json!({
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]},
    }))
}

/// Creates the pod as soon as its namespace is ready for it (a new cluster's default ServiceAccount comes a moment later).
pub(crate) async fn create_pod(client: &Client, pod: &Pod) {
    let api = Api::<Pod>::default_namespaced(client.clone());
    api.create(&PostParams::default(), pod).await.expect("create a pod");
}

pub(crate) async fn endpoint_count(client: &Client, service: &str) -> usize {
    let api = Api::<Endpoints>::default_namespaced(client.clone());
    let found = api.get_opt(service).await.expect("get Endpoints");
    let subsets = found.and_then(|e| e.subsets).unwrap_or_default();
    subsets.iter().map(|s| s.addresses.as_ref().map_or(0, Vec::len)).sum()
}

pub(crate) fn pod_ip(pod: &Pod) -> Ipv4Addr {
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref());
    ip.and_then(|ip| ip.parse().ok()).expect("a pod's address")
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.map_or(0, |s| s.iter().map(|c| c.restart_count).sum())
}

pub(crate) fn cluster_ip(service: &Service) -> String {
    service.spec.as_ref().and_then(|s| s.cluster_ip.clone()).expect("a ClusterIP")
}

pub(crate) fn node_port(service: &Service) -> i32 {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    ports.and_then(|p| p[0].node_port).expect("a node port")
}
