//! The life of clusters: up, down, two side by side, killed at any moment, several nodes. Each test has a machine of its own.

mod common;
#[path = "lifecycle/three.rs"]
mod three;

use std::{
    collections::BTreeMap,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    Cluster, Home, eventually,
    machine::Machine,
    objects::{cluster_ip, node_port, object, pod_ip, restarts},
    text,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use three::{balancer_moves, both_families, has_ipv6, node_dies, pods_reach_each_other, served_by_all};

/// A cluster on a new machine, not started; None where none can be made.
fn alone(name: &str) -> Option<Cluster> {
    let home = Home::new(Some(Machine::new()?));
    Some(Cluster::at(&home, &unique(name)))
}

/// Control groups are shared by all machines of this kernel, so names must differ.
fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// Two web pods behind a Service that answers; its address.
fn web(cluster: &Cluster) -> String {
    cluster.load_busybox();
    cluster.create_web(&["web-1", "web-2"], "web", None);
    let ip = cluster_ip(&cluster.create_service("web", "ClusterIP"));
    cluster.settled("web", 2);
    cluster.answers(None, &ip);
    ip
}

fn kill_daemon(cluster: &Cluster) {
    let pid = cluster.pid();
    cluster.machine().run(&format!("kill -9 {pid}"));
    eventually("the daemon has ended", || {
        let there = cluster.machine().run(&format!("test -e /proc/{pid} && echo there || true"));
        if there.is_empty() { Ok(()) } else { Err(there) }
    });
}

#[test]
fn down_leaves_nothing_behind() {
    let Some(cluster) = alone("nothing") else { return };
    let before = cluster.machine().traces(&cluster.name);
    for killed in [false, true] {
        cluster.start(&[]);
        if !killed {
            web(&cluster);
        }
        cluster.settled("web", 2);
        assert!(cluster.skiff_ok(&["status"]).contains("Running"));
        assert_ne!(cluster.machine().traces(&cluster.name), before);
        if killed {
            kill_daemon(&cluster);
        }
        cluster.skiff_ok(&["down"]);
        same(&before, &cluster.machine().traces(&cluster.name));
        assert!(!cluster.run_dir().exists(), "{}", cluster.run_dir().display());
    }
    cluster.skiff_ok(&["down", "--delete"]);
    assert!(!cluster.data().exists(), "{}", cluster.data().display());
}

/// Shows only what differs.
fn same(before: &str, after: &str) {
    let lacking = |a: &str, b: &str| {
        a.lines().filter(|l| !b.lines().any(|m| m == *l)).map(|l| format!("{l}\n")).collect::<String>()
    };
    let (gone, new) = (lacking(before, after), lacking(after, before));
    assert!(gone.is_empty() && new.is_empty(), "gone:\n{gone}new:\n{new}");
}

#[test]
fn two_clusters_side_by_side() {
    let Some(a) = alone("a") else { return };
    let b = Cluster::at(a.home(), &unique("b"));
    a.start(&[]);
    b.start(&[]);
    let (ip_a, ip_b) = (web(&a), web(&b));
    a.answers(None, &ip_a);
    let status = a.skiff_ok(&["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status.as_array().map(Vec::len), Some(1), "SKIFF_CLUSTER names one: {status}");
    a.skiff_ok(&["down", "--delete"]);
    assert_eq!(b.ask(None, &ip_b).map(|p| p.starts_with("web-")), Ok(true));
    b.create_web(&["web-3"], "web", None);
    b.settled("web", 3);
    b.answers(None, &ip_b);
}

#[test]
fn a_killed_daemon_leaves_pods_running_and_takes_them_over() {
    let Some(cluster) = alone("over") else { return };
    cluster.start(&[]);
    let ip = web(&cluster);
    let (pods, processes) = (cluster.pods_now(), containers(&cluster));
    assert_eq!(processes.lines().count(), 2, "{processes}");
    kill_daemon(&cluster);
    let netns = cluster.run_dir().join("netns").join(&cluster.name);
    for _ in 0..10 {
        let script = format!("nsenter --net={} curl -sS -m 2 http://{ip}/", netns.display());
        assert!(cluster.machine().run(&script).starts_with("web-"));
    }
    cluster.start(&[]);
    cluster.settled("web", 2);
    assert_eq!(containers(&cluster), processes);
    let now = cluster.pods_now();
    let facts = |pods: &[k8s_openapi::api::core::v1::Pod]| {
        let fact = |p: &k8s_openapi::api::core::v1::Pod| (p.metadata.uid.clone(), pod_ip(p), restarts(p));
        pods.iter().map(fact).collect::<Vec<_>>()
    };
    assert_eq!(facts(&now), facts(&pods));
    assert!(now.iter().all(|p| restarts(p) == 0));
    // Taken over means watched too: a container that dies now is started again.
    let first = processes.split_whitespace().next().expect("a process");
    cluster.machine().run(&format!("kill -9 {first}"));
    eventually("the container was started again", || {
        let sum: i32 = cluster.pods_now().iter().map(restarts).sum();
        if sum == 1 { Ok(()) } else { Err(cluster.describe()) }
    });
    cluster.settled("web", 2);
}

/// Process ids and commands of the containers.
fn containers(cluster: &Cluster) -> String {
    cluster.machine().run("ps -eo pid=,args= | grep '[h]ttpd -f' || true")
}

#[test]
fn everything_killed_comes_back() {
    let Some(cluster) = alone("back") else { return };
    cluster.start(&[]);
    let ip = web(&cluster);
    let uids = |cluster: &Cluster| cluster.pods_now().iter().map(|p| p.metadata.uid.clone()).collect::<Vec<_>>();
    let before = uids(&cluster);
    for _ in 0..2 {
        cluster.machine().kill_all();
        cluster.start(&[]);
        eventually("both containers run", || match containers(&cluster) {
            found if found.lines().count() == 2 => Ok(()),
            found => Err(format!("{found}\n{}", cluster.describe())),
        });
        cluster.settled("web", 2);
        cluster.answers(None, &ip);
        assert_eq!(uids(&cluster), before);
    }
    assert!(cluster.pods_now().iter().all(|p| restarts(p) >= 1), "{}", cluster.describe());
}

#[test]
fn three_nodes() {
    let Some(cluster) = alone("three") else { return };
    let patience = ["--node-monitor-grace-period", "10s", "--default-unreachable-toleration-seconds", "2"];
    let pools = ["--lb-pool", "172.31.255.0/24,fd00:1b::/112"];
    cluster.start(&[&["--nodes", "3"][..], &patience, &pools].concat());
    cluster.load_busybox();
    let nodes: Vec<String> = (1..=3).map(|n| format!("{}-{n}", cluster.name)).collect();
    for (number, node) in nodes.iter().enumerate() {
        cluster.create_web(&[&format!("web-{number}")], "web", Some(node));
    }
    let service = cluster.create_service("web", "NodePort");
    cluster.settled("web", 3);
    let pods = cluster.pods_now();
    let node_ips: Vec<String> = nodes.iter().map(|n| cluster.skiff_ok(&["ip", n]).trim().to_owned()).collect();
    for node in nodes.iter().map(String::as_str) {
        // Every pod answers from every node, by its own address and through the Service.
        for pod in &pods {
            let said = cluster.answers(Some(node), &format!("{}:{}", pod_ip(pod), common::objects::PORT));
            assert_eq!(Some(said), pod.metadata.name);
        }
        served_by_all(&cluster, node, &cluster_ip(&service), 3);
    }
    for ip in &node_ips {
        served_by_all(&cluster, &nodes[0], &format!("{ip}:{}", node_port(&service)), 3);
        let url = format!("http://{ip}:{}/", node_port(&service));
        assert!(cluster.machine().run(&format!("curl -sS -m 5 {url}")).starts_with("web-"), "the host asks {url}");
    }
    pods_reach_each_other(&cluster, &pods);
    let ipv6 = has_ipv6(&cluster);
    if ipv6 {
        both_families(&cluster, &nodes, &pods);
    }
    balancer_moves(&cluster, nodes.len(), ipv6);
    node_dies(&cluster, &nodes);
    let before_down = cluster.machine().run("ip -o link");
    assert!(before_down.contains("skiff"));
    cluster.skiff_ok(&["down"]);
    assert!(!cluster.machine().run("ip -o link").contains("skiff"));
}

/// What clients were told: names with their revisions.
#[derive(Default)]
struct Acknowledged {
    revisions: Mutex<BTreeMap<String, u64>>,
    highest: AtomicU64,
    stop: AtomicBool,
}

const KILLS: usize = 50;
const CREATES: usize = 1000;
const CLIENTS: usize = 4;

#[test]
fn a_daemon_killed_during_creates_loses_nothing() {
    let Some(cluster) = alone("creates") else { return };
    let seed: u64 = std::env::var("SKIFF_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("SKIFF_SEED={seed}");
    cluster.start(&[]);
    let told = Arc::new(Acknowledged::default());
    std::thread::scope(|scope| {
        let writers = scope.spawn(|| cluster.with(|client| write(client, &told)));
        let mut moments = Moments(seed);
        let mut count = 0;
        for _ in 0..KILLS {
            count += moments.next((2 * CREATES / KILLS) as u64) as usize;
            wait_for(&told, count);
            std::thread::park_timeout(Duration::from_micros(moments.next(5000)));
            kill_daemon(&cluster);
            cluster.start(&[]);
            cluster.with(|client| check(client, &told));
        }
        wait_for(&told, CREATES);
        told.stop.store(true, Ordering::Relaxed);
        writers.join().expect("writers");
    });
    cluster.with(|client| check(client, &told));
    assert!(told.revisions.lock().unwrap().len() >= CREATES);
}

fn wait_for(told: &Acknowledged, count: usize) {
    eventually(&format!("{count} creates"), || {
        let found = told.revisions.lock().unwrap().len();
        if found >= count { Ok(()) } else { Err(format!("{found} creates")) }
    });
}

/// A generator of moments from a seed (splitmix64).
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// Several clients create without end; what fails is a name given up.
async fn write(client: Client, told: &Acknowledged) {
    let writer = async |number: usize| {
        let api = Api::<ConfigMap>::default_namespaced(client.clone());
        for count in 0.. {
            if told.stop.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("c{number}-{count}");
            let map: ConfigMap = object(json!({"metadata": {"name": name}, "data": {"number": count.to_string()}}));
            let before = told.highest.load(Ordering::SeqCst);
            match api.create(&PostParams::default(), &map).await {
                Ok(made) => acknowledge(told, before, name, revision(&made.metadata.resource_version)),
                // Nobody serves just now.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    futures::future::join_all((0..CLIENTS).map(writer)).await;
}

fn acknowledge(told: &Acknowledged, before: u64, name: String, revision: u64) {
    assert!(revision > before, "{name} has revision {revision}, but {before} was given out before it was asked for");
    told.highest.fetch_max(revision, Ordering::SeqCst);
    told.revisions.lock().unwrap().insert(name, revision);
}

fn revision(text: &Option<String>) -> u64 {
    text.as_deref().and_then(|t| t.parse().ok()).expect("a decimal revision")
}

/// Everything acknowledged before the question is in the answer, and the answer's revision is not older.
async fn check(client: Client, told: &Acknowledged) {
    let expected = told.revisions.lock().unwrap().clone();
    let highest = told.highest.load(Ordering::SeqCst);
    let list = Api::<ConfigMap>::default_namespaced(client).list(&Default::default()).await.expect("list");
    let now = revision(&list.metadata.resource_version);
    assert!(now >= highest, "the list's revision {now} is older than {highest}");
    let found: BTreeMap<_, _> = list
        .items
        .iter()
        .map(|m| (m.metadata.name.clone().unwrap_or_default(), revision(&m.metadata.resource_version)))
        .collect();
    for (name, revision) in expected {
        assert_eq!(found.get(&name), Some(&revision), "{name}");
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn refusals_name_the_reason_and_the_next_step() {
    let Some(cluster) = alone("words") else { return };
    let refused = |args: &[&str], words: &[&str]| {
        let output = cluster.skiff(args);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "skiff {args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "skiff {args:?} should say {word:?}: {said}");
        }
    };
    for args in [&["ip"][..], &["shell"], &["kubeconfig"], &["image", "list"], &["status"], &["down"]] {
        refused(args, &["no cluster", &cluster.name, "skiff up"]);
    }
    refused(&["up", "--name", "No_Label"], &["No_Label", "lower case"]);
    refused(&["up", "--pod-cidr", "10.96.0.0/16"], &["overlap"]);

    let taken =
        cluster.machine().inside(|| async { std::net::TcpListener::bind("127.0.0.1:6443").expect("a free port") });
    refused(&["up", "--api-port", "6443"], &["6443", "in use", "--api-port", "ss -ltnp"]);
    cluster.start(&[]);
    assert!(cluster.skiff_ok(&["status"]).contains("127.0.0.1:6444"), "the next free port is taken");
    drop(taken);

    let again = cluster.skiff(&["up"]);
    assert!(again.status.success() && said(&again).contains("already running"), "{}", said(&again));
    for (flag, value) in [("--nodes", "3"), ("--pod-cidr", "10.250.0.0/16"), ("--api-port", "7000")] {
        refused(&["up", flag, value], &[flag, &cluster.name]);
    }
    refused(&["ip", "nowhere"], &["nowhere", &cluster.name]);
    cluster.skiff_ok(&["down"]);
    refused(&["shell", "--", "true"], &["not running", "skiff up"]);
    refused(&["up", "--nodes", "2"], &["--nodes 1", "skiff down --delete"]);
    let status = cluster.skiff(&["status"]);
    assert_eq!(status.status.code(), Some(3), "{}", said(&status));
    assert!(said(&status).contains("Stopped"));

    // A port that is taken while the cluster is down is named at the next start.
    let taken =
        cluster.machine().inside(|| async { std::net::TcpListener::bind("127.0.0.1:6444").expect("a free port") });
    refused(&["up"], &["6444", "in use", "--api-port"]);
    cluster.start(&["--api-port", "6445"]);
    drop(taken);
}

#[test]
fn without_root_the_way_to_it_is_named() {
    if !skiff_testkit::tools::root_with(&["setpriv"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    // A copy: nobody may not be able to read the build directory.
    let program = dir.path().join("skiff");
    std::fs::copy(common::SKIFF, &program).expect("copy the program");
    let permit = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permit");
    };
    permit(dir.path());
    permit(&program);
    for args in [&["up"][..], &["demo"]] {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        let output =
            command.env("SKIFF_ROOT", dir.path()).env("SKIFF_CLUSTER", "plain").output().expect("setpriv runs");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("sudo skiff up"), "{}", said(&output));
    }
}

/// Saved while it runs, gone, and back: the same objects, the same keys, a history that goes on above.
#[test]
fn saved_and_restored() {
    let Some(cluster) = alone("saved") else { return };
    cluster.start(&[]);
    let ip = web(&cluster);
    let kubectl = cluster.kubectl(common::Kubectl::BuiltIn);
    let before = kubectl.jsonpath(&["svc", "web"], "{.metadata.resourceVersion}");
    let kubeconfig = std::fs::read(cluster.kubeconfig()).expect("a kubeconfig");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("saved.tar");
    let path = file.to_str().expect("text");
    cluster.skiff_ok(&["backup", path]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().expect("a file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    kubectl.ok(&["create", "configmap", "later"]);

    let refused = |args: &[&str], why: &str| {
        let output = cluster.skiff(args);
        assert!(!output.status.success() && text(&output.stderr).contains(why), "{}", text(&output.stderr));
    };
    refused(&["restore", path, "--force"], "is running; stop it first");
    cluster.skiff_ok(&["down"]);
    refused(&["restore", path], "--force");
    refused(&["restore", common::SKIFF], "this is no backup of a cluster");
    cluster.skiff_ok(&["down", "--delete"]);
    cluster.skiff_ok(&["restore", path]);
    cluster.load_busybox();
    cluster.start(&[]);

    assert_eq!(kubectl.cluster_ip("web"), ip);
    assert_eq!(kubectl.jsonpath(&["svc", "web"], "{.metadata.resourceVersion}"), before);
    assert!(kubectl.fails(&["get", "configmap", "later"]).contains("not found"));
    cluster.settled("web", 2);
    cluster.answers(None, &ip);
    std::fs::write(cluster.kubeconfig(), kubeconfig).expect("written");
    kubectl.ok(&["create", "configmap", "newer"]);
    let after = kubectl.jsonpath(&["configmap", "newer"], "{.metadata.resourceVersion}");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert!(number(&after) > number(&before) + 1_000_000_000, "{after} after {before}");
}
