//! The cluster's names and others, asked of a node's server and of `skiff dns` alone; `skiff dns query`.

#[path = "../common/mod.rs"]
mod common;
mod manifest;
mod pods;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command},
    time::{Duration, Instant},
};

use common::{Cluster, Kubectl};
use skiff_testkit::tools;

/// A resolver on the host's loopback that has one IPv4 address for every name, and nothing else.
fn resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let at = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            let question_end = 12 + answer[12..].iter().position(|b| *b == 0).expect("a name's end") + 5;
            answer.truncate(question_end);
            let asks_for_a = answer[question_end - 4..question_end - 2] == [0, 1];
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(asks_for_a), 0, 0, 0, 0]);
            if asks_for_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    at
}

/// One cluster for all of it: starting one is what takes time.
#[test]
fn names_as_pods_and_others_ask_for_them() {
    if !tools::root_with(&["dig", "conntrack"]) {
        return;
    }
    let told = resolver().to_string();
    let cluster = Cluster::up("dns", &["--dns-upstream", &told]);
    let dig = |name: &str| cluster.skiff_ok(&["shell", "--", "dig", "+short", "@10.96.0.10", name]);
    assert_eq!(dig("example.org"), "192.0.2.99\n");
    assert_eq!(dig("kubernetes.default.svc.cluster.local"), "10.96.0.1\n");
    questions_are_not_tracked(&cluster);
    cluster.kubectl(Kubectl::BuiltIn).apply(OBJECTS);
    a_walk_is_shown_with_reasons(&cluster);
    the_server_alone(&cluster, &told);
    cluster.start(&[]);
    assert_eq!(dig("example.org"), "192.0.2.99\n", "a cluster keeps its resolvers");
}

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.7.7, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: [10.244.0.201], hostname: db-0}]
---
apiVersion: v1
kind: Service
metadata: {name: ext}
spec: {type: ExternalName, externalName: example.org}
";

/// A tracker that is full, or in a race, drops questions; other connections of the node show that it is at work.
fn questions_are_not_tracked(cluster: &Cluster) {
    let ask = "for how in +notcp +tcp; do dig $how +short @10.96.0.10 kubernetes.default.svc.cluster.local; done; \
               curl -sk -o /dev/null https://10.96.0.1; conntrack -L 2>/dev/null";
    let said = cluster.skiff_ok(&["shell", "--", "sh", "-c", ask]);
    assert!(said.starts_with("10.96.0.1\n10.96.0.1\n") && said.contains("dst=10.96.0.1 "), "{said}");
    assert!(!said.contains("dst=10.96.0.10 ") && !said.contains("src=10.96.0.10 "), "{said}");
}

fn a_walk_is_shown_with_reasons(cluster: &Cluster) {
    let query = |args: &[&str]| {
        let output = cluster.skiff(&[&["dns", "query"], args].concat());
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // What was applied last, of each kind.
    for name in ["ext", "db-0.db"] {
        eventually("the node's server sees what was applied", || query(&[name]));
    }
    for (args, found, expect) in [
        (&["web"][..], true, "web.default.svc.cluster.local.  ->  10.96.7.7"),
        (&["web"], true, "the ClusterIP of Service default/web, which has 0 ready endpoints of 0"),
        (&["web.default"], true, "2. web.default.svc.cluster.local.  ->  10.96.7.7"),
        (&["web", "AAAA"], false, "exists, but has no IPv6 address"),
        (&["db-0.db"], true, "->  10.244.0.201"),
        (&["_sql._tcp.db", "SRV"], true, "0 100 5432 db-0.db.default.svc.cluster.local."),
        (&["10.96.7.7", "PTR"], true, "->  web.default.svc.cluster.local."),
        (&["shop."], true, "not below cluster.local., so the resolvers outside are asked"),
        (&["shop.default.svc.cluster.local."], false, "there is no Service \"shop\" in namespace \"default\""),
        (&["-n", "kube-system", "kube-dns"], true, "->  10.96.0.10"),
        (&["ext"], true, "alias of example.org., 192.0.2.99"),
    ] {
        let (ok, said) = query(args);
        assert!(ok == found && said.contains(expect), "{args:?}: {ok}, {said}");
    }
    let output = cluster.skiff(&["dns", "query", "web", "--from", "nobody"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no pod \"nobody\""), "{output:?}");
}

/// `skiff dns` on free ports of the loopback, ended when dropped.
struct Alone {
    child: Child,
    dns: u16,
    http: u16,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free for UDP and for TCP.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = tcp.local_addr().expect("it is bound");
        if UdpSocket::bind(at).is_ok() {
            return at.port();
        }
    }
}

impl Alone {
    fn start(cluster: &Cluster, upstream: &str) -> Self {
        let (dns, http) = (free_port(), free_port());
        let mut command = cluster.command(common::SKIFF);
        let (listen, probe) = (format!("127.0.0.1:{dns}"), format!("127.0.0.1:{http}"));
        command.arg("dns").arg("--kubeconfig").arg(cluster.kubeconfig());
        command.args(["--listen", &listen, "--health", &probe, "--ready", &probe, "--metrics", &probe]);
        command.args(["--upstream", upstream, "--drain", "0", "--ttl", "17"]);
        Alone { child: command.spawn().expect("skiff dns starts"), dns, http }
    }

    /// The answer's first line and its body; None while nobody listens.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: dns\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn dig(&self, args: &str) -> String {
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &self.dns.to_string(), "+short"]).args(args.split(' '));
        String::from_utf8_lossy(&command.output().expect("dig runs").stdout).into_owned()
    }
}

/// Waits until it is so; what was seen last when it never is.
fn eventually(what: &str, mut look: impl FnMut() -> (bool, String)) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let (so, seen) = look();
        if so {
            return;
        }
        assert!(Instant::now() < end, "{what}: {seen}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Ends with the cluster stopped.
fn the_server_alone(cluster: &Cluster, upstream: &str) {
    let mut alone = Alone::start(cluster, upstream);
    eventually("ready", || {
        let seen = alone.get("/ready").unwrap_or_default();
        (seen.starts_with("HTTP/1.1 200"), seen)
    });
    assert!(alone.get("/health").is_some_and(|t| t.starts_with("HTTP/1.1 200")));
    for (args, expect) in [
        ("web.default.svc.cluster.local", "10.96.7.7\n"),
        ("+tcp web.default.svc.cluster.local", "10.96.7.7\n"),
        ("db-0.db.default.svc.cluster.local", "10.244.0.201\n"),
        ("-x 10.244.0.201", "db-0.db.default.svc.cluster.local.\n"),
        ("ext.default.svc.cluster.local", "example.org.\n192.0.2.99\n"),
        ("cluster.local NS", "ns.dns.cluster.local.\n"),
        ("example.com", "192.0.2.99\n"),
        ("missing.default.svc.cluster.local", ""),
    ] {
        assert_eq!(alone.dig(args), expect, "{args}");
    }
    let full = alone.dig("+noshort +noall +answer web.default.svc.cluster.local");
    assert!(full.split_whitespace().nth(1) == Some("17"), "--ttl: {full}");
    cluster.kubectl(Kubectl::BuiltIn).ok(&["delete", "service", "web"]);
    eventually("a deleted Service has no name", || {
        let seen = alone.dig("web.default.svc.cluster.local");
        (seen.is_empty(), seen)
    });
    let metrics = alone.get("/metrics").unwrap_or_default();
    for expect in
        ["proto=\"udp\",family=\"1\",type=\"A\"}", "proto=\"tcp\"", "rcode=\"NXDOMAIN\"", "skiff_dns_zone_age_seconds"]
    {
        assert!(metrics.contains(expect), "{expect}: {metrics}");
    }
    // The zone outlives the API.
    cluster.skiff_ok(&["down", "--name", &cluster.name]);
    assert_eq!(alone.dig("db-0.db.default.svc.cluster.local"), "10.244.0.201\n");
    eventually("it says how old the zone may be", || {
        let seen = alone.get("/ready").unwrap_or_default();
        let age = seen.split_once("API last seen ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        (seen.starts_with("HTTP/1.1 200") && age.is_some_and(|seconds| seconds >= 2), seen)
    });
    let _ = Command::new("kill").arg(alone.child.id().to_string()).status();
    assert!(alone.child.wait().expect("it ends").success(), "told to end, it ends well");
}
