//! The real kernel, beyond where a first packet goes (`packets.rs`): what it reads back, who may change the rules, and what
//! becomes of flows when Services change, when the proxy ends, and when others meddle.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use common::{
    LOCAL, REMOTE,
    isolated::{isolated, sh},
    net::{Seen, World, attempt, pause, tally},
    ruleset, scenario,
};
use serde_json::json;
use skiff_nft::{Batch, Change, Error, Kernel, Netlink, Ownership};
use skiff_proxy::{
    conntrack::{Cleaned, Conntrack},
    sync::Syncer,
};
use skiff_services::{
    model::{Service, ServiceKey},
    snapshot::Snapshot,
};
use skiff_testkit::tools::skip;
use tokio::net::TcpSocket;

const LONG: Duration = Duration::from_secs(20);

fn load(snapshot: &Snapshot) -> Syncer<Netlink> {
    let mut syncer = Syncer::new(Netlink::open(Ownership::Exclusive).unwrap(), ruleset(snapshot));
    syncer.sync(&BTreeSet::new(), snapshot).unwrap();
    syncer
}

/// Brings one Service into force, with the clean-up of flows that belongs to it; how many flows that deleted.
fn apply(syncer: &mut Syncer<Netlink>, snapshot: &Snapshot, dirty: &BTreeSet<ServiceKey>) -> usize {
    let report = syncer.sync(dirty, snapshot).unwrap();
    let cleanup = report.cleanup.unwrap();
    cleanup.carry_out(&mut Conntrack::open().unwrap()).unwrap().deleted
}

fn cluster_ip(name: &str, ip: &str, protocol: &str, more: serde_json::Value) -> Service {
    let mut spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": protocol}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    common::service(name, spec, json!({}))
}

fn endpoint_of(seen: Seen) -> IpAddr {
    match seen {
        Seen::Answer { endpoint, .. } => endpoint,
        other => panic!("{other:?} instead of an answer"),
    }
}

/// Entries in this namespace's conntrack.
fn flows() -> usize {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap().trim().parse().unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LONG, "{what} does not come");
        pause(Duration::from_millis(5));
    }
}

#[test]
fn the_kernel_reads_back_what_was_written_and_nft_prints_it() {
    isolated("the_kernel_reads_back_what_was_written_and_nft_prints_it", || {
        let snapshot = scenario();
        let mut syncer = load(&snapshot);
        let want = syncer.rules().tables();
        for (id, table) in &want {
            let have = syncer.kernel().dump(id).unwrap().unwrap();
            for (name, set) in &table.sets {
                assert_eq!(have.sets.get(name), Some(set), "{id} {name}");
            }
            for (name, chain) in &table.chains {
                assert_eq!(have.chains.get(name), Some(chain), "{id} {name}");
            }
        }
        assert_eq!(syncer.full().unwrap(), 0, "nothing to repair");
        if Command::new("nft").arg("-v").output().is_err() {
            return skip("nft is not installed; its listing is not checked");
        }
        let listing = sh("nft list ruleset");
        for text in
            ["comment \"default/web\"", "comment \"default/echo\"", "comment \"default/six\"", "10.244.1.11 . 8080"]
        {
            assert!(listing.contains(text), "{text} is missing in\n{listing}");
        }
    });
}

#[test]
fn rules_outlive_their_owner_and_are_taken_over() {
    isolated("rules_outlive_their_owner_and_are_taken_over", || {
        let mut snapshot = scenario();
        let mut first = load(&snapshot);
        let ids = first.rules().table_refs();
        if !first.kernel().exclusive(&ids[0]).unwrap() {
            return skip("this kernel has no lasting table owners (6.9 has)");
        }
        sh("nft flush ruleset");
        assert_eq!(first.full().unwrap(), 0, "others cannot flush it");
        let mut rival = Netlink::open(Ownership::Exclusive).unwrap();
        let mut batch = Batch::default();
        batch.push(&ids[0], Change::DeleteTable);
        let refused = rival.commit(&batch).unwrap_err();
        assert!(matches!(refused, Error::Owned(_) | Error::Refused { .. } | Error::Denied(_)), "{refused}");

        drop(first);
        let key = snapshot.apply_slice(common::slice("self", "self-1", "TCP", 8080, &["10.244.0.12@a"]));
        let mut second = Syncer::new(Netlink::open(Ownership::Exclusive).unwrap(), ruleset(&snapshot));
        let report = second.sync(&key, &snapshot).unwrap();
        assert!(report.full && report.elements > 0 && report.elements < 12, "{report:?}");
        assert!(second.kernel().exclusive(&ids[0]).unwrap());
        assert_eq!(second.kernel().dump(&ids[0]).unwrap().as_ref(), second.rules().tables().get(&ids[0]));
    });
}

#[test]
fn a_flush_is_repaired_and_errors_name_the_element() {
    isolated("a_flush_is_repaired_and_errors_name_the_element", || {
        let snapshot = scenario();
        let mut syncer = Syncer::new(Netlink::open(Ownership::Shared).unwrap(), ruleset(&snapshot));
        syncer.sync(&BTreeSet::new(), &snapshot).unwrap();
        assert!(!syncer.check().unwrap());
        sh("nft flush ruleset");
        let started = Instant::now();
        assert!(syncer.check().unwrap());
        assert!(started.elapsed() < Duration::from_secs(1));
        let id = syncer.rules().table_refs()[0].clone();
        assert_eq!(syncer.kernel().dump(&id).unwrap().as_ref(), syncer.rules().tables().get(&id));

        let (key, mut value) = syncer.rules().tables()[&id].sets["endpoints"].elements.clone().pop_last().unwrap();
        value.data = skiff_nft::Data::Packed(skiff_nft::Packed::new().addr([192, 0, 2, 9].into()).port(1));
        let mut batch = Batch::default();
        let elements = vec![skiff_nft::Element { key, value }];
        batch.push(&id, Change::AddElements { set: "endpoints".into(), layout: skiff_nft::Layout::Exact, elements });
        let text = syncer.kernel().commit(&batch).unwrap_err().to_string();
        assert!(text.contains("ip skiff") && text.contains("endpoints") && text.contains("default/"), "{text}");
    });
}

#[test]
fn udp_flows_leave_an_endpoint_that_is_gone() {
    isolated("udp_flows_leave_an_endpoint_that_is_gone", || {
        let world = World::new();
        let mut snapshot = scenario();
        let mut syncer = load(&snapshot);
        let (socket, first) = world.run("out", || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket.connect("10.96.1.20:53").unwrap();
            let answer = ask(&socket);
            (socket, answer)
        });
        let other = if first == LOCAL[0] { LOCAL[1] } else { LOCAL[0] };
        let dirty = snapshot.apply_slice(common::slice("echo", "echo-1", "UDP", 8080, &[&format!("{other}@a")]));
        assert_eq!(apply(&mut syncer, &snapshot, &dirty), 1);
        assert_eq!(ask(&socket), other);

        let dirty = snapshot.apply_slice(common::slice("echo", "echo-1", "UDP", 8080, &[]));
        assert_eq!(apply(&mut syncer, &snapshot, &dirty), 1);
        let refused = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 64])).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn a_clean_up_is_told_of_the_flows_it_is_about_alone() {
    isolated("a_clean_up_is_told_of_the_flows_it_is_about_alone", || {
        let world = World::new();
        let mut snapshot = scenario();
        let mut syncer = load(&snapshot);
        // Others' flows, of both families and several protocols.
        world.run("p2", || {
            for to in ["10.244.1.11", "fd44:0:0:1::11"] {
                let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
                for port in 2000..2200 {
                    // Nobody listens there: the next send may bring the error of this one.
                    let _ = UdpSocket::bind(any).unwrap().send_to(b"?", (to, port));
                }
            }
        });
        let sockets = world.run("out", || {
            let open = |_| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(LONG)).unwrap();
                socket.connect("10.96.1.20:53").unwrap();
                socket
            };
            (0..20).map(open).collect::<Vec<_>>()
        });
        let leave = sockets.iter().filter(|s| ask(s) == LOCAL[0]).count();
        until("the others' flows", || flows() >= 420);

        let only = format!("{}@a", LOCAL[1]);
        let dirty = snapshot.apply_slice(common::slice("echo", "echo-1", "UDP", 8080, &[&only]));
        let cleanup = syncer.sync(&dirty, &snapshot).unwrap().cleanup.unwrap();
        let cleaned = cleanup.carry_out(&mut Conntrack::open().unwrap()).unwrap();
        assert_eq!(cleaned, Cleaned { seen: leave, deleted: leave }, "of {} flows", flows());
        assert!(sockets.iter().all(|s| ask(s) == LOCAL[1]));
    });
}

fn ask(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    socket.send(b"?").unwrap();
    let n = socket.recv(&mut buffer).unwrap();
    std::str::from_utf8(&buffer[..n]).unwrap().split(' ').next().unwrap().to_owned()
}

/// Nobody answers at this address until a Service has it: the first packets leave conntrack entries without translation,
/// which would hold for as long as the client tries again from the same port.
const LATER: &str = "203.0.114.9";

#[test]
fn connections_begun_before_their_service_are_not_lost() {
    isolated("connections_begun_before_their_service_are_not_lost", || {
        let world = World::new();
        world.run("out", || sh("ip route add blackhole 203.0.114.0/24"));
        let mut snapshot = scenario();
        let mut syncer = load(&snapshot);
        let to: SocketAddr = (LATER.parse::<IpAddr>().unwrap(), 80).into();

        let before = flows();
        let connecting = world.run("p2", move || {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.bind("10.244.0.12:5000".parse().unwrap()).unwrap();
                    tokio::time::timeout(LONG, socket.connect(to)).await.is_ok_and(|r| r.is_ok())
                })
            })
        });
        until("the first SYN", || flows() > before);
        let datagrams = world.run("p2", move || {
            let socket = UdpSocket::bind("10.244.0.12:5000").unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"too early").unwrap();
            socket
        });
        until("the first datagram", || flows() > before + 1);

        let mut dirty = BTreeSet::new();
        for (name, protocol) in [("later", "TCP"), ("later-udp", "UDP")] {
            let ip = if protocol == "TCP" { "10.96.1.50" } else { "10.96.1.51" };
            let service = cluster_ip(name, ip, protocol, json!({"externalIPs": [LATER]}));
            dirty.extend(snapshot.apply_service(service));
            dirty.extend(snapshot.apply_slice(common::slice(name, name, protocol, 8080, &[&format!("{REMOTE}@b")])));
        }
        assert_eq!(apply(&mut syncer, &snapshot, &dirty), 2, "the flows that began too early");
        assert_eq!(ask(&datagrams), REMOTE);
        assert!(connecting.join().unwrap(), "the client's next SYN finds the Service");
    });
}

/// A connection through a Service that lives over everything that happens to the rules.
struct Alive(TcpStream);

impl Alive {
    fn open(world: &World, from: &'static str, to: SocketAddr) -> Self {
        let mut stream = world.run(from, move || TcpStream::connect_timeout(&to, LONG).unwrap());
        stream.set_read_timeout(Some(LONG)).unwrap();
        while stream.read(&mut [0; 1]).map(|n| n == 0).unwrap() {}
        let mut alive = Alive(stream);
        alive.line();
        alive
    }

    /// The rest of the line that is under way.
    fn line(&mut self) -> String {
        let (mut line, mut byte) = (vec![], [0]);
        while byte != *b"\n" {
            self.0.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    fn check(&mut self, word: &str) {
        self.0.write_all(format!("{word}\n").as_bytes()).unwrap();
        assert_eq!(self.line(), format!("{word}\n"));
    }
}

fn connections(world: &World) -> Vec<Alive> {
    let to = |text: &str| text.parse().unwrap();
    vec![
        Alive::open(world, "p2", to("10.96.1.1:80")),
        Alive::open(world, "out", to("198.51.100.7:80")),
        Alive::open(world, "out", to("198.51.100.8:80")),
        Alive::open(world, "p1", to("10.96.1.13:80")),
        Alive::open(world, "a", to("10.96.1.6:80")),
    ]
}

fn sticky(world: &World, from: &'static str) -> IpAddr {
    world.run(from, || endpoint_of(attempt(6, None, "10.96.1.6:80".parse().unwrap(), LONG)))
}

#[test]
fn a_restart_drops_no_connection_and_keeps_affinity() {
    isolated("a_restart_drops_no_connection_and_keeps_affinity", || {
        let world = World::new();
        let mut snapshot = scenario();
        let mut syncer = load(&snapshot);
        let mut alive = connections(&world);
        let stays: Vec<IpAddr> = ["p1", "p2", "out"].map(|from| sticky(&world, from)).into();
        for round in 0..4 {
            drop(syncer);
            // While no proxy runs the rules serve on, and the cluster goes on changing.
            alive.iter_mut().for_each(|c| c.check("nobody is there"));
            world.run("p2", || endpoint_of(attempt(6, None, "10.96.1.1:80".parse().unwrap(), LONG)));
            let name = format!("new-{round}");
            snapshot.apply_service(cluster_ip(&name, &format!("10.96.4.{round}"), "TCP", json!({})));
            syncer = load(&snapshot);
            alive.iter_mut().for_each(|c| c.check("somebody is back"));
            let now: Vec<IpAddr> = ["p1", "p2", "out"].map(|from| sticky(&world, from)).into();
            assert_eq!(now, stays, "affinity outlives the proxy");
        }
        assert_eq!(syncer.full().unwrap(), 0);
    });
}

#[test]
fn meddling_cuts_no_connection_and_is_repaired() {
    isolated("meddling_cuts_no_connection_and_is_repaired", || {
        if Command::new("nft").arg("-v").output().is_err() {
            return skip("nft is not installed: nobody meddles");
        }
        let world = World::new();
        let snapshot = scenario();
        // Older kernels know no lasting owners: there anybody may do this.
        let mut syncer = Syncer::new(Netlink::open(Ownership::Shared).unwrap(), ruleset(&snapshot));
        syncer.sync(&BTreeSet::new(), &snapshot).unwrap();
        let mut alive = connections(&world);
        for line in [
            "nft flush ruleset",
            "nft delete table ip6 skiff",
            "nft flush chain ip skiff prerouting",
            "nft add rule ip skiff output tcp dport 80 drop",
            "nft flush map ip skiff services",
            "nft add chain ip skiff evil",
        ] {
            assert!(!syncer.check().unwrap(), "nothing to repair before: {line}");
            sh(line);
            // Where the last nat chain is gone the kernel translates nothing, not even what is under way: a packet of a
            // connection in that moment would end it.
            if !line.contains("ruleset") && !line.contains("delete") {
                alive.iter_mut().for_each(|c| c.check("meddled"));
            }
            let started = Instant::now();
            assert!(syncer.check().unwrap(), "{line}");
            assert!(started.elapsed() < Duration::from_secs(5), "{line}: {:?}", started.elapsed());
            alive.iter_mut().for_each(|c| c.check("repaired"));
            for id in syncer.rules().table_refs() {
                assert_eq!(syncer.kernel().dump(&id).unwrap().as_ref(), syncer.rules().tables().get(&id), "{line}");
            }
            world.run("p2", || endpoint_of(attempt(6, None, "10.96.1.1:80".parse().unwrap(), LONG)));
        }
    });
}

const CLIENTS: u8 = 60;
const AFFINITY: u64 = 3;

/// Every client's endpoint, each client being an address of the machine outside.
fn ask_all(world: &World, clients: impl Iterator<Item = u8> + Send + 'static) -> BTreeMap<u8, IpAddr> {
    world.run("out", move || {
        let ask = |n: u8| attempt(6, Some([192, 0, 3, n].into()), "10.96.5.1:80".parse().unwrap(), LONG);
        clients.map(|n| (n, endpoint_of(ask(n)))).collect()
    })
}

#[test]
fn affinity_is_refreshed_expires_and_ends_with_its_endpoint() {
    isolated("affinity_is_refreshed_expires_and_ends_with_its_endpoint", || {
        let world = World::new();
        world.run("out", || (1..=CLIENTS).for_each(|n| drop(sh(&format!("ip addr add 192.0.3.{n}/32 dev wire")))));
        sh("ip route add 192.0.3.0/24 via 192.0.2.100 dev wire");
        let mut snapshot = scenario();
        let more = json!({
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": AFFINITY}},
        });
        snapshot.apply_service(cluster_ip("short", "10.96.5.1", "TCP", more));
        let [one, two, far] = [LOCAL[0], LOCAL[1], REMOTE].map(|ip| format!("{ip}@a"));
        snapshot.apply_slice(common::slice("short", "short-1", "TCP", 8080, &[&one, &two, &far]));
        let mut syncer = load(&snapshot);

        // On a machine that stands still for seconds nothing can be said about timeouts: then it is tried again.
        let expired = (0..5).any(|_| refresh_and_expire(&world));
        assert!(expired, "five times the machine was too slow");

        let before = ask_all(&world, 1..=CLIENTS);
        let asked = Instant::now();
        let dirty = snapshot.apply_slice(common::slice("short", "short-1", "TCP", 8080, &[&one, &far]));
        syncer.sync(&dirty, &snapshot).unwrap();
        let after = ask_all(&world, 1..=CLIENTS);
        let timely = asked.elapsed() < Duration::from_secs(AFFINITY - 1);
        let gone: IpAddr = LOCAL[1].parse().unwrap();
        assert!(after.values().all(|e| *e != gone), "the endpoint is gone");
        let moved = before.iter().filter(|(n, e)| **e != gone && after[*n] != **e).count();
        assert!(moved == 0 || !timely, "{moved} clients of other endpoints had to move");
    });
}

/// Half of the clients come again and again, the others rest for longer than they are remembered. False when the machine
/// was too slow to tell.
fn refresh_and_expire(world: &World) -> bool {
    let half = CLIENTS / 2;
    let first = ask_all(world, 1..=CLIENTS);
    let endpoints: BTreeSet<IpAddr> = first.values().copied().collect();
    assert_eq!(endpoints.len(), 3, "sixty clients spread over three endpoints");
    let started = Instant::now();
    let mut last = started;
    while started.elapsed() < Duration::from_millis(AFFINITY * 1000 + 500) {
        pause(Duration::from_millis(300));
        let again = ask_all(world, 1..=half);
        if last.elapsed() > Duration::from_millis(AFFINITY * 1000 - 800) {
            return false;
        }
        last = Instant::now();
        assert!(again.iter().all(|(n, e)| first[n] == *e), "a client that comes in time stays");
    }
    let rested = ask_all(world, half + 1..=CLIENTS);
    // By chance alone all thirty would return once in 10^14 times.
    assert!(rested.iter().any(|(n, e)| first[n] != *e), "those who rested choose anew");
    true
}

/// Seven standard deviations: by chance once in a hundred thousand million runs.
#[test]
fn the_kernel_throws_fair_dice() {
    isolated("the_kernel_throws_fair_dice", || {
        let world = World::new();
        let mut snapshot = Snapshot::default();
        let mut syncer = load(&snapshot);
        for n in [3usize, 7, 10] {
            let ips: Vec<String> = (0..n).map(|i| format!("10.244.7.{}", i + 1)).collect();
            let endpoints: Vec<&str> = ips.iter().map(String::as_str).collect();
            // An address of its own: a port used again would find its old flow, and the endpoint of that.
            let (name, ip) = (format!("many-{n}"), format!("10.96.6.{n}"));
            snapshot.apply_service(cluster_ip(&name, &ip, "UDP", json!({})));
            let dirty = snapshot.apply_slice(common::slice(&name, &name, "UDP", 8080, &endpoints));
            syncer.sync(&dirty, &snapshot).unwrap();
            let rolls = 3000;
            // Everybody is one machine here; it answers under the address that was asked.
            let seen = everybody(&world, &ips, format!("{ip}:80").parse().unwrap(), rolls);
            let counts = tally(&seen);
            let (p, all) = (1.0 / n as f64, rolls as f64);
            let bound = 7.0 * (all * p * (1.0 - p)).sqrt();
            assert_eq!(counts.len(), n, "{counts:?}");
            let off = counts.values().map(|c| (*c as f64 - all * p).abs()).fold(0.0, f64::max);
            assert!(off < bound, "{n} endpoints: {off} off, {bound} is allowed: {counts:?}");
        }
    });
}

fn everybody(world: &World, ips: &[String], to: SocketAddr, rolls: usize) -> Vec<Seen> {
    let add: String = ips.iter().map(|ip| format!("ip addr replace {ip}/32 dev lo;")).collect();
    let servers = ips.to_vec();
    sh("ip route replace 10.244.7.0/24 dev vp1");
    world.run("p1", move || {
        sh(&add);
        for ip in servers {
            let Ok(socket) = UdpSocket::bind((ip.as_str(), 8080)) else { continue };
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{ip} {}\n", from.ip()).as_bytes(), from);
                }
            });
        }
    });
    world.run("p2", move || (0..rolls).map(|_| attempt(17, None, to, LONG)).collect())
}
