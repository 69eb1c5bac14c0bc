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
    /// Answers nothing but errors, so many times.
    down: bool,
    refused: usize,
    /// Events that were posted.
    events: Vec<Value>,
}

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const NODES: &str = "/api/v1/nodes";

impl Api {
    fn answer(
        &self,
        request: &Request<Body>,
    ) -> Response<http_body_util::combinators::UnsyncBoxBody<Bytes, tower::BoxError>> {
        let path = request.uri().path().to_owned();
        let watching = request.uri().query().is_some_and(|q| q.contains("watch=true"));
        let mut state = self.0.lock().unwrap();
        let (sender, receiver) = mpsc::unbounded();
        if state.down {
            state.refused += 1;
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "reason": "ServiceUnavailable", "message": "down"});
            sender.unbounded_send(status.to_string().into()).unwrap();
        } else if watching {
            state.watches.entry(path).or_default().push(sender);
        } else {
            let items = state.objects.get(&path).cloned().unwrap_or_default();
            let list =
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
            sender.unbounded_send(list.to_string().into()).unwrap();
        }
        let frames = receiver.map(|b| Ok::<_, tower::BoxError>(Frame::data(b)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        if state.down {
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }

    async fn post(&self, body: Body) -> Response<http_body_util::combinators::UnsyncBoxBody<Bytes, tower::BoxError>> {
        let bytes = body.collect().await.unwrap().to_bytes();
        self.0.lock().unwrap().events.push(serde_json::from_slice(&bytes).unwrap());
        let frames = futures::stream::iter([Ok::<_, tower::BoxError>(Frame::data(bytes))]);
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn set(&self, path: &str, objects: Vec<Value>) {
        self.0.lock().unwrap().objects.insert(path.into(), objects);
    }

    /// From now on, or no longer: every watch breaks off, every request fails.
    fn go_down(&self, down: bool) {
        let mut state = self.0.lock().unwrap();
        state.down = down;
        state.watches.clear();
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
        assert!(started.elapsed() < Duration::from_secs(40), "{what} does not come");
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

struct Running {
    stop: Stop,
    proxy: tokio::task::JoinHandle<Result<(), skiff_proxy::Error>>,
}

impl Running {
    async fn start(api: &Api, config: Config) -> Self {
        let served = api.clone();
        let clients = Clients::new(tokio::runtime::Handle::current(), move |request: Request<Body>| {
            let api = served.clone();
            async move {
                if request.method() == http::Method::POST {
                    api.post(request.into_body()).await
                } else {
                    api.answer(&request)
                }
            }
        });
        let (ready, readiness) = readiness();
        let stop = Stop::new();
        let client = clients.as_identity(Identity::component("system:kube-proxy"));
        let proxy = tokio::spawn(run(config, client, ready, stop.clone()));
        let is_ready = tokio::time::timeout(Duration::from_secs(10), readiness.wait()).await;
        assert_eq!(is_ready, Ok(true));
        for path in [SERVICES, SLICES, NODES, CIDRS] {
            until(path, || api.0.lock().unwrap().watches.contains_key(path)).await;
        }
        Running { stop, proxy }
    }

    async fn end(self) {
        self.stop.cancel();
        self.proxy.await.unwrap().unwrap();
    }
}

fn api() -> Api {
    let api = Api::default();
    api.set(SERVICES, vec![service()]);
    api.set(SLICES, vec![slice(1, &["10.244.0.11@a", "10.244.1.11@b"])]);
    api
}

async fn story() {
    let api = api();
    let running = Running::start(&api, config()).await;
    // ClusterIP: both; NodePort: both for clients inside, the local one for those outside.
    assert_eq!(endpoints(), 5);

    assert!(get("127.0.0.1:10256", "/healthz").await.starts_with("HTTP/1.1 200"));
    assert_eq!(get("127.0.0.1:10249", "/proxyMode").await.lines().last(), Some("nftables"));
    let health = get("192.0.2.1:32123", "/").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"localEndpoints\":1"), "{health}");

    api.tell(SLICES, "MODIFIED", &slice(2, &["10.244.1.11@b"]));
    let took = until("the change", || endpoints() == 2).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let health = get("192.0.2.1:32123", "/").await;
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    without_local([1, 0]).await;

    api.tell(SERVICES, "DELETED", &service());
    until("the end of the Service", || table().is_some_and(|t| t.sets["services"].elements.is_empty())).await;
    running.end().await;
    assert!(table().is_some(), "the rules outlast the proxy");
}

/// The Services of each family that have no local endpoint for clients outside; the policy inside is Cluster.
async fn without_local([v4, v6]: [u8; 2]) {
    let metrics = get("127.0.0.1:10249", "/metrics").await;
    for (family, outside) in [("IPv4", v4), ("IPv6", v6)] {
        for (policy, count) in [("internal", 0), ("external", outside)] {
            let line = format!(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"{family}\",traffic_policy=\"{policy}\"}} {count}"
            );
            assert!(metrics.lines().any(|l| l == line), "no {line:?}:\n{metrics}");
        }
    }
}

fn body(answer: &str) -> Value {
    let text = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// What others ask of it, as kube-proxy answers it.
#[test]
fn probes_and_pages() {
    in_a_node("probes_and_pages", async {
        let api = api();
        let running = Running::start(&api, config()).await;
        let health = get("127.0.0.1:10256", "/healthz").await;
        let told = body(&health);
        assert!(
            health.contains("content-type: application/json") && health.contains("x-content-type-options: nosniff")
        );
        assert_eq!((&told["nodeEligible"], &told["lastUpdated"]), (&json!(true), &told["currentTime"]), "{health}");
        assert_eq!(body(&get("127.0.0.1:10256", "/livez").await).get("nodeEligible"), None);
        for path in ["/metrics", "/proxyMode", "/configz", "/"] {
            let answer = get("127.0.0.1:10256", path).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{path} is for this machine only: {answer}");
        }
        assert_eq!(get("127.0.0.1:10249", "/healthz").await.lines().last(), Some("ok"));
        let told = body(&get("127.0.0.1:10249", "/configz").await)["kubeproxy.config.k8s.io"].clone();
        assert_eq!((&told["mode"], &told["clusterCIDR"]), (&json!("nftables"), &json!("10.244.0.0/16")));
        assert_eq!(told["healthzBindAddress"], "127.0.0.1:10256");

        let local = get("192.0.2.1:32123", "/any/path").await;
        let want = json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": true});
        assert_eq!(body(&local), want);
        for header in
            ["content-type: application/json", "x-content-type-options: nosniff", "x-load-balancing-endpoint-weight: 1"]
        {
            assert!(local.contains(header), "no {header}: {local}");
        }
        running.end().await;
    });
}

/// Balancers that ask the node turn away from one that goes; those that ask for a Service's endpoints still find them.
#[test]
fn a_node_that_is_leaving() {
    in_a_node("a_node_that_is_leaving", async {
        let api = api();
        let running = Running::start(&api, config()).await;
        let node = |version: u32, more: Value| {
            let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {}});
            node["metadata"]["resourceVersion"] = version.to_string().into();
            node["spec"]["taints"] = more;
            node
        };
        let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        for (i, (kind, taints, code)) in
            [("ADDED", taint, "503"), ("MODIFIED", json!([{"key": "other", "effect": "NoSchedule"}]), "200")]
                .into_iter()
                .enumerate()
        {
            api.tell(NODES, kind, &node(6 + i as u32, taints));
            let start = format!("HTTP/1.1 {code}");
            let changed = async {
                loop {
                    let health = get("127.0.0.1:10256", "/healthz").await;
                    if health.starts_with(&start) {
                        return body(&health);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let told = tokio::time::timeout(Duration::from_secs(30), changed).await.expect(code);
            assert_eq!(told["nodeEligible"], json!(code == "200"));
            assert!(get("127.0.0.1:10256", "/livez").await.starts_with("HTTP/1.1 200"));
            assert!(get("192.0.2.1:32123", "/").await.starts_with("HTTP/1.1 200"));
        }
        running.end().await;
    });
}

fn in_a_node(test: &str, body: impl Future<Output = ()>) {
    isolated(test, || {
        sh(&format!("ip link set lo up; ip addr add {}/32 dev lo", common::NODE_IP));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body);
    });
}

fn news_age(health: &str) -> i64 {
    let body: Value = serde_json::from_str(health.lines().last().unwrap()).unwrap();
    body["newsAgeSeconds"].as_i64().unwrap()
}

/// The hour passes in the proxy's own clock, with all that it does meanwhile: fourteen thousand looks at the kernel, and
/// every try to reach the API server again.
#[test]
fn an_hour_without_the_api_the_rules_stay() {
    in_a_node("an_hour_without_the_api_the_rules_stay", async {
        let api = api();
        let running = Running::start(&api, config()).await;
        let before = table();
        assert!(news_age(&get("127.0.0.1:10256", "/healthz").await) < 60);
        api.go_down(true);
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        tokio::time::resume();
        assert_eq!(table(), before, "rules stay as they were");
        assert!(api.0.lock().unwrap().refused > 100, "the API server is asked again and again");
        let health = get("127.0.0.1:10256", "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 200"), "the node serves on: {health}");
        assert!((3600..3700).contains(&news_age(&health)), "{health}");
        let metrics = get("127.0.0.1:10249", "/metrics").await;
        let name = "skiff_proxy_last_news_timestamp_seconds ";
        let told: f64 = metrics.lines().find_map(|l| l.strip_prefix(name)).unwrap().parse().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((3600.0..3700.0).contains(&(now - told)), "{told}");

        api.go_down(false);
        // The watch goes on from where it broke off, after the pause that it is in.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(60)).await;
        tokio::time::resume();
        until("the watch", || api.0.lock().unwrap().watches.contains_key(SLICES)).await;
        api.tell(SLICES, "MODIFIED", &slice(7, &["10.244.1.11@b"]));
        until("the change", || endpoints() == 2).await;
        assert!(news_age(&get("127.0.0.1:10256", "/healthz").await) < 60);
        running.end().await;
    });
}

#[test]
fn agents_hear_when_a_pod_gets_no_more_connections() {
    in_a_node("agents_hear_when_a_pod_gets_no_more_connections", async {
        let api = api();
        let config = config();
        let farewells = config.farewells.clone();
        let running = Running::start(&api, config).await;
        let ip = "10.244.0.11".parse().unwrap();
        let asked = tokio::spawn(async move { farewells.heard_by_all(ip).await });
        // Another address's change says nothing about this one.
        api.tell(SLICES, "MODIFIED", &slice(2, &["10.244.0.11@a"]));
        until("the change", || endpoints() == 2).await;
        assert!(!asked.is_finished());
        // It serves on for want of others, but everybody knows that it goes.
        api.tell(SLICES, "MODIFIED", &slice(3, &["10.244.0.11@a st"]));
        tokio::time::timeout(Duration::from_secs(30), asked).await.expect("an answer").unwrap();
        running.end().await;
    });
}

fn in_set(name: &str, ip: &str) -> bool {
    let ip: std::net::IpAddr = ip.parse().unwrap();
    let start = skiff_nft::Packed::new().addr(ip);
    table().is_some_and(|t| t.sets[name].elements.keys().any(|k| k.as_bytes().starts_with(start.as_bytes())))
}

#[test]
fn the_rules_follow_their_surroundings() {
    in_a_node("the_rules_follow_their_surroundings", async {
        let api = api();
        let near = Config {
            node_port_addresses: vec!["192.0.2.0/24".parse().unwrap()],
            detect_local: skiff_proxy::DetectLocal::NodeCidr,
            ..config()
        };
        let running = Running::start(&api, near).await;
        assert!(in_set("services", common::NODE_IP) && in_set("internal", "10.244.0.0"));
        sh("ip addr add 192.0.2.9/32 dev lo; ip addr add 198.51.100.9/32 dev lo");
        until("NodePorts on a new address", || in_set("services", "192.0.2.9")).await;
        assert!(!in_set("services", "198.51.100.9") && !in_set("services", "127.0.0.1"));
        sh("ip addr del 192.0.2.9/32 dev lo");
        until("the end of the address", || !in_set("services", "192.0.2.9")).await;

        assert!(in_set("service-cidrs", "10.96.0.0") && !in_set("service-cidrs", "10.200.0.0"));
        let cidr = |cidrs: &[&str]| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "more", "resourceVersion": "5"}, "spec": {"cidrs": cidrs},
            })
        };
        api.tell(CIDRS, "ADDED", &cidr(&["10.200.0.0/16"]));
        until("the second Service network", || in_set("service-cidrs", "10.200.0.0")).await;

        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "resourceVersion": "6"},
            "spec": {"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"]},
        });
        api.tell(NODES, "ADDED", &node);
        until("this node's own pods", || in_set("internal", "10.244.3.0") && !in_set("internal", "10.244.0.0")).await;
        running.end().await;
    });
}

#[test]
fn a_taken_health_check_port_is_an_event() {
    in_a_node("a_taken_health_check_port_is_an_event", async {
        let taken = std::net::TcpListener::bind("192.0.2.1:32123").unwrap();
        let api = api();
        let running = Running::start(&api, config()).await;
        until("the event", || !api.0.lock().unwrap().events.is_empty()).await;
        let event = api.0.lock().unwrap().events[0].clone();
        assert_eq!(event["reason"], "FailedToStartServiceHealthcheck");
        assert_eq!(
            (&event["involvedObject"]["kind"], &event["involvedObject"]["name"]),
            (&json!("Service"), &json!("web"))
        );
        assert!(event["message"].as_str().unwrap().contains("192.0.2.1:32123"), "{event}");

        drop(taken);
        api.tell(SLICES, "MODIFIED", &slice(2, &["10.244.0.11@a st"]));
        let health = until_answered("192.0.2.1:32123").await;
        assert!(health.starts_with("HTTP/1.1 503"), "an endpoint that terminates is none: {health}");
        running.end().await;
    });
}

async fn until_answered(address: &'static str) -> String {
    let ask = async {
        while TcpStream::connect(address).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        get(address, "/").await
    };
    tokio::time::timeout(Duration::from_secs(30), ask).await.expect("somebody listens")
}
