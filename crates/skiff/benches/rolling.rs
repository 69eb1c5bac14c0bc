//! G13: a rolling update of ten replicas under 500 requests a second through their Service, without a preStop hook. Each
//! request is a connection of its own, begun on time whatever became of the others. Two kinds of servers: one that ends as
//! it should (no new connections, those under way are served), and one that dies at once when it is told to end.

#![allow(clippy::print_stdout, reason = "figures are the result")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::{
    Cluster, Home,
    machine::Machine,
    objects::{IMAGE, PORT, cluster_ip, object},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

const REPLICAS: i32 = 10;
const EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(5);
const ROLLOUTS: usize = 2;

/// What the first process of a container does when it is told to end.
const KINDS: [(&str, &str); 2] = [("ends as it should", "kill $p; sleep 1; exit 0"), ("dies at once", "exit 1")];

fn main() {
    let Some(machine) = Machine::new() else { return };
    let cluster = Cluster::at(&Home::new(Some(machine)), &format!("rolling-{}", std::process::id()));
    println!("load {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    cluster.start(&["--nodes", "2"]);
    cluster.load_busybox();
    for (n, (kind, end)) in KINDS.into_iter().enumerate() {
        let name = format!("web-{n}");
        let to = serve(&cluster, &name, end);
        for _ in 0..ROLLOUTS {
            roll(&cluster, &name, kind, to);
        }
    }
    println!("load {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}

fn deployment(name: &str, end: &str) -> Deployment {
    let command = format!("hostname > /index.html; httpd -f -p {PORT} -h / & p=$!; trap '{end}' TERM; wait $p; wait");
    let container = json!({
        "name": "web", "image": IMAGE, "command": ["sh", "-c", command], "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    });
    object(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
            },
        },
    }))
}

/// A Deployment and its Service, ready.
fn serve(cluster: &Cluster, name: &str, end: &str) -> SocketAddr {
    let made = deployment(name, end);
    cluster.with(|client| async move {
        Api::default_namespaced(client).create(&PostParams::default(), &made).await.expect("create a Deployment")
    });
    let service = cluster.create_service(name, "ClusterIP");
    cluster.settled(name, REPLICAS as usize);
    format!("{}:80", cluster_ip(&service)).parse().expect("an address")
}

async fn request(to: SocketAddr) -> Result<(), String> {
    let ask = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    match timeout(PATIENCE, ask).await {
        Err(_) => Err("no answer in time".into()),
        Ok(Err(e)) => Err(e.kind().to_string()),
        Ok(Ok(answer)) if answer.contains("200 OK") => Ok(()),
        Ok(Ok(answer)) => Err(format!("another answer: {answer:?}")),
    }
}

/// Requests until told to stop: how long the good ones took, and why the others were lost.
async fn requests(to: SocketAddr, go_on: Arc<AtomicBool>) -> (Vec<Duration>, Vec<String>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = JoinSet::new();
    while go_on.load(Relaxed) {
        ticks.tick().await;
        let started = Instant::now();
        running.spawn(async move { request(to).await.map(|()| started.elapsed()) });
    }
    let (mut took, mut lost) = (vec![], vec![]);
    while let Some(done) = running.join_next().await {
        match done.expect("no panic") {
            Ok(time) => took.push(time),
            Err(why) => lost.push(why),
        }
    }
    (took, lost)
}

fn roll(cluster: &Cluster, name: &str, kind: &str, to: SocketAddr) {
    let go_on = Arc::new(AtomicBool::new(true));
    let (begun, traffic) = (Instant::now(), go_on.clone());
    let (rolled, (took, lost)) = std::thread::scope(|scope| {
        let traffic = scope.spawn(move || cluster.machine().inside(|| requests(to, traffic)));
        cluster.with(|client| async move { update(client, name).await });
        let rolled = begun.elapsed();
        // The last replicas that go are still going.
        cluster.settled(name, REPLICAS as usize);
        go_on.store(false, Relaxed);
        (rolled, traffic.join().expect("traffic"))
    });
    let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
    let mut times = took;
    times.sort();
    println!(
        "G13 server {kind}: rolled {REPLICAS} replicas in {rolled:.1?} under {rate:.0} requests/s: {} lost of {} (goal 0); median \
         {:.1?}, p99 {:.1?}",
        lost.len(),
        lost.len() + times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    );
    lost.iter().take(10).for_each(|why| println!("  lost: {why}"));
}

/// Another template; returns when all replicas are of it and available, and no others are left.
async fn update(client: Client, name: &str) {
    let api = Api::<Deployment>::default_namespaced(client);
    let now = format!("{:?}", std::time::SystemTime::now());
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/rolled": now}}}}});
    let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.expect("patch");
    let generation = patched.metadata.generation;
    loop {
        let status = api.get_status(name).await.expect("get the Deployment").status.unwrap_or_default();
        let all = [status.updated_replicas, status.available_replicas, status.replicas];
        if status.observed_generation >= generation && all == [Some(REPLICAS); 3] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
