//! What the proxy costs: G7 a cold start with many Services (time, memory, processor), G8 one endpoint changed among few and
//! among many, G9 how long a connection takes to begin. Beside it, in the same run, the shape that kube-proxy gives its
//! rules (a chain and an anonymous map per Service), loaded by `nft -f`; that grows faster than the number of Services, so
//! its number is bounded.
//!
//! `cargo bench -p skiff-proxy --bench sync [-- MOST_SERVICES PEER_SERVICES]`; needs root or user namespaces. Every size is
//! measured in a process and a network namespace of its own.
#![allow(clippy::print_stdout, reason = "figures are the result")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::net::World;
use serde_json::json;
use skiff_nft::{Netlink, Ownership};
use skiff_proxy::{ruleset::Ruleset, sync::Syncer};
use skiff_services::{
    model::{ServiceKey, Slice},
    snapshot::Snapshot,
};

const ENDPOINTS: u32 = 10;
const ROUNDS: usize = 300;
const CONNECTS: usize = 2000;

fn ip(base: u32, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(base + n)
}

fn slice(n: u32, changed: u32) -> Slice {
    let address = |e: u32| ip(0x0af4_0000, n * 16 + if e == 3 { e + changed * 10 } else { e }).to_string();
    let texts: Vec<String> = (0..ENDPOINTS).map(|e| format!("{}@node-{}", address(e), e % 5)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    common::slice(&format!("svc-{n}"), &format!("svc-{n}-x"), "TCP", 8080, &texts)
}

fn cluster(services: u32) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..services {
        let ip = ip(0x0a60_1000, n).to_string();
        let spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]});
        snapshot.apply_service(common::service(&format!("svc-{n}"), spec, json!({})));
        snapshot.apply_slice(slice(n, 0));
    }
    snapshot
}

/// A line of /proc/self/status in MB.
fn status_mb(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().find_map(|w| w.parse::<f64>().ok()).unwrap_or(0.0) / 1000.0
}

/// User and system time of this process.
fn processor() -> [Duration; 2] {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |i: usize| after_name.split(' ').nth(i).and_then(|t| t.parse().ok()).unwrap_or(0);
    [11, 12].map(|i| Duration::from_millis(10 * ticks(i)))
}

/// Median and 99th percentile.
fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn load(snapshot: &Snapshot) -> Syncer<Netlink> {
    let keys: BTreeSet<ServiceKey> = snapshot.iter().map(|(k, _)| k.clone()).collect();
    let rules = Ruleset::new("skiff", common::networks(), common::node_a());
    let mut syncer = Syncer::new(Netlink::open(Ownership::Exclusive).expect("nftables"), rules);
    syncer.sync(&keys, snapshot).expect("cold sync");
    syncer
}

/// G7 and G8 for one number of Services.
fn ours(services: u32) {
    let mut snapshot = cluster(services);
    let before = status_mb("VmRSS:");
    // Forget the highest mark so far.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (started, used) = (Instant::now(), processor());
    let mut syncer = load(&snapshot);
    let cold = started.elapsed();
    let [user, system] = processor();
    let peak = status_mb("VmHWM:");
    let mut times = vec![];
    for round in 0..ROUNDS as u32 {
        let n = round * 7919 % services;
        let changed = slice(n, 1 + round / services % 2);
        let started = Instant::now();
        let dirty = snapshot.apply_slice(changed);
        syncer.sync(&dirty, &snapshot).expect("one endpoint");
        times.push(started.elapsed());
    }
    let (one, slow) = quantiles(times);
    drop(syncer);
    let started = Instant::now();
    drop(load(&snapshot));
    println!(
        "skiff {services:6} x {ENDPOINTS}: cold {cold:9.1?} (user {:.0?}, kernel {:.0?})   one endpoint {one:7.1?}, p99 {slow:7.1?}   \
         taken over {:9.1?}   memory {before:.0} MB before, {peak:.0} MB at most, {:.0} MB after",
        user - used[0],
        system - used[1],
        started.elapsed(),
        status_mb("VmRSS:"),
    );
}

/// G9: from one pod to another on the same node, without rules and with many.
fn connects(services: u32) {
    let world = World::new();
    world.run("p1", || {
        let listener = TcpListener::bind("10.244.0.11:9090").expect("a port");
        std::thread::spawn(move || listener.incoming().for_each(drop));
    });
    let measure = |to: &str| {
        let to: SocketAddr = to.parse().expect("an address");
        let times = world.run("p2", move || {
            let one = || {
                let started = Instant::now();
                let connected = TcpStream::connect_timeout(&to, Duration::from_secs(20));
                connected.map(|_| started.elapsed()).expect("a connection")
            };
            (0..CONNECTS).map(|_| one()).collect()
        });
        quantiles(times)
    };
    let mut snapshot = cluster(services);
    snapshot.apply_slice(common::slice("svc-0", "svc-0-x", "TCP", 9090, &["10.244.0.11@a"]));
    let direct = measure("10.244.0.11:9090");
    let mut syncer = load(&Snapshot::default());
    let tracked = measure("10.244.0.11:9090");
    let keys: BTreeSet<ServiceKey> = snapshot.iter().map(|(k, _)| k.clone()).collect();
    syncer.sync(&keys, &snapshot).expect("rules");
    let through = measure("10.96.16.0:80");
    let again = measure("10.244.0.11:9090");
    println!(
        "connect, median and p99: direct {direct:.1?}   conntrack only {tracked:.1?}   through one of {services} Services \
         {through:.1?}   past them {again:.1?}"
    );
}

fn nft(text: &str) -> Duration {
    let started = Instant::now();
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), text.as_bytes()).expect("nft reads");
    assert!(child.wait().expect("nft").success());
    started.elapsed()
}

fn peer_service(out: &mut String, n: u32, endpoint_three: u32) {
    let _ = writeln!(out, "add chain ip peer service-{n}");
    for e in 0..ENDPOINTS {
        let _ = writeln!(out, "add chain ip peer endpoint-{n}-{e}");
        let last = if e == 3 { endpoint_three } else { e };
        let to = ip(0x0af4_0000, n * 16 + last);
        let _ = writeln!(out, "flush chain ip peer endpoint-{n}-{e}");
        let _ = writeln!(out, "add rule ip peer endpoint-{n}-{e} meta l4proto tcp dnat to {to}:8080");
    }
    let map: Vec<String> = (0..ENDPOINTS).map(|e| format!("{e} : goto endpoint-{n}-{e}")).collect();
    let _ = writeln!(out, "flush chain ip peer service-{n}");
    let _ = writeln!(out, "add rule ip peer service-{n} numgen random mod {ENDPOINTS} vmap {{ {} }}", map.join(", "));
}

/// kube-proxy's shape.
fn peer(services: u32) {
    let mut text = String::from(
        "add table ip peer\nadd map ip peer services { type ipv4_addr . inet_proto . inet_service : verdict; }\n",
    );
    text += "add chain ip peer pre { type nat hook prerouting priority -100; }\n";
    text += "add rule ip peer pre ip daddr . meta l4proto . th dport vmap @services\n";
    for n in 0..services {
        peer_service(&mut text, n, 3);
        let _ =
            writeln!(text, "add element ip peer services {{ {} . tcp . 80 : goto service-{n} }}", ip(0x0a60_1000, n));
    }
    let cold = nft(&text);
    let change = |round: u32| {
        let mut text = String::new();
        peer_service(&mut text, round * 79 % services, 13 + round % 2);
        nft(&text)
    };
    let (one, slow) = quantiles((0..9).map(change).collect());
    println!(
        "kube-proxy's shape {services:6} x {ENDPOINTS}: cold {cold:9.1?}   one endpoint {one:7.1?}, p99 {slow:7.1?}"
    );
}

const INSIDE: &str = "SKIFF_BENCH_INSIDE";

/// Runs a part of the benchmark in namespaces of its own.
fn apart(part: &str, services: u32) {
    let flags = if rustix::process::geteuid().is_root() { "-nm" } else { "-Urnm" };
    let me = std::env::current_exe().expect("own path");
    let mut command = Command::new("unshare");
    command.arg(flags).arg(me).args([part.to_owned(), services.to_string()]).env(INSIDE, "1");
    if !command.status().is_ok_and(|s| s.success()) {
        println!("SKIPPED: {part} with {services} Services: no network namespaces here, or it failed above");
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u32> = words.iter().filter_map(|a| a.parse().ok()).collect();
    if std::env::var_os(INSIDE).is_some() {
        return match words[0].as_str() {
            "ours" => ours(numbers[0]),
            "peer" => peer(numbers[0]),
            _ => connects(numbers[0]),
        };
    }
    let (most, peers) = (numbers.first().copied().unwrap_or(30_000), numbers.get(1).copied().unwrap_or(1000));
    let load = || println!("load {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    load();
    [100, 1000, 10_000, 30_000].into_iter().filter(|n| *n <= most).for_each(|n| apart("ours", n));
    if Command::new("nft").arg("-v").output().is_ok() {
        [100, peers].into_iter().for_each(|n| apart("peer", n));
    } else {
        println!("SKIPPED: kube-proxy's shape: nft is not installed");
    }
    apart("connects", most.min(10_000));
    load();
}
