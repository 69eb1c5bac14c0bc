//! G9: how long a connection takes to begin, from one pod to another on the same node: without rules, tracked but not
//! translated, and through a ClusterIP. The last two take turns, so that the machine's moods meet both.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use kube::runtime::watcher::Event;
use serde_json::json;
use skiff_client::feed::Change;
use skiff_proxy::observe::Observed;

use crate::{
    cluster::{cluster_ip, slice},
    common::net::World,
    figures::{quantiles, tell},
    rules,
};

const CONNECTS: usize = 3000;
/// Two ports, so that no connection finds the other way's last one in TIME_WAIT: the client's fast retry after the server's
/// objection (two ticks) would be measured.
const DIRECT: &str = "10.244.0.11:9091";
const SERVER: &str = "10.244.0.11:9090";

fn connect(to: SocketAddr) -> Duration {
    let started = Instant::now();
    let connected = TcpStream::connect_timeout(&to, Duration::from_secs(20));
    connected.map(|_| started.elapsed()).expect("a connection")
}

pub(crate) fn run(services: u32) {
    let world = World::new();
    world.run("p1", || {
        for at in [SERVER, DIRECT] {
            let listener = TcpListener::bind(at).expect("a port");
            std::thread::spawn(move || listener.incoming().for_each(drop));
        }
    });
    let direct: SocketAddr = DIRECT.parse().expect("an address");
    let through = format!("{}:80", cluster_ip(0)).parse().expect("an address");
    let alone = world.run("p2", move || quantiles((0..CONNECTS).map(|_| connect(direct)).collect()));

    let mut observed: Observed = rules::observed(services);
    let mut here = slice(0, 1);
    here["ports"][0]["port"] = json!(9090);
    here["endpoints"] = json!([{"addresses": ["10.244.0.11"], "nodeName": "a", "conditions": {"ready": true}}]);
    observed.take(Change::Slice(Event::Apply(serde_json::from_value(here).expect("a slice"))));
    let rules = rules::load(&mut observed);
    let (tracked, through) = world.run("p2", move || {
        let pairs: Vec<_> = (0..CONNECTS).map(|_| (connect(direct), connect(through))).collect();
        let (tracked, through) = pairs.into_iter().unzip();
        (quantiles(tracked), quantiles(through))
    });
    drop(rules);
    println!(
        "connect beside {services:6} Services, median and p99: G9 direct {alone:.1?}   tracked {tracked:.1?}   through a ClusterIP \
         {through:.1?}, over tracked {:.2}",
        through.0.as_secs_f64() / tracked.0.as_secs_f64()
    );
    tell("connect", through.0);
}
