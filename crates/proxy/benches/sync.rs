//! How long the proxy takes: a cold start with many Services, and one endpoint changed among few and among many. Beside
//! it, in the same run, the shape that kube-proxy gives its rules (a chain and an anonymous map per Service), by `nft -f`.
//!
//! `cargo bench -p skiff-proxy --bench sync [-- SERVICES PEER_SERVICES]`; needs root or user namespaces.
#![allow(clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use skiff_nft::{Netlink, Ownership};
use skiff_proxy::{ruleset::Ruleset, sync::Syncer};
use skiff_services::{
    model::{ServiceKey, Slice},
    snapshot::Snapshot,
};

const ENDPOINTS: u32 = 10;
const ROUNDS: usize = 200;

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

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = status.split(' ').nth(1).and_then(|p| p.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1e6
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Cold start, then the median of changing one endpoint.
fn ours(services: u32) -> (Duration, Duration) {
    let mut snapshot = cluster(services);
    let keys: BTreeSet<ServiceKey> = snapshot.iter().map(|(k, _)| k.clone()).collect();
    let before = resident_mb();
    let started = Instant::now();
    let rules = Ruleset::new(&format!("skiff-bench-{services}"), common::networks(), common::node_a());
    let mut syncer = Syncer::new(Netlink::open(Ownership::Shared).expect("nftables"), rules);
    syncer.sync(&keys, &snapshot).expect("cold sync");
    let cold = started.elapsed();
    let grown = resident_mb() - before;
    let mut times = vec![];
    for round in 0..ROUNDS as u32 {
        let n = round * 7919 % services;
        let started = Instant::now();
        let dirty = snapshot.apply_slice(slice(n, 1 + round / services % 2));
        syncer.sync(&dirty, &snapshot).expect("one endpoint");
        times.push(started.elapsed());
    }
    let one = median(times);
    println!(
        "skiff       {services:6} x {ENDPOINTS}: cold {cold:10.1?}   one endpoint {one:10.1?}   memory grew {grown:.0} MB"
    );
    skiff_proxy::remove_tables(&format!("skiff-bench-{services}")).expect("removal");
    (cold, one)
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

fn peer(services: u32) -> (Duration, Duration) {
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
    let one = median((0..9).map(change).collect());
    println!("kube-proxy's shape {services:6} x {ENDPOINTS}: cold {cold:10.1?}   one endpoint {one:10.1?}");
    nft("delete table ip peer\n");
    (cold, one)
}

fn inside(services: u32, peer_services: u32) {
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    let mut results = vec![];
    for n in [100, 1000, services] {
        results.push((n, ours(n)));
    }
    let (few, many) = (results[0].1.1, results[2].1.1);
    println!("one endpoint at {services} over at 100: {:.2}", many.as_secs_f64() / few.as_secs_f64());
    if peer_services > 0 && Command::new("nft").arg("-v").output().is_ok() {
        let (cold, one) = peer(peer_services);
        let (our_cold, our_one) = ours(peer_services);
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        println!(
            "at {peer_services}: cold {:.0} times, one endpoint {:.0} times faster",
            ratio(cold, our_cold),
            ratio(one, our_one)
        );
    }
}

fn main() {
    let numbers: Vec<u32> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (services, peers) = (numbers.first().copied().unwrap_or(10_000), numbers.get(1).copied().unwrap_or(1000));
    if std::env::var_os("SKIFF_BENCH_INSIDE").is_some() {
        return inside(services, peers);
    }
    let flags = if rustix::process::geteuid().is_root() { "-n" } else { "-Urn" };
    let me = std::env::current_exe().expect("own path");
    let mut command = Command::new("unshare");
    command.arg(flags).arg(me).args([services.to_string(), peers.to_string()]).env("SKIFF_BENCH_INSIDE", "1");
    let done = command.status().is_ok_and(|s| s.success());
    if !done {
        println!("SKIPPED: no network namespaces here");
    }
}
