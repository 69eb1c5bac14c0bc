//! The whole proxy: watches of an API server (a small one, here) in, rules in the kernel out.

mod common;

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::isolated::{isolated, sh};
use futures::{StreamExt, channel::mpsc};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_client::{
    in_process::Clients,
    life::{Stop, readiness},
};
use skiff_nft::{Family, Kernel, Netlink, Ownership, Table, TableRef};
use skiff_proxy::{Config, run};

/// Lists, and the watches that are open, by path.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<ApiState>>);

#[derive(Default)]
struct ApiState {
    objects: HashMap<String, Vec<Value>>,
    watches: HashMap<String, Vec<mpsc::UnboundedSender<Bytes>>>,
}

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

impl Api {
    fn answer(
        &self,
        request: &Request<Body>,
    ) -> Response<http_body_util::combinators::UnsyncBoxBody<Bytes, tower::BoxError>> {
        let path = request.uri().path().to_owned();
        let watching = request.uri().query().is_some_and(|q| q.contains("watch=true"));
        let mut state = self.0.lock().unwrap();
        let (sender, receiver) = mpsc::unbounded();
        if watching {
            state.watches.entry(path).or_default().push(sender);
        } else {
            let items = state.objects.get(&path).cloned().unwrap_or_default();
            let list =
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
            sender.unbounded_send(list.to_string().into()).unwrap();
        }
        let frames = receiver.map(|b| Ok::<_, tower::BoxError>(Frame::data(b)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }

    fn tell(&self, path: &str, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        let state = self.0.lock().unwrap();
        for watch in state.watches.get(path).into_iter().flatten() {
            let _ = watch.unbounded_send(line.clone().into());
        }
    }
}

fn slice(version: u32, endpoints: &[&str]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": "web-1", "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints.iter().map(|e| common::endpoint(e)).collect::<Vec<_>>(),
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "web", "resourceVersion": "1"},
        "spec": {
            "clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"], "type": "LoadBalancer",
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32123, "ports": [{"port": 80, "nodePort": 30777}],
        },
    })
}

fn config() -> Config {
    Config {
        node_name: "a".into(),
        node_ips: vec![common::NODE_IP.parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        node_port_addresses: vec![],
        table: "skiff".into(),
        healthz: Some("127.0.0.1:10256".parse().unwrap()),
        metrics: Some("127.0.0.1:10249".parse().unwrap()),
        ..Config::default()
    }
}

fn table() -> Option<Table> {
    Netlink::open(Ownership::Shared).unwrap().dump(&TableRef::new(Family::Ip, "skiff")).unwrap()
}

fn endpoints() -> usize {
    table().map_or(0, |t| t.sets["endpoints"].elements.len() + t.sets["local-endpoints"].elements.len())
}

async fn get(address: &'static str, path: &'static str) -> String {
    let ask = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what} does not come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    started.elapsed()
}

#[test]
fn watches_become_rules() {
    isolated("watches_become_rules", || {
        sh(&format!("ip link set lo up; ip addr add {}/32 dev lo", common::NODE_IP));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story());
    });
}

async fn story() {
    let api = Api::default();
    {
        let mut state = api.0.lock().unwrap();
        state.objects.insert(SERVICES.into(), vec![service()]);
        state.objects.insert(SLICES.into(), vec![slice(1, &["10.244.0.11@a", "10.244.1.11@b"])]);
    }
    let served = api.clone();
    let clients = Clients::new(tokio::runtime::Handle::current(), move |request| {
        let response = served.answer(&request);
        async move { response }
    });
    let (ready, readiness) = readiness();
    let stop = Stop::new();
    let proxy =
        tokio::spawn(run(config(), clients.as_identity(Identity::component("system:kube-proxy")), ready, stop.clone()));
    let is_ready = tokio::time::timeout(Duration::from_secs(10), readiness.wait()).await;
    assert_eq!(is_ready, Ok(true));
    // ClusterIP: both; NodePort: both for clients inside, the local one for those outside.
    assert_eq!(endpoints(), 5);

    assert!(get("127.0.0.1:10256", "/healthz").await.starts_with("HTTP/1.1 200"));
    assert_eq!(get("127.0.0.1:10249", "/proxyMode").await.lines().last(), Some("nftables"));
    let health = get("192.0.2.1:32123", "/").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"localEndpoints\":1"), "{health}");

    until("the watch", || api.0.lock().unwrap().watches.contains_key(SLICES)).await;
    api.tell(SLICES, "MODIFIED", &slice(2, &["10.244.1.11@b"]));
    let took = until("the change", || endpoints() == 2).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let health = get("192.0.2.1:32123", "/").await;
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    let metrics = get("127.0.0.1:10249", "/metrics").await;
    assert!(
        metrics.contains("no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 1"),
        "{metrics}"
    );

    api.tell(SERVICES, "DELETED", &service());
    until("the end of the Service", || table().is_some_and(|t| t.sets["services"].elements.is_empty())).await;
    stop.cancel();
    proxy.await.unwrap().unwrap();
    assert!(table().is_some(), "the rules outlast the proxy");
}
