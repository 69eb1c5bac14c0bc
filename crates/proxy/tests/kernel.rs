//! The real kernel: the rules are loaded into a network namespace of the test's own and real connections are made between
//! namespaces. Each test runs itself again inside new namespaces, with a user namespace when it is not root.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

use common::{
    CASES, DNS_IP, From, LOCAL, NODE_IP, OUTSIDE, REMOTE,
    isolated::{isolated, sh},
    ruleset, scenario,
};
use skiff_nft::{
    Batch, Change, Error, Family, Kernel, Netlink, Ownership, TableRef,
    trace::{Fate, Origin, Packet, World, trace},
};
use skiff_proxy::{conntrack::Conntrack, sync::Syncer};
use skiff_services::snapshot::Snapshot;
use skiff_testkit::tools::skip;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
struct Host {
    jobs: mpsc::Sender<Job>,
    namespace: String,
}

impl Host {
    #[allow(unsafe_code)]
    fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: only this thread's network changes; descriptors stay shared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            tell.send(format!("/proc/{}/task/{tid}/ns/net", std::process::id())).unwrap();
            inbox.iter().for_each(|job| job());
        });
        Host { jobs, namespace: told.recv().unwrap() }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(tell.send(job())))).unwrap();
        told.recv_timeout(Duration::from_secs(30)).expect("the job ends")
    }

    fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }
}

/// Node a with two pods, node b behind a link with one, and a machine outside.
struct Cluster {
    hosts: HashMap<&'static str, Host>,
}

fn serve(tcp: TcpListener, udp: UdpSocket) {
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let (here, there) = (stream.local_addr().unwrap().ip(), stream.peer_addr().unwrap().ip());
            let _ = stream.write_all(format!("{here} {there}").as_bytes());
        }
    });
    let here = udp.local_addr().unwrap().ip();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{here} {}", from.ip()).as_bytes(), from);
        }
    });
}

impl Cluster {
    fn new() -> Self {
        sh(
            "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0",
        );
        sh(&format!("ip addr add {DNS_IP}/32 dev lo"));
        let mut cluster = Cluster { hosts: HashMap::new() };
        cluster.attach("p1", LOCAL[0], "10.244.0.1");
        cluster.attach("p2", LOCAL[1], "10.244.0.1");
        cluster.attach("r1", REMOTE, "10.244.1.1");
        cluster.attach("out", OUTSIDE, NODE_IP);
        sh(&format!("ip route add default via {OUTSIDE} dev vout onlink src {NODE_IP}"));
        for pod in ["p1", "p2", "r1"] {
            let ip: IpAddr = match pod {
                "p1" => LOCAL[0],
                "p2" => LOCAL[1],
                _ => REMOTE,
            }
            .parse()
            .unwrap();
            cluster.hosts[pod].run(move || {
                serve(TcpListener::bind((ip, 8080)).unwrap(), UdpSocket::bind((ip, 5353)).unwrap());
            });
        }
        cluster
    }

    /// Everybody by a link of its own, routed: answers must come back through the node.
    fn attach(&mut self, name: &'static str, ip: &str, gateway: &str) {
        let host = Host::new();
        sh(&format!("ip link add v{name} type veth peer name e{name} netns {}", host.namespace));
        sh(&format!("ip addr add {gateway}/32 dev v{name}; ip link set v{name} up; ip route add {ip} dev v{name}"));
        host.sh(&format!(
            "ip link set lo up; ip addr add {ip}/32 dev e{name}; ip link set e{name} up; \
             ip route add {gateway} dev e{name}; ip route add default via {gateway} dev e{name}"
        ));
        self.hosts.insert(name, host);
    }

    fn from<T: Send + 'static>(&self, from: From, job: impl FnOnce() -> T + Send + 'static) -> T {
        match from {
            From::Pod => self.hosts["p1"].run(job),
            From::Outside => self.hosts["out"].run(job),
            From::Node => job(),
        }
    }
}

/// What came of one try, in the words of the trace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Refused,
    Silence,
    Answer { endpoint: IpAddr, client: IpAddr },
}

fn try_once(proto: u8, to: SocketAddr) -> Seen {
    if proto == 6 { try_tcp(to) } else { try_udp(to) }
}

fn parse(answer: &str) -> Seen {
    let (endpoint, client) = answer.split_once(' ').unwrap();
    Seen::Answer { endpoint: endpoint.parse().unwrap(), client: client.parse().unwrap() }
}

fn try_tcp(to: SocketAddr) -> Seen {
    match TcpStream::connect_timeout(&to, Duration::from_millis(700)) {
        Ok(mut stream) => {
            let mut text = String::new();
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            stream.read_to_string(&mut text).unwrap();
            parse(&text)
        }
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Seen::Refused,
        Err(_) => Seen::Silence,
    }
}

fn try_udp(to: SocketAddr) -> Seen {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut buffer = [0; 64];
    match socket.connect(to).and_then(|()| socket.send(b"?")).and_then(|_| socket.recv(&mut buffer)) {
        Ok(n) => parse(std::str::from_utf8(&buffer[..n]).unwrap()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Seen::Refused,
        Err(_) => Seen::Silence,
    }
}

fn load(snapshot: &Snapshot) -> Syncer<Netlink> {
    let mut syncer = Syncer::new(Netlink::open(Ownership::Exclusive).unwrap(), ruleset(snapshot));
    syncer.sync(&BTreeSet::new(), snapshot).unwrap();
    syncer
}

#[test]
fn connections_go_where_the_trace_says() {
    isolated("connections_go_where_the_trace_says", || {
        let cluster = Cluster::new();
        let snapshot = scenario();
        let syncer = load(&snapshot);
        let table = syncer.rules().tables()[&TableRef::new(Family::Ip, "skiff")].clone();
        let world = World { local: vec![NODE_IP.parse().unwrap(), DNS_IP.parse().unwrap()], ..World::default() };
        let mut wrong = vec![];
        for (from, text, want) in CASES {
            let words: Vec<&str> = text.split(' ').collect();
            let (proto, to) = (
                if words[0] == "tcp" { 6 } else { 17 },
                SocketAddr::new(words[1].parse().unwrap(), words[2].parse().unwrap()),
            );
            if *want == "untouched" || words[0] == "icmp" {
                continue;
            }
            let (origin, saddr) = match from {
                From::Pod => (Origin::Outside, LOCAL[0]),
                From::Outside => (Origin::Outside, OUTSIDE),
                From::Node => (Origin::Node, NODE_IP),
            };
            let packet = Packet { origin, saddr: saddr.parse().unwrap(), daddr: to.ip(), proto, dport: to.port() };
            let outcome = trace(&table, &world, packet);
            let rounds = if outcome.endpoints().is_empty() { 1 } else { 24 };
            let seen: BTreeSet<Seen> = cluster.from(*from, move || (0..rounds).map(|_| try_once(proto, to)).collect());
            if !agrees(&outcome.fates, &seen, packet.saddr, *text == "tcp 10.96.1.6 80") {
                wrong.push(format!("{from:?} {text}: {seen:?}, the trace says {:?}", outcome.fates));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

fn agrees(fates: &BTreeMap<Fate, f64>, seen: &BTreeSet<Seen>, client: IpAddr, sticky: bool) -> bool {
    let explains = |fate: &Fate, seen: &Seen| match (fate, seen) {
        (Fate::Reset | Fate::Unreachable, Seen::Refused) | (Fate::Drop, Seen::Silence) => true,
        (Fate::To { endpoint, masqueraded }, Seen::Answer { endpoint: e, client: c }) => {
            endpoint.ip() == *e
                && (*masqueraded || *c == client)
                && (client.to_string() == NODE_IP || *masqueraded == (*c != client))
        }
        _ => false,
    };
    let all_explained = seen.iter().all(|s| fates.keys().any(|f| explains(f, s)));
    let endpoints: BTreeSet<_> =
        seen.iter().filter_map(|s| if let Seen::Answer { endpoint, .. } = s { Some(endpoint) } else { None }).collect();
    let reachable = fates.keys().filter(|f| matches!(f, Fate::To { .. })).count();
    // One client of a sticky Service sees one endpoint; otherwise 24 tries at 3 endpoints miss one once in 5,000 times.
    all_explained && if sticky { endpoints.len() == 1 } else { endpoints.len() == reachable }
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
        let cluster = Cluster::new();
        let mut snapshot = scenario();
        let mut syncer = load(&snapshot);
        let mut conntrack = Conntrack::open().unwrap();
        let (socket, first) = cluster.from(From::Outside, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect("10.96.1.20:53").unwrap();
            let answer = ask(&socket);
            (socket, answer)
        });
        let other = if first == LOCAL[0] { LOCAL[1] } else { LOCAL[0] };
        let dirty = snapshot.apply_slice(common::slice("echo", "echo-1", "UDP", 5353, &[&format!("{other}@a")]));
        let report = syncer.sync(&dirty, &snapshot).unwrap();
        assert_eq!(clean(&mut conntrack, &report.cleanup.unwrap()), 1);
        let (socket, second) = cluster.from(From::Outside, move || {
            let answer = ask(&socket);
            (socket, answer)
        });
        assert_eq!(second, other);

        let dirty = snapshot.apply_slice(common::slice("echo", "echo-1", "UDP", 5353, &[]));
        let report = syncer.sync(&dirty, &snapshot).unwrap();
        assert_eq!(clean(&mut conntrack, &report.cleanup.unwrap()), 1);
        let refused = cluster.from(From::Outside, move || {
            let sent = socket.send(b"?").and_then(|_| socket.recv(&mut [0; 64]));
            sent.map_err(|e| e.kind())
        });
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    });
}

fn ask(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    socket.send(b"?").unwrap();
    let n = socket.recv(&mut buffer).unwrap();
    std::str::from_utf8(&buffer[..n]).unwrap().split(' ').next().unwrap().to_owned()
}

fn clean(conntrack: &mut Conntrack, cleanup: &skiff_proxy::conntrack::Cleanup) -> usize {
    conntrack.clean(|flow| cleanup.condemns(flow)).unwrap()
}
