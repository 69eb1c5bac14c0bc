//! The whole proxy beside an API server: a cold start with everything that belongs to it, an event until its rule is in
//! the kernel, and G12: an endpoint that is gone until the last packet to it, of new TCP connections and of a UDP flow.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_client::{
    in_process::Clients,
    life::{Stop, readiness},
};
use skiff_nft::{Kernel, Netlink, Ownership};
use skiff_proxy::Config;

use crate::{
    api::Api,
    cluster::{self, ENDPOINTS, cluster_ip},
    common::{
        NODE_IP,
        net::{World, pause},
    },
    figures::{forget_peak, processor, quantiles, status_mb, tell},
};

const ROUNDS: usize = 20;
const EVENTS: usize = 100;
const GONE: &str = "10.244.0.11";
const STAYS: &str = "10.244.1.11";
const PORT: u16 = 9090;
/// Traffic flows for this long before the endpoint goes, and is watched for this long afterwards.
const BEFORE: Duration = Duration::from_millis(20);
const AFTER: Duration = Duration::from_millis(150);

/// Service 0 has both protocols and real endpoints.
fn first(version: u32, endpoints: &[&str]) -> (Value, Value) {
    let (mut service, mut slice) = (cluster::service(0), cluster::slice(0, version));
    service["spec"]["ports"] =
        json!([{"name": "t", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 80, "protocol": "UDP"}]);
    slice["ports"] =
        json!([{"name": "t", "port": PORT, "protocol": "TCP"}, {"name": "u", "port": PORT, "protocol": "UDP"}]);
    let endpoint = |ip: &&str| json!({"addresses": [ip], "conditions": {"ready": true, "serving": true}});
    slice["endpoints"] = endpoints.iter().map(endpoint).collect();
    (service, slice)
}

struct Proxy {
    stop: Stop,
    thread: std::thread::JoinHandle<()>,
}

impl Proxy {
    /// Returns when it is ready: the rules are in the kernel.
    fn start(api: &Api) -> Self {
        let (api, stop) = (api.clone(), Stop::new());
        let (until, (tell, told)) = (stop.clone(), mpsc::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let clients = Clients::new(tokio::runtime::Handle::current(), move |r| api.clone().answer(r));
                let client = clients.as_identity(Identity::component("system:kube-proxy"));
                let (ready, readiness) = readiness();
                let config = Config {
                    node_name: "a".into(),
                    node_ips: NODE_IP.parse().into_iter().collect(),
                    cluster_cidrs: "10.244.0.0/16".parse().into_iter().collect(),
                    service_cidrs: "10.96.0.0/12".parse().into_iter().collect(),
                    table: "skiff".into(),
                    ..Config::default()
                };
                let proxy = tokio::spawn(skiff_proxy::run(config, client, ready, until));
                assert!(readiness.wait().await, "the proxy starts");
                tell.send(()).expect("somebody waits");
                proxy.await.expect("no panic").expect("no failure");
            });
        });
        told.recv().expect("the proxy is ready");
        Proxy { stop, thread }
    }

    fn end(self) {
        self.stop.cancel();
        self.thread.join().expect("the proxy ends");
    }
}

/// Waits for the next transaction of anybody.
fn commit_after(kernel: &mut Netlink, before: u32) {
    let started = Instant::now();
    while kernel.generation().expect("a generation") == before {
        assert!(started.elapsed() < Duration::from_secs(30), "no transaction comes");
        std::hint::spin_loop();
    }
}

pub(crate) fn run(services: u32) {
    let world = World::new();
    let api = Api::new(services, first(0, &[GONE, STAYS]));
    let before = status_mb("VmRSS:");
    forget_peak();
    let (started, used) = (Instant::now(), processor());
    let proxy = Proxy::start(&api);
    let (cold, peak) = (started.elapsed(), status_mb("VmHWM:"));
    let [user, system] = processor();
    while !api.is_watched() {
        pause(Duration::from_millis(1));
    }
    println!(
        "whole proxy {services:6} x {ENDPOINTS}: lists read and rules in the kernel {cold:.1?} (processor with the server's: user \
         {:.0?}, system {:.0?}); memory {before:.0} MB before, {peak:.0} MB at most",
        user - used[0],
        system - used[1],
    );
    tell("whole", cold);
    events(&api, services);
    gone(&world, &api);
    proxy.end();
}

/// From an event's bytes to the transaction, with everything on the way.
fn events(api: &Api, services: u32) {
    let mut kernel = Netlink::open(Ownership::Shared).expect("nftables");
    let mut times = vec![];
    let used = processor();
    for round in 0..EVENTS as u32 {
        let n = 1 + round * 7919 % (services - 1);
        let (slice, generation) = (cluster::slice(n, 2 + round), kernel.generation().expect("a generation"));
        let started = Instant::now();
        api.tell(&slice);
        commit_after(&mut kernel, generation);
        times.push(started.elapsed());
    }
    let (median, slow) = quantiles(times);
    let [user, system] = processor();
    println!(
        "{:18} G8 an event's bytes until its rule is in force {median:.1?}, p99 {slow:.1?} (user {:.0?}, system {:.0?} for {EVENTS}, \
         most of it waiting)",
        "",
        user - used[0],
        system - used[1]
    );
    tell("event", median);
}

/// When the endpoint that goes was last heard at, in nanoseconds since a common moment.
#[derive(Clone)]
struct Heard {
    since: Instant,
    tcp: Arc<AtomicU64>,
    udp: Arc<AtomicU64>,
}

impl Heard {
    fn now(&self) -> u64 {
        self.since.elapsed().as_nanos() as u64
    }
}

fn answer(ip: &'static str, heard: Heard) {
    let tcp = TcpListener::bind((ip, PORT)).expect("a port");
    let udp = UdpSocket::bind((ip, PORT)).expect("a port");
    let h = heard.clone();
    std::thread::spawn(move || tcp.incoming().for_each(|_| h.tcp.store(h.now(), Relaxed)));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            heard.udp.store(heard.now(), Relaxed);
            let _ = udp.send_to(ip.as_bytes(), from);
        }
    });
}

/// A flow that has come to the endpoint that will go.
fn flow(to: SocketAddr) -> UdpSocket {
    for _ in 0..200 {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        socket.connect(to).expect("a way");
        let mut buffer = [0; 64];
        let answered = socket.send(b"?").and_then(|_| socket.recv(&mut buffer));
        if answered.is_ok_and(|n| buffer[..n] == *GONE.as_bytes()) {
            return socket;
        }
    }
    panic!("no flow comes to {GONE}");
}

/// New connections one after the other, and a packet of the flow beside each.
fn traffic(to: SocketAddr, go_on: &AtomicBool, flows: &AtomicBool) {
    let socket = flow(to);
    flows.store(true, Relaxed);
    while go_on.load(Relaxed) {
        let _ = TcpStream::connect_timeout(&to, Duration::from_millis(100));
        let _ = socket.send(b"?");
    }
}

fn gone(world: &World, api: &Api) {
    let heard = Heard { since: Instant::now(), tcp: Arc::default(), udp: Arc::default() };
    let other = Heard { tcp: Arc::default(), udp: Arc::default(), ..heard.clone() };
    let gone = heard.clone();
    world.run("p1", move || answer(GONE, gone));
    world.run("r1", move || answer(STAYS, other));
    let to: SocketAddr = format!("{}:80", cluster_ip(0)).parse().expect("an address");
    let mut kernel = Netlink::open(Ownership::Shared).expect("nftables");
    let (mut tcp, mut udp) = (vec![], vec![]);
    for round in 0..ROUNDS as u32 {
        let go_on = Arc::new(AtomicBool::new(true));
        let flows = Arc::new(AtomicBool::new(false));
        let (flag, begun) = (go_on.clone(), flows.clone());
        let client = world.run("p2", move || std::thread::spawn(move || traffic(to, &flag, &begun)));
        while !flows.load(Relaxed) && !client.is_finished() {
            pause(Duration::from_millis(1));
        }
        pause(BEFORE);
        let asked = heard.now();
        api.tell(&first(1000 + round * 2, &[STAYS]).1);
        pause(AFTER);
        go_on.store(false, Relaxed);
        client.join().expect("traffic");
        let late = |last: &AtomicU64| Duration::from_nanos(last.load(Relaxed).saturating_sub(asked));
        tcp.push(late(&heard.tcp));
        udp.push(late(&heard.udp));
        let generation = kernel.generation().expect("a generation");
        api.tell(&first(1001 + round * 2, &[GONE, STAYS]).1);
        commit_after(&mut kernel, generation);
    }
    let (tcp, udp) = (quantiles(tcp), quantiles(udp));
    println!(
        "{:18} G12 endpoint gone until the last packet to it: new TCP connections {:.1?}, at most {:.1?}; a UDP flow {:.1?}, at \
         most {:.1?}",
        "", tcp.0, tcp.1, udp.0, udp.1
    );
    tell("gone", tcp.0.max(udp.0));
}

/// The machine's load, which tells how far to trust the rest.
pub(crate) fn machine() {
    println!("load {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}
