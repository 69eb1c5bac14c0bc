//! What the API server costs, as a process of its own over TLS: G5 its memory with 10,000 Services and 100,000 endpoints, G6
//! a write until the last of 1,000 watchers has it, a list of 10,000 pods in every form, 10,000 idle connections, and ten
//! times the load that it can carry. Prints figures with the machine's load; nothing here passes or fails by time.
//!
//! `cargo bench -p skiff --bench api [-- DIVISOR]`: a divisor makes everything smaller, to see that it works.

#![allow(clippy::print_stdout, reason = "figures are the result")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{Cluster, objects::client};
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, Config, api::WatchParams, config::Kubeconfig, core::WatchEvent};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const JSON: &str = "application/json";
/// Requests at once while objects are made.
const AT_ONCE: usize = 32;

fn main() {
    let divisor = std::env::args().skip(1).find_map(|a| a.parse::<usize>().ok()).unwrap_or(1);
    let cluster = Cluster::up("bench-api", &["--nodes", "0"]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    load();
    let bench = Bench { cluster: &cluster, divisor };
    runtime.block_on(async {
        bench.services().await;
        bench.watchers().await;
        bench.pods().await;
        bench.idle_connections().await;
        bench.overload().await;
    });
    load();
}

fn load() {
    println!("load {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}

struct Bench<'a> {
    cluster: &'a Cluster,
    divisor: usize,
}

/// Median and 99th percentile in milliseconds.
fn middle_and_slow(times: &mut [Duration]) -> (f64, f64) {
    times.sort();
    let ms = |t: Duration| t.as_secs_f64() * 1000.0;
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    (at(50).map_or(f64::NAN, |t| ms(*t)), at(99).map_or(f64::NAN, |t| ms(*t)))
}

async fn send(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> (u16, Vec<u8>) {
    let mut request = http::Request::builder().method(method).uri(path).header("content-type", JSON);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(kube::client::Body::from(body.into_bytes())).expect("a request");
    let response = client.send(request).await.expect("an answer");
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.expect("a whole answer").to_bytes().to_vec())
}

async fn create(client: &Client, path: &str, object: Value) {
    let (code, body) = send(client, "POST", path, &[], object.to_string()).await;
    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
}

impl Bench<'_> {
    async fn client(&self) -> Client {
        client(&self.cluster.kubeconfig()).await
    }

    /// An administrator by another name.
    async fn client_as(&self, user: &str, group: &str) -> Client {
        let mut read = Kubeconfig::read_from(self.cluster.kubeconfig()).expect("a kubeconfig");
        for info in read.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
            info.impersonate = Some(user.into());
            info.impersonate_groups = Some(vec![group.into()]);
        }
        let config = Config::from_custom_kubeconfig(read, &Default::default()).await.expect("a configuration");
        Client::try_from(config).expect("a client")
    }

    /// Kilobytes: resident and, of those, its own.
    fn memory(&self) -> (usize, usize) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.cluster.pid())).unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        (of("VmRSS:"), of("RssAnon:"))
    }

    fn show_memory(&self, what: &str) {
        let (resident, own) = self.memory();
        println!("{what}: {} MB resident, {} MB of them its own", resident / 1024, own / 1024);
    }

    /// Seconds of processor that the server has used.
    fn processor(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.cluster.pid())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // The kernel counts in hundredths of a second.
        [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    async fn make(&self, count: usize, object: impl Fn(usize) -> (String, Value)) -> f64 {
        let client = self.client().await;
        let begun = Instant::now();
        let all = stream::iter(0..count).map(|n| {
            let (client, (path, object)) = (client.clone(), object(n));
            async move { create(&client, &path, object).await }
        });
        all.buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
        count as f64 / begun.elapsed().as_secs_f64()
    }

    /// G5: as the slice controller would make them, ten endpoints for each Service.
    async fn services(&self) {
        let count = 10_000 / self.divisor;
        self.show_memory("G5 empty");
        let rate = self.make(count, |n| {
            let service =
                json!({"metadata": {"name": format!("s{n}")}, "spec": {"ports": [{"name": "http", "port": 80}]}});
            ("/api/v1/namespaces/default/services".into(), service)
        });
        println!("Services made: {:.0}/s", rate.await);
        let rate =
            self.make(count, |n| ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".into(), slice(n)));
        println!("EndpointSlices of ten made: {:.0}/s", rate.await);
        let goal = "goal 250 MB, kube-apiserver and etcd 677 MB + 143 MB";
        self.show_memory(&format!("G5 {count} Services, {} endpoints ({goal})", count * 10));
    }

    /// G6: watchers over eight connections, half of them with a selector.
    async fn watchers(&self) {
        let count = 1000 / self.divisor;
        let started = Instant::now();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel::<(String, Instant)>();
        for _ in 0..8 {
            let api = Api::<ConfigMap>::default_namespaced(self.client().await);
            for n in 0..count / 8 {
                let params =
                    if n % 2 == 0 { WatchParams::default() } else { WatchParams::default().labels("app=seen") };
                let mut events = api.watch(&params, "0").await.expect("a watch").boxed();
                let told = told.clone();
                tokio::spawn(async move {
                    while let Ok(Some(event)) = events.try_next().await {
                        if let WatchEvent::Added(map) = event {
                            // The bench has ended.
                            let _ = told.send((map.metadata.name.unwrap_or_default(), Instant::now()));
                        }
                    }
                });
            }
        }
        println!("G6 {} watches opened in {:.1} s", count / 8 * 8, started.elapsed().as_secs_f64());
        let (client, before) = (self.client().await, self.processor());
        let (mut last, mut after_answer) = (vec![], vec![]);
        for round in 0..20 {
            let name = format!("seen-{round}");
            let map = json!({"metadata": {"name": name, "labels": {"app": "seen"}}, "data": {"k": "v".repeat(400)}});
            let begun = Instant::now();
            create(&client, "/api/v1/namespaces/default/configmaps", map).await;
            let answered = Instant::now();
            let (mut latest, mut missing) = (begun, count / 8 * 8);
            while missing > 0 {
                let (seen, at) = heard.recv().await.expect("the watchers live");
                if seen == name {
                    (latest, missing) = (latest.max(at), missing - 1);
                }
            }
            last.push(latest - begun);
            after_answer.push(latest.saturating_duration_since(answered));
        }
        let ((median, slow), (tail, _)) = (middle_and_slow(&mut last), middle_and_slow(&mut after_answer));
        let each = (self.processor() - before) / 20.0 * 1000.0;
        println!(
            "G6 one write until the last of {} watchers has it: median {median:.1} ms, p99 {slow:.1} ms, goal 20 ms, median/goal {:.2}; after the writer's own answer {tail:.1} ms; {each:.1} ms of the server's processor",
            count / 8 * 8,
            median / 20.0
        );
    }

    async fn pods(&self) {
        let count = 10_000 / self.divisor;
        let rate = self.make(count, |n| ("/api/v1/namespaces/default/pods".into(), pod(n))).await;
        println!("pods made: {rate:.0}/s");
        let client = self.client().await;
        let path = "/api/v1/namespaces/default/pods";
        let forms: [(&str, &[(&str, &str)]); 5] = [
            ("JSON", &[]),
            ("JSON, gzip", &[("accept-encoding", "gzip")]),
            ("Table", &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]),
            ("metadata only", &[("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")]),
            ("protobuf", &[("accept", "application/vnd.kubernetes.protobuf")]),
        ];
        for (what, headers) in forms {
            let (mut times, mut bytes) = (vec![], 0);
            for _ in 0..10 {
                let begun = Instant::now();
                let (code, body) = send(&client, "GET", path, headers, String::new()).await;
                assert_eq!(code, 200, "{what}");
                times.push(begun.elapsed());
                bytes = body.len();
            }
            let (median, slow) = middle_and_slow(&mut times);
            println!(
                "list of {count} pods, {what}: median {median:.0} ms, slowest {slow:.0} ms, {:.2} MB",
                bytes as f64 / 1e6
            );
        }
        let (begun, mut pages, mut next) = (Instant::now(), 0, String::new());
        loop {
            let (_, body) = send(&client, "GET", &format!("{path}?limit=500{next}"), &[], String::new()).await;
            let list: Value = serde_json::from_slice(&body).expect("a list");
            pages += 1;
            match list["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => next = format!("&continue={token}"),
                None => break,
            }
        }
        println!("the same in {pages} pages of 500: {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
    }

    async fn idle_connections(&self) {
        let count = 10_000 / self.divisor;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, most).expect("as many files as one may have");
        let (before, begun) = (self.memory().0, Instant::now());
        let tls = self.tls();
        let server = self.server();
        let opened = stream::iter(0..count).map(|_| {
            let (tls, server) = (tls.clone(), server.clone());
            async move {
                let stream = TcpStream::connect(server).await.ok()?;
                tls.connect("127.0.0.1".try_into().ok()?, stream).await.ok()
            }
        });
        let held: Vec<_> = opened.buffer_unordered(64).filter_map(|stream| async { stream }).collect().await;
        let grown = self.memory().0.saturating_sub(before) / 1024;
        println!(
            "{} idle connections opened in {:.1} s: {grown} MB more, {:.1} KB each",
            held.len(),
            begun.elapsed().as_secs_f64(),
            grown as f64 * 1024.0 / held.len() as f64
        );
        let mut times = vec![];
        for _ in 0..100 {
            // Each on a connection of its own.
            let client = self.client().await;
            let begun = Instant::now();
            assert_eq!(send(&client, "GET", "/readyz", &[], String::new()).await.0, 200);
            times.push(begun.elapsed());
        }
        let (median, slow) = middle_and_slow(&mut times);
        println!("/readyz meanwhile, with its handshake: median {median:.1} ms, p99 {slow:.1} ms");
        drop(held);
    }

    fn server(&self) -> String {
        let read = Kubeconfig::read_from(self.cluster.kubeconfig()).expect("a kubeconfig");
        let cluster = read.clusters.first().and_then(|named| named.cluster.clone()).expect("a cluster");
        cluster.server.expect("a server").trim_start_matches("https://").to_owned()
    }

    /// Nobody in particular.
    fn tls(&self) -> tokio_rustls::TlsConnector {
        let ca = fs::read(self.cluster.data().join("pki/ca.crt")).expect("the authority");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ca).expect("a certificate")).expect("an authority");
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Arc::new(config).into()
    }

    /// What it can carry, and then ten times as many clients.
    async fn overload(&self) {
        let span = Duration::from_secs(if self.divisor == 1 { 10 } else { 2 });
        let greedy = self.client_as("greedy", "system:masters").await;
        let (made, refused, _) = flood(&greedy, "calm", 8, span).await;
        println!("8 clients: {:.0} creates/s, {refused} told to come back", made.len() as f64 / span.as_secs_f64());
        let node = self.client_as("system:node:bench", "system:nodes").await;
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        create(&node, leases, json!({"metadata": {"name": "bench"}})).await;
        let ended = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(beats(self.client().await, node, ended.clone()));
        let before = self.memory().0;
        let (made, refused, slow) = flood(&greedy, "storm", 2000 / self.divisor, span).await;
        ended.store(true, Ordering::Relaxed);
        let (mut health, mut lease) = watch.await.expect("health and leases are answered");
        let ((h, h99), (l, l99)) = (middle_and_slow(&mut health), middle_and_slow(&mut lease));
        println!(
            "{} clients at once: {:.0} creates/s (p99 {slow:.0} ms), {refused} told to come back, {} MB more",
            2000 / self.divisor,
            made.len() as f64 / span.as_secs_f64(),
            self.memory().0.saturating_sub(before) / 1024
        );
        println!(
            "meanwhile /readyz median {h:.1} ms, p99 {h99:.1} ms; a node's lease median {l:.1} ms, p99 {l99:.1} ms"
        );
        let (_, body) = send(
            &self.client().await,
            "GET",
            "/api/v1/namespaces/default/configmaps?labelSelector=flood%3Dstorm",
            &[("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")],
            String::new(),
        )
        .await;
        let list: Value = serde_json::from_slice(&body).expect("a list");
        let there: BTreeMap<&str, ()> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|i| Some((i["metadata"]["name"].as_str()?, ())))
            .collect();
        let lost = made.iter().filter(|name| !there.contains_key(name.as_str())).count();
        assert_eq!(lost, 0, "of {} acknowledged", made.len());
        println!("all of {} acknowledged objects are there", made.len());
    }
}

fn slice(n: usize) -> Value {
    let endpoint = |e: usize| {
        let at = n * 10 + e;
        json!({"addresses": [format!("10.{}.{}.{}", 128 + at / 62_500, at / 250 % 250, at % 250 + 1)],
            "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": format!("node-{}", at % 100), "zone": "a",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("s{n}-7d4b9c6f5-x{e}"), "uid": format!("00000000-0000-0000-0000-{at:012}")}})
    };
    let endpoints: Vec<Value> = (0..10).map(endpoint).collect();
    json!({"metadata": {"name": format!("s{n}-abcde"), "labels": {"kubernetes.io/service-name": format!("s{n}"), "endpointslice.kubernetes.io/managed-by": "bench"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

/// One that no scheduler takes up.
fn pod(n: usize) -> Value {
    json!({"metadata": {"name": format!("p{n}"), "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"}},
        "spec": {"schedulerName": "none", "containers": [{"name": "main", "image": "registry.example/web:v1",
            "ports": [{"containerPort": 8080}], "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}})
}

/// The names that were acknowledged, how many were told to come back, and the 99th percentile of an answer in ms.
async fn flood(client: &Client, label: &'static str, clients: usize, span: Duration) -> (Vec<String>, usize, f64) {
    let (end, refused) = (Instant::now() + span, Arc::new(AtomicUsize::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let (client, refused) = (client.clone(), refused.clone());
        tasks.spawn(async move {
            let mut made = vec![];
            for n in 0.. {
                let name = format!("{label}-{number}-{n}");
                let map =
                    json!({"metadata": {"name": name, "labels": {"flood": label}}, "data": {"k": "v".repeat(400)}});
                let begun = Instant::now();
                let (code, body) =
                    send(&client, "POST", "/api/v1/namespaces/default/configmaps", &[], map.to_string()).await;
                match code {
                    201 => made.push((name, begun.elapsed())),
                    429 => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    _ => panic!("{code} {}", String::from_utf8_lossy(&body)),
                }
                if Instant::now() > end {
                    break;
                }
                if code == 429 {
                    // As Retry-After says.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            made
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let (names, mut times): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    (names, refused.load(Ordering::Relaxed), middle_and_slow(&mut times).1)
}

/// How long health and a node's heartbeat take, until told to end.
async fn beats(client: Client, node: Client, ended: Arc<AtomicBool>) -> (Vec<Duration>, Vec<Duration>) {
    let (mut health, mut lease) = (vec![], vec![]);
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/bench";
    while !ended.load(Ordering::Relaxed) {
        let begun = Instant::now();
        assert_eq!(send(&client, "GET", "/readyz", &[], String::new()).await.0, 200);
        health.push(begun.elapsed());
        let begun = Instant::now();
        let body = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "bench"}, "spec": {"holderIdentity": "bench"}});
        assert_eq!(send(&node, "PUT", path, &[], body.to_string()).await.0, 200);
        lease.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (health, lease)
}
