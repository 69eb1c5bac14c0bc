//! Ordinary DNS behaviour, question by question beside a server that many rely on: knot, with the same names in a zone file.

mod common;

use std::{
    fs,
    net::{SocketAddr, UdpSocket as StdSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::*;
use skiff_dns::wire::{self, CLASS_IN, Name, rtype};
use skiff_testkit::tools;
use tokio::net::TcpStream;

/// knot on loopback, in a directory of its own; both go with it.
struct Knot {
    child: Child,
    home: PathBuf,
    at: SocketAddr,
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// What `common::zone` means, as far as the questions below go.
fn zone_file() -> String {
    let mut text = String::from(
        "$ORIGIN cluster.local.\n$TTL 5\n@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 127.0.0.1\n\
         dns-version TXT \"1.1.0\"\nweb.default.svc A 10.96.0.5\n\
         inner.default.svc CNAME web.default.svc\n_http._tcp.named.default.svc SRV 0 100 80 named.default.svc\n\
         named.default.svc A 10.96.0.6\nnamed.default.svc AAAA fd00:96::6\n1.default.pod A 10.0.0.1\n",
    );
    (1..=200).for_each(|n| text += &format!("many.default.svc A 10.244.0.{n}\n"));
    text
}

async fn knot() -> Knot {
    let home = std::env::temp_dir().join(format!("skiff-knot-{}", std::process::id()));
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("zone"), zone_file()).unwrap();
    let port = StdSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = start(&home, port);
    let knot = Knot { child, home, at: ([127, 0, 0, 1], port).into() };
    let (socket, end) = (StdSocket::bind("127.0.0.1:0").unwrap(), Instant::now() + LONG);
    socket.connect(knot.at).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 1500];
    loop {
        let _ = socket.send(&wire::encode_query(1, &name(WEB), rtype::A));
        if socket.recv(&mut buffer).is_ok_and(|_| buffer[3] & 0xf == 0) {
            return knot;
        }
        assert!(Instant::now() < end, "knot does not answer");
    }
}

fn start(home: &Path, port: u16) -> Child {
    let dir = home.display();
    let text = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: {dir}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {dir}\nzone:\n  - domain: cluster.local\n    file: {dir}/zone\n    zonefile-sync: -1\n    \
         journal-content: none\n"
    );
    fs::write(home.join("knot.conf"), text).unwrap();
    let mut command = Command::new("knotd");
    command.arg("-c").arg(home.join("knot.conf")).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// What an answer says, without what servers are free to do (order, spelling of pointers, glue).
fn meaning(bytes: &[u8]) -> String {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let flags = word(2);
    let mut text = format!("code {} ", flags & 0xf);
    text += if flags & 0x0400 != 0 { "AA " } else { "" };
    text += if flags & 0x0200 != 0 { "TC " } else { "" };
    let Some(answer) = wire::parse_foreign(bytes) else { return text };
    let mut records: Vec<String> =
        answer.response.answers.iter().map(|r| format!("{:?}", (&r.name, r.ttl, &r.data))).collect();
    records.sort();
    if flags & 0x0200 == 0 {
        text += &records.join(" ");
    }
    let soa = answer.response.authority.iter().find(|r| r.data.rtype() == rtype::SOA);
    text + &soa.map_or(String::new(), |soa| format!(" SOA of {} for {} s", soa.name, soa.ttl))
}

/// A question as bytes: class, flags and EDNS as told.
fn question(text: &str, rtype: u16, class: u16, edns: Option<(u16, u8)>) -> Vec<u8> {
    let mut message = plain(7, &name(text), rtype);
    let end = message.len();
    message[end - 2..].copy_from_slice(&class.to_be_bytes());
    // An authority is not asked to recurse.
    message[2] = 0;
    if let Some((size, version)) = edns {
        message[11] = 1;
        let [high, low] = size.to_be_bytes();
        message.extend([0, 0, 41, high, low, 0, version, 0, 0, 0, 0]);
    }
    message
}

fn questions() -> Vec<(String, Vec<u8>)> {
    let names = [
        WEB,
        "WEB.Default.svc.cluster.local",
        "named.default.svc.cluster.local",
        "inner.default.svc.cluster.local",
        MANY,
        "_http._tcp.named.default.svc.cluster.local",
        "_tcp.named.default.svc.cluster.local",
        "missing.default.svc.cluster.local",
        "a.b.c.missing.default.svc.cluster.local",
        "default.svc.cluster.local",
        "svc.cluster.local",
        "missing.cluster.local",
        "dns-version.cluster.local",
        "ns.dns.cluster.local",
        "*.default.svc.cluster.local",
    ];
    // MX, HTTPS, one that nobody knows.
    let types = [rtype::A, rtype::AAAA, rtype::SRV, rtype::TXT, rtype::CNAME, rtype::SOA, rtype::PTR, 15, 65, 65_280];
    let mut all = vec![];
    for text in names {
        for rtype in types {
            for edns in [None, Some((512, 0)), Some((1232, 0)), Some((4096, 0))] {
                all.push((format!("{text} {rtype} {edns:?}"), question(text, rtype, CLASS_IN, edns)));
            }
        }
    }
    all.push(("EDNS version 1".into(), question(WEB, rtype::A, CLASS_IN, Some((1232, 1)))));
    all.push(("class HESIOD".into(), question(WEB, rtype::A, 4, None)));
    all.push(("ANY".into(), question(WEB, rtype::ANY, CLASS_IN, None)));
    let mut two_opts = question(WEB, rtype::A, CLASS_IN, Some((1232, 0)));
    two_opts.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    two_opts[11] = 2;
    all.push(("two OPT records".into(), two_opts));
    let mut update = question(WEB, rtype::SOA, CLASS_IN, None);
    update[2] |= 2 << 3;
    all.push(("opcode STATUS".into(), update));
    all
}

/// The zone of `common`, and a Service with a named port and two families.
async fn ours() -> SocketAddr {
    let mut zone = zone();
    let spec = serde_json::json!({
        "clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.6", "fd00:96::6"], "ports": [{"name": "http", "port": 80}],
    });
    let object = serde_json::json!({"metadata": {"namespace": "default", "name": "named"}, "spec": spec});
    let service = serde_json::from_value(object).ok().and_then(|o| skiff_services::model::Service::from_api(&o));
    zone.update(|s| service.and_then(|v| s.apply_service(v)));
    serve_zone(Some(zone), &[]).await
}

/// Where we differ on purpose.
fn is_our_way(what: &str) -> bool {
    // Every ClusterIP Service answers SRV for all of its ports, and _port._protocol names have the target's addresses
    // (Kubernetes); a Service that is an alias is followed by us in every type.
    let kubernetes = [
        "svc.cluster.local 33 ",
        "_http._tcp.named.default.svc.cluster.local 1 ",
        "_http._tcp.named.default.svc.cluster.local 28 ",
    ];
    let own_srv = what.contains(" 33 ") && !what.starts_with("_http") && !what.starts_with("missing");
    own_srv || kubernetes[1..].iter().any(|k| what.starts_with(k))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_as_knot_does() {
    if tools::find("knotd").is_none() {
        return tools::skip("this test needs the program knotd (package knot)");
    }
    let (knot, ours) = (knot().await, ours().await);
    let mut differ = vec![];
    for (what, message) in questions() {
        if is_our_way(&what) {
            continue;
        }
        let (theirs, mine) = (told(knot.at, &message), told(ours, &message));
        if theirs != mine {
            differ.push(format!("{what}\n  knot: {theirs}\n  ours: {mine}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    for text in [MANY, WEB, "missing.default.svc.cluster.local"] {
        let message = question(text, rtype::A, CLASS_IN, None);
        let (theirs, mine) = (tcp(knot.at, &message).await, tcp(ours, &message).await);
        assert_eq!(meaning(&theirs), meaning(&mine), "{text} by TCP");
        let longer = mine.len() as f64 / theirs.len() as f64;
        assert!(longer < 1.2, "{text}: {} bytes, knot says it in {}", mine.len(), theirs.len());
    }
}

/// What is answered by UDP; a question that is lost is asked again.
fn told(at: SocketAddr, message: &[u8]) -> String {
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..4 {
        socket.send(message).unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            let edns = if opt(&buffer[..length]) { " EDNS" } else { "" };
            return meaning(&buffer[..length]) + edns;
        }
    }
    "silence".into()
}

fn opt(answer: &[u8]) -> bool {
    answer[11] > 0 && answer.windows(3).any(|w| w == [0, 0, 41])
}

async fn tcp(at: SocketAddr, message: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    write_framed(&mut stream, message).await;
    read_framed(&mut stream).await
}

#[test]
fn names_of_the_file_are_names() {
    for line in zone_file().lines().skip(3) {
        let name = line.split_whitespace().next().unwrap();
        assert!(Name::parse(name).is_some(), "{name}");
    }
}
