//! A small world of network namespaces: node a (the test's own) with the pods p1 and p2, node b with r1, and a machine
//! outside, on one wire; IPv4 and IPv6. Pods answer on port 8080, TCP and UDP, who they are and whom they see.

use std::{
    collections::{BTreeMap, HashMap},
    io::{ErrorKind, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, sockopt};
use tokio::{io::AsyncReadExt, net::TcpSocket, time::timeout};

use super::{isolated::sh, table::host};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own. Threads that it starts live there too.
pub struct Host {
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

    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(tell.send(job())))).unwrap();
        told.recv_timeout(Duration::from_secs(120)).expect("the job ends")
    }

    pub fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }
}

pub struct World {
    hosts: HashMap<&'static str, Host>,
}

/// Routed, nothing filtered by reverse path, no redirects: packets go the way that the routes say. Errors are not
/// rationed, for there are many within a second.
const SYSCTLS: &str = "for f in ipv4/ip_forward=1 ipv6/conf/all/forwarding=1 ipv4/conf/all/send_redirects=0 \
    ipv4/conf/default/send_redirects=0 ipv4/conf/all/accept_redirects=0 ipv4/conf/default/accept_redirects=0 \
    ipv6/conf/all/accept_redirects=0 ipv6/conf/default/accept_redirects=0 ipv6/conf/default/accept_dad=0 \
    ipv6/conf/all/accept_dad=0 ipv4/conf/all/rp_filter=0 ipv4/conf/default/rp_filter=0 \
    ; do echo ${f#*=} > /proc/sys/net/${f%=*} || exit 1; done; ip link set lo up; \
    for f in ipv4/icmp_ratelimit ipv6/icmp/ratelimit; do echo 0 > /proc/sys/net/$f || true; done";

impl World {
    pub fn new() -> Self {
        sh(SYSCTLS);
        let mut world = World { hosts: HashMap::new() };
        for name in ["wire", "b", "out", "p1", "p2", "r1"] {
            let new = Host::new();
            new.sh(SYSCTLS);
            world.hosts.insert(name, new);
        }
        world.hosts["wire"].sh("ip link add br0 type bridge; ip link set br0 up; \
             if [ -e /proc/sys/net/bridge ]; then echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables; \
             echo 0 > /proc/sys/net/bridge/bridge-nf-call-ip6tables; fi");
        world.on_wire("a", &["a", "a2"]);
        world.on_wire("b", &["b"]);
        world.on_wire("out", &["out", "out2"]);
        world.pod("p1", "a", 0);
        world.pod("p2", "a", 0);
        world.pod("r1", "b", 1);
        world.routes();
        world
    }

    fn sh(&self, name: &str, line: &str) -> String {
        if name == "a" { sh(line) } else { self.hosts[name].sh(line) }
    }

    pub fn run<T: Send + 'static>(&self, name: &str, job: impl FnOnce() -> T + Send + 'static) -> T {
        if name == "a" { job() } else { self.hosts[name].run(job) }
    }

    fn on_wire(&self, name: &str, addresses: &[&str]) {
        let wire = &self.hosts["wire"].namespace;
        self.sh(name, &format!("ip link add wire type veth peer name v{name} netns {wire}; ip link set wire up"));
        self.hosts["wire"].sh(&format!("ip link set v{name} master br0; ip link set v{name} up"));
        for address in addresses {
            let (v4, v6) = (host(address, false), host(address, true));
            self.sh(name, &format!("ip addr add {v4}/24 dev wire; ip addr add {v6}/64 dev wire nodad"));
        }
    }

    /// By a link of its own, routed: answers must come back through the node.
    fn pod(&self, name: &'static str, node: &str, range: u8) {
        let (v4, v6) = (host(name, false), host(name, true));
        let (gate4, gate6) = (format!("10.244.{range}.1"), format!("fd44:0:0:{range}::1"));
        let there = &self.hosts[name].namespace;
        self.sh(
            node,
            &format!(
                "ip link add v{name} type veth peer name e0 netns {there}; ip addr add {gate4}/32 dev v{name}; \
                 ip addr add {gate6}/128 dev v{name} nodad; ip link set v{name} up; ip route add {v4} dev v{name}; \
                 ip route add {v6} dev v{name}"
            ),
        );
        self.hosts[name].sh(&format!(
            "ip addr add {v4}/32 dev e0; ip addr add {v6}/128 dev e0 nodad; ip link set e0 up; \
             ip route add {gate4} dev e0; ip route add default via {gate4} dev e0; \
             ip route add {gate6} dev e0; ip route add default via {gate6} dev e0"
        ));
        self.hosts[name].run(move || [v4, v6].into_iter().for_each(serve));
    }

    fn routes(&self) {
        let at = |name: &str, ipv6| host(name, ipv6).to_string();
        let line = |nets: &[&str], via: String| {
            nets.iter().map(|net| format!("ip route add {net} via {via} dev wire;")).collect::<String>()
        };
        for (ipv6, far, near) in [(false, "10.244.1.0/24", "10.244.0.0/24"), (true, "fd44:0:0:1::/64", "fd44::/64")] {
            let default =
                |me: &str| format!("ip route add default via {} dev wire src {}", at("out", ipv6), at(me, ipv6));
            let default = |me: &str| if ipv6 { default(me).replace("ip route", "ip -6 route") } else { default(me) };
            self.sh("a", &(line(&[far], at("b", ipv6)) + &default("a")));
            self.sh("b", &(line(&[near], at("a", ipv6)) + &default("b")));
        }
        self.sh("out", &line(&["10.96.0.0/12", "10.200.0.0/16", "198.51.100.0/24", "203.0.113.0/24"], at("a", false)));
        self.sh("out", &line(&["fd96::/64", "fd97::/64", "2001:db8:51::/64", "2001:db8:113::/64"], at("a", true)));
        for node in ["a", "b"] {
            let (v4, v6) = (host("dns", false), host("dns", true));
            self.sh(node, &format!("ip addr add {v4}/32 dev lo; ip addr add {v6}/128 dev lo nodad"));
        }
    }
}

fn serve(ip: IpAddr) {
    let tcp = TcpListener::bind((ip, 8080)).unwrap();
    let udp = UdpSocket::bind((ip, 8080)).unwrap();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            std::thread::spawn(move || {
                let there = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{ip} {there}\n").as_bytes());
                // Whoever wants more gets back what he sends, until he goes.
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{ip} {}\n", from.ip()).as_bytes(), from);
        }
    });
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    Refused,
    Silence,
    /// An answer to ping.
    Echo,
    Answer {
        endpoint: IpAddr,
        client: IpAddr,
    },
}

/// One connection (or datagram) from a new port; `patience` is for those that are expected to meet silence.
pub fn attempt(proto: u8, from: Option<IpAddr>, to: SocketAddr, patience: Duration) -> Seen {
    let result = match proto {
        6 => tcp(from, to, patience).map(|text| parse(&text)),
        17 => udp(from, to, patience).map(|text| parse(&text)),
        _ => raw_packet(proto, to, patience),
    };
    match result {
        Ok(seen) => seen,
        // On the node that refuses, sending itself fails (EPERM) before the ICMP error is looked at.
        Err(e) if REFUSALS.contains(&e.kind()) => Seen::Refused,
        Err(_) => Seen::Silence,
    }
}

const REFUSALS: [ErrorKind; 3] =
    [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset, ErrorKind::PermissionDenied];

fn parse(answer: &str) -> Seen {
    let (endpoint, client) = answer.trim().split_once(' ').unwrap();
    Seen::Answer { endpoint: endpoint.parse().unwrap(), client: client.parse().unwrap() }
}

fn tcp(from: Option<IpAddr>, to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask = async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(from) = from {
            socket.bind((from, 0).into())?;
        }
        let mut stream = timeout(patience, socket.connect(to)).await??;
        let mut text = vec![];
        while !text.ends_with(b"\n") {
            if timeout(Duration::from_secs(10), stream.read_buf(&mut text)).await?? == 0 {
                break;
            }
        }
        Ok(String::from_utf8(text).unwrap())
    };
    runtime.block_on(ask)
}

fn udp(from: Option<IpAddr>, to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    let mut buffer = [0; 128];
    socket.send(b"?")?;
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

pub const SCTP: u8 = 132;
const ICMP: u8 = 1;

pub fn raw(proto: u8, ipv6: bool) -> std::io::Result<OwnedFd> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let proto = std::num::NonZero::new(u32::from(proto)).map(Protocol::from_raw);
    Ok(rustix::net::socket(family, SocketType::RAW, proto)?)
}

/// An SCTP association's first packet, or a ping, which have no sockets of their own everywhere.
fn raw_packet(proto: u8, to: SocketAddr, patience: Duration) -> std::io::Result<Seen> {
    let (ping, ipv6) = (proto != SCTP, to.is_ipv6());
    let socket = raw(proto, ipv6)?;
    rustix::net::connect(&socket, &SocketAddr::new(to.ip(), 0))?;
    rustix::net::send(&socket, &if ping { echo(proto) } else { init(7100, to.port()) }, SendFlags::empty())?;
    let until = Instant::now() + patience;
    let mut buffer = [0; 256];
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(left))?;
        let (n, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        // IPv4 comes with its header; a ping to oneself is seen on its way out too.
        let kind = buffer[..n].get(if ipv6 { 0 } else { 20 });
        if ping && kind == Some(if ipv6 { &129 } else { &0 }) {
            return Ok(Seen::Echo);
        }
    }
    Ok(Seen::Silence)
}

/// For ICMPv6 the kernel puts in the checksum.
fn echo(proto: u8) -> Vec<u8> {
    let kind = if proto == ICMP { 8 } else { 128 };
    let sum = !(u32::from(kind) << 8) as u16;
    let [high, low] = if proto == ICMP { sum.to_be_bytes() } else { [0, 0] };
    vec![kind, 0, high, low, 0, 0, 0, 0]
}

pub fn init(sport: u16, dport: u16) -> Vec<u8> {
    let mut packet = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// How often each endpoint answered.
pub fn tally(seen: &[Seen]) -> BTreeMap<Seen, usize> {
    let mut counts = BTreeMap::new();
    seen.iter().for_each(|s| *counts.entry(*s).or_default() += 1);
    counts
}

/// Between two looks at the kernel, which tells nobody, and where the passing of time itself is tested.
#[expect(clippy::disallowed_methods, reason = "no event to wait for, and no runtime to stall")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
