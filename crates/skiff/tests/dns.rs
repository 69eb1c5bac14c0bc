//! Names outside the cluster: asked of the resolver that `up` was told, also after a restart.

mod common;

use std::net::{SocketAddr, UdpSocket};

use common::Cluster;
use skiff_testkit::tools;

/// A resolver on the host's loopback that has one address for every name.
fn resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let at = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            let question_end = 12 + answer[12..].iter().position(|b| *b == 0).expect("a name's end") + 5;
            answer.truncate(question_end);
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            let _ = socket.send_to(&answer, from);
        }
    });
    at
}

#[test]
fn names_outside_are_asked_of_the_resolver_that_was_told() {
    if !tools::root_with(&["dig"]) {
        return;
    }
    let told = resolver().to_string();
    let cluster = Cluster::up("dns", &["--dns-upstream", &told]);
    let dig = |name: &str| cluster.skiff_ok(&["shell", "--", "dig", "+short", "@10.96.0.10", name]);
    assert_eq!(dig("example.org"), "192.0.2.99\n");
    assert_eq!(dig("kubernetes.default.svc.cluster.local"), "10.96.0.1\n");
    cluster.skiff_ok(&["down", "--name", &cluster.name]);
    cluster.start(&[]);
    assert_eq!(dig("example.org"), "192.0.2.99\n", "a cluster keeps its resolvers");
}
