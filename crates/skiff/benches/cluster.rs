//! What a cluster costs: G1 start, G2 idle memory and processor time, G3 a pod from create to Endpoints, G4 durable
//! creates. Prints figures with the machine's load; nothing here passes or fails by time.

#![allow(clippy::print_stdout, reason = "figures are the result")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{
    Cluster, Home,
    machine::Machine,
    objects::{create_pod, endpoint_count, object, pod},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use serde_json::json;

fn main() {
    let Some(machine) = Machine::new() else { return };
    let cluster = Cluster::at(&Home::new(Some(machine)), &format!("bench-{}", std::process::id()));
    println!("load {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    start(&cluster);
    idle(&cluster);
    creates(&cluster);
    pods(&cluster);
    println!("load {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}

/// Ten starts on a warm disk, the last one stays.
fn start(cluster: &Cluster) {
    let mut times = vec![];
    for run in 0..10 {
        if run > 0 {
            cluster.skiff_ok(&["down"]);
        }
        let begun = Instant::now();
        cluster.start(&[]);
        times.push(begun.elapsed());
    }
    report("G1 up until API, DNS and a ClusterIP answer", times, 1000.0);
}

/// Prints the median and the slowest beside the goal in milliseconds.
fn report(what: &str, mut times: Vec<Duration>, goal: f64) {
    times.sort();
    let ms = |t: Duration| t.as_secs_f64() * 1000.0;
    let (median, slow) = (ms(times[times.len() / 2]), ms(times[times.len() * 99 / 100]));
    println!("{what}: median {median:.1} ms, p99 {slow:.1} ms, goal {goal} ms, median/goal {:.2}", median / goal);
}

fn idle(cluster: &Cluster) {
    const SPAN: Duration = Duration::from_secs(20);
    let pid = cluster.pid();
    let ticks = || {
        cluster
            .machine()
            .run(&format!("awk '{{print $14+$15}}' /proc/{pid}/stat"))
            .trim()
            .parse::<f64>()
            .unwrap_or(f64::NAN)
    };
    let before = ticks();
    // The span itself is what is measured: idle time.
    #[allow(clippy::disallowed_methods, reason = "there is no event to wait for")]
    std::thread::sleep(SPAN);
    // The kernel counts in hundredths of a second.
    let share = (ticks() - before) / SPAN.as_secs_f64();
    println!("G2 idle: {share:.2} % of a core, goal 0.5 %");
    let memory =
        cluster.machine().run(&format!("grep -E 'VmRSS|RssAnon|Threads' /proc/{pid}/status | tr -s '\\t\\n ' ' '"));
    println!("G2 idle memory: {memory}, goal VmRSS 40000 kB");
}

fn creates(cluster: &Cluster) {
    const CLIENTS: usize = 8;
    const EACH: usize = 500;
    let begun = Instant::now();
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|n| scope.spawn(move || cluster.with(|client| write(client, n, EACH)))).collect();
        clients.into_iter().flat_map(|c| c.join().expect("a client")).collect()
    });
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    println!("G4 durable creates, {CLIENTS} clients: {rate:.0}/s, goal 3000/s, ratio {:.2}", rate / 3000.0);
    report("G4 one create", times, 20.0);
}

async fn write(client: Client, number: usize, count: usize) -> Vec<Duration> {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let mut times = vec![];
    for n in 0..count {
        let map: ConfigMap =
            object(json!({"metadata": {"name": format!("b{number}-{n}")}, "data": {"n": n.to_string()}}));
        let begun = Instant::now();
        api.create(&PostParams::default(), &map).await.expect("create");
        times.push(begun.elapsed());
    }
    times
}

/// Each pod on its own: create, Running, in the Endpoints.
fn pods(cluster: &Cluster) {
    const PODS: usize = 20;
    cluster.load_busybox();
    cluster.create_service("web", "ClusterIP");
    let times = cluster.with(|client| async move {
        let mut times = vec![];
        for n in 0..PODS {
            let mut pod = pod(&format!("web-{n}"), "web", None);
            for container in pod.spec.iter_mut().flat_map(|s| &mut s.containers) {
                container.readiness_probe = None;
            }
            let begun = Instant::now();
            create_pod(&client, &pod).await;
            while endpoint_count(&client, "web").await <= n {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            times.push(begun.elapsed());
        }
        times
    });
    report("G3 one pod, create to Endpoints", times, 150.0);
}
