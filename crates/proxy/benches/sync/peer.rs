//! kube-proxy's shape: a chain and an anonymous map per Service, a chain per endpoint, carried by `nft -f`.

use std::{
    fmt::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cluster::{ENDPOINTS, cluster_ip, endpoint_ip},
    figures::{quantiles, tell},
};

pub(crate) fn is_there() -> bool {
    Command::new("nft").arg("-v").output().is_ok()
}

fn nft(text: &str) -> Duration {
    let started = Instant::now();
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), text.as_bytes()).expect("nft reads");
    assert!(child.wait().expect("nft").success());
    started.elapsed()
}

fn service(out: &mut String, n: u32, version: u32) {
    let _ = writeln!(out, "add chain ip peer service-{n}");
    for e in 0..ENDPOINTS {
        let to = endpoint_ip(n, e, version);
        let _ = writeln!(out, "add chain ip peer endpoint-{n}-{e}");
        let _ = writeln!(out, "flush chain ip peer endpoint-{n}-{e}");
        let _ = writeln!(out, "add rule ip peer endpoint-{n}-{e} meta l4proto tcp dnat to {to}:8080");
    }
    let map: Vec<String> = (0..ENDPOINTS).map(|e| format!("{e} : goto endpoint-{n}-{e}")).collect();
    let _ = writeln!(out, "flush chain ip peer service-{n}");
    let _ = writeln!(out, "add rule ip peer service-{n} numgen random mod {ENDPOINTS} vmap {{ {} }}", map.join(", "));
}

pub(crate) fn run(services: u32) {
    let mut text = String::from(
        "add table ip peer\nadd map ip peer services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         add chain ip peer pre { type nat hook prerouting priority -100; }\n\
         add rule ip peer pre ip daddr . meta l4proto . th dport vmap @services\n",
    );
    for n in 0..services {
        service(&mut text, n, 0);
        let _ = writeln!(text, "add element ip peer services {{ {} . tcp . 80 : goto service-{n} }}", cluster_ip(n));
    }
    let cold = nft(&text);
    let change = |round: u32| {
        let mut text = String::new();
        service(&mut text, round * 79 % services, 1 + round % 2);
        nft(&text)
    };
    let (one, slow) = quantiles((0..9).map(change).collect());
    println!("kube-proxy's shape {services:6} x {ENDPOINTS}: cold {cold:.1?}   one endpoint {one:.1?}, p99 {slow:.1?}");
    tell("peer-cold", cold);
    tell("peer-one", one);
}
