//! The pod network on the real kernel, in a network namespace of the test's own. Needs root.
#![allow(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use skiff_node::{
    hostports::{HostPort, HostPorts, Published, Surroundings},
    network::{Attachment, Network},
};
use skiff_testkit::tools;

fn privileged() -> bool {
    if !tools::is_root() {
        tools::skip("network namespaces need root");
    }
    tools::is_root()
}

/// On a thread of its own, in a fresh network namespace.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread, made for this, changes its namespace.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            test();
        });
        thread.join().unwrap();
    });
}

/// Runs in a pod's namespace, on a thread of its own.
fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = std::fs::File::open(netns).unwrap();
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A word from pod to pod over each family; the addresses that the client has in the server's eyes.
fn talk(from: &Attachment, to: &Attachment) -> Vec<IpAddr> {
    to.ips().iter().map(|ip| talk_to(from, to, ip)).collect()
}

fn talk_to(from: &Attachment, to: &Attachment, ip: IpAddr) -> IpAddr {
    let listener = inside(&to.netns, || TcpListener::bind((ip, 80)).unwrap());
    let mut client =
        inside(&from.netns, || TcpStream::connect_timeout(&(ip, 80).into(), Duration::from_secs(5)).unwrap());
    let (mut server, peer) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    peer.ip()
}

/// Whatever happens, no mount stays behind.
struct Clean<'a>(&'a Path);

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn links() -> usize {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().filter(|l| l.contains("skiff")).count()
}

#[test]
fn pods_reach_each_other_and_leave_nothing() {
    if !privileged() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("netns");
    let _clean = Clean(&directory);
    in_namespace(|| {
        // Where the kernel has IPv6, both families.
        let second = Path::new("/proc/sys/net/ipv6").exists().then(|| "fd00:7::/64".parse().unwrap());
        let open = |kept: &[(String, Attachment)]| {
            Network::open(directory.clone(), "10.244.7.0/24".parse().unwrap(), second, kept).unwrap()
        };
        let all_of = |a: &Attachment| a.ips().iter().collect::<Vec<_>>();
        let network = open(&[]);
        network.fill().unwrap();
        let begun = Instant::now();
        let a = network.attach("a").unwrap();
        let b = network.attach("b").unwrap();
        eprintln!("two pods attached in {:?}", begun.elapsed());
        assert_eq!((a.ip.to_string(), b.ip.to_string()), ("10.244.7.2".into(), "10.244.7.3".into()));
        assert_eq!(b.second_ip.map(|ip| ip.to_string()), second.map(|_| "fd00:7::3".into()));
        assert_eq!(talk(&a, &b), all_of(&a));
        // Itself by its own address, and the node reaches the pod.
        assert_eq!(talk(&a, &a), all_of(&a));
        for (ip, gateway) in b.ips().iter().zip(network.gateways().iter()) {
            let listener = inside(&b.netns, || TcpListener::bind((ip, 81)).unwrap());
            TcpStream::connect_timeout(&(ip, 81).into(), Duration::from_secs(5)).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), gateway);
        }

        // The next agent: a still runs, b's record is lost.
        drop(network);
        let network = open(&[("a".into(), a.clone())]);
        assert!(!b.netns.exists());
        let c = network.attach("c").unwrap();
        assert!(all_of(&c).iter().all(|ip| !all_of(&a).contains(ip)));
        assert_eq!(talk(&a, &c), all_of(&a));
        network.detach("a", &a).unwrap();
        network.detach("a", &a).unwrap();
        network.detach("c", &c).unwrap();
        network.close();
        assert_eq!(links(), 1, "only the bridge is left");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    });
}

const NODE: &str = "172.30.0.11";
const TCP: u8 = 6;
const UDP: u8 = 17;

fn host_port(pod: &Attachment, ip: Option<&str>, protocol: u8, port: u16, to: u16) -> Published {
    let ip = ip.map(|ip| ip.parse().unwrap());
    Published { pod: "d/pod".into(), ip: pod.ip, ports: vec![HostPort { ip, protocol, port, to }] }
}

/// Connects from an address of this namespace; who the server takes the client for.
fn connect(server: &TcpListener, from: &str, to: &str) -> std::io::Result<IpAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(from)?;
        let connected = tokio::time::timeout(Duration::from_secs(5), socket.connect(to.parse().unwrap()));
        connected.await.map_err(std::io::Error::from)??;
        server.set_nonblocking(false)?;
        Ok(server.accept()?.1.ip())
    })
}

fn receive(socket: &UdpSocket) -> String {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut bytes = [0; 100];
    let (n, _) = socket.recv_from(&mut bytes).expect("a datagram");
    String::from_utf8_lossy(&bytes[..n]).into_owned()
}

fn hostport_tables() -> usize {
    let listed = tools::run(Command::new("nft").args(["list", "tables"])).unwrap();
    listed.matches("skiff-hostports").count()
}

#[test]
fn host_ports_lead_to_pods() {
    if !privileged() || !tools::root_with(&["nft", "ip"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("netns");
    let _clean = Clean(&directory);
    in_namespace(|| {
        let script = format!("ip link set lo up && ip address add {NODE}/32 dev lo");
        tools::run(Command::new("sh").args(["-c", &script])).unwrap();
        let network = Network::open(directory.clone(), "10.244.9.0/24".parse().unwrap(), None, &[]).unwrap();
        let (a, b) = (network.attach("a").unwrap(), network.attach("b").unwrap());
        let around = Surroundings { node: vec![NODE.parse().unwrap()], services: vec![] };
        let ports = HostPorts::open(Default::default(), around.clone());
        assert_eq!(hostport_tables(), 0, "no pod has host ports");
        connections(&ports, &a, &b);
        datagrams(&ports, &a, &b);

        // The next agent: a still runs, b's record is lost.
        let kept = [("a".to_owned(), host_port(&a, None, TCP, 8080, 80))].into();
        drop(ports);
        let ports = HostPorts::open(kept, around);
        let server = inside(&a.netns, || TcpListener::bind((a.ip, 80)).unwrap());
        assert_eq!(connect(&server, NODE, &format!("{NODE}:8080")).unwrap().to_string(), NODE);
        assert!(connect(&server, NODE, "127.0.0.1:9000").is_err(), "b's port went with its record");
        ports.withdraw("a").unwrap();
        ports.withdraw("a").unwrap();
        assert_eq!(hostport_tables(), 0);
        network.detach("a", &a).unwrap();
        network.detach("b", &b).unwrap();
        network.close();
    });
}

fn connections(ports: &HostPorts, a: &Attachment, b: &Attachment) {
    ports.publish("a", host_port(a, None, TCP, 8080, 80)).unwrap();
    ports.publish("b", host_port(b, Some("127.0.0.1"), TCP, 9000, 80)).unwrap();
    let refused = ports.publish("c", host_port(b, None, TCP, 9000, 80)).unwrap_err().to_string();
    assert!(refused.contains("9000/TCP") && refused.contains("d/pod"), "{refused}");
    let serve = |pod: &Attachment| inside(&pod.netns, || TcpListener::bind((pod.ip, 80)).unwrap());
    let (on_a, on_b) = (serve(a), serve(b));
    let node = format!("{NODE}:8080");
    assert_eq!(connect(&on_a, NODE, &node).unwrap().to_string(), NODE);
    assert_eq!(connect(&on_a, NODE, "127.0.0.1:8080").unwrap().to_string(), NODE);
    assert_eq!(connect(&on_b, NODE, "127.0.0.1:9000").unwrap().to_string(), NODE);
    for to in [format!("{NODE}:9000"), "127.0.0.1:9001".into()] {
        assert!(connect(&on_b, NODE, &to).is_err(), "{to} belongs to nobody");
    }
    assert!(connect(&on_b, "127.0.0.1", "127.0.0.1:9000").is_err(), "from loopback: left alone");
    let from = |pod: &Attachment| inside(&pod.netns, || connect(&on_a, "0.0.0.0", &node).unwrap());
    assert_eq!(from(b), b.ip, "another pod is seen by its own address");
    assert_ne!(from(a), a.ip, "itself must be answered through the node");
}

/// A client that keeps sending reaches the pod that has the port now.
fn datagrams(ports: &HostPorts, a: &Attachment, b: &Attachment) {
    let serve = |pod: &Attachment| inside(&pod.netns, || UdpSocket::bind((pod.ip, 53)).unwrap());
    let (on_a, on_b) = (serve(a), serve(b));
    let client = UdpSocket::bind((NODE, 0)).unwrap();
    let send = |text: &str| client.send_to(text.as_bytes(), (NODE, 8053)).unwrap();
    send("before anybody");
    ports.publish("ua", host_port(a, Some(NODE), UDP, 8053, 53)).unwrap();
    send("to a");
    assert_eq!(receive(&on_a), "to a");
    ports.withdraw("ua").unwrap();
    ports.publish("ub", host_port(b, Some(NODE), UDP, 8053, 53)).unwrap();
    send("to b");
    assert_eq!(receive(&on_b), "to b");
    ports.withdraw("ub").unwrap();
}
