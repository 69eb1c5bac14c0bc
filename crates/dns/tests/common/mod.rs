//! A server on real sockets, and resolvers of our own behind it.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use skiff_dns::{
    acl::Allowed,
    forward::{Forwarder, Upstreams},
    server::{Lanes, Server},
    wire::{self, Data, Foreign, Name, Query, Rcode, Record, Response, rtype},
    zone::Zone,
};
use skiff_services::model::{Service, Slice};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Handle,
    time::timeout,
};

/// Longer than anything here may take on a slow machine.
pub const LONG: Duration = Duration::from_secs(30);

/// UDP and TCP on one free port of the loopback.
pub async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn zone() -> Zone {
    let service = |name: &str, spec: Value| {
        let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        Service::from_api(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let ends: Vec<Value> = (1..=200).map(|n| json!({"addresses": [format!("10.244.0.{n}")]})).collect();
    let slice = json!({
        "metadata": {"namespace": "default", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": ends,
    });
    let slice = Slice::from_api(&serde_json::from_value(slice).unwrap()).unwrap();
    let alias = |target: &str| json!({"type": "ExternalName", "externalName": target});
    let mut zone = Zone::new(name("cluster.local"), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    zone.add_namespace("default");
    zone.update(|s| s.apply_service(service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}))));
    zone.update(|s| s.apply_service(service("many", json!({"clusterIP": "None"}))));
    zone.update(|s| s.apply_service(service("ext", alias("example.org"))));
    zone.update(|s| s.apply_service(service("lost", alias("missing.example.org"))));
    zone.update(|s| s.apply_service(service("inner", alias("web.default.svc.cluster.local"))));
    zone.update(|s| s.apply_service(service("loop", alias("pool.default.svc.cluster.local"))));
    zone.update(|s| s.apply_service(service("pool", alias("loop.default.svc.cluster.local"))));
    zone.update(|s| s.apply_slice(slice));
    zone
}

/// A server that lasts as long as the test, since its threads must outlive what asks them.
pub async fn serve_with(zone: Option<Zone>, forwarder: Forwarder, change: impl Fn(Server) -> Server) -> SocketAddr {
    serve_at(Ipv4Addr::LOCALHOST.into(), zone, forwarder, change).await
}

pub async fn serve_at(
    ip: IpAddr,
    zone: Option<Zone>,
    forwarder: Forwarder,
    change: impl Fn(Server) -> Server,
) -> SocketAddr {
    let server = Arc::new(change(Server::new(name("cluster.local"), Arc::new(forwarder), Allowed::private())));
    *server.zone_mut() = zone;
    let (lanes, tcp) = loop {
        let (failed, _) = tokio::sync::mpsc::unbounded_channel();
        let lanes = Lanes::open(&server, (ip, 0).into(), 2, &Handle::current(), failed).unwrap();
        if let Ok(tcp) = TcpListener::bind(lanes.address()).await {
            break (lanes, tcp);
        }
    };
    let at = lanes.address();
    tokio::spawn(async move {
        let _lanes = lanes;
        server.serve_tcp(tcp).await
    });
    at
}

pub fn forwarder(upstreams: &[SocketAddr]) -> Forwarder {
    Forwarder::new(Upstreams::Fixed(upstreams.to_vec()), vec![], Handle::current())
}

pub async fn serve_zone(zone: Option<Zone>, upstreams: &[SocketAddr]) -> SocketAddr {
    serve_with(zone, forwarder(upstreams), |server| server).await
}

pub async fn serve(upstreams: &[SocketAddr]) -> SocketAddr {
    serve_zone(Some(zone()), upstreams).await
}

/// Sends a message and gives back the answer's bytes.
pub async fn udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(message).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = timeout(LONG, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

/// A question without EDNS.
pub fn plain(id: u16, name: &Name, rtype: u16) -> Vec<u8> {
    let mut message = wire::encode_query(id, name, rtype);
    message.truncate(message.len() - 11);
    message[11] = 0;
    message
}

pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    stream.write_u16(message.len() as u16).await.unwrap();
    stream.write_all(message).await.unwrap();
}

pub async fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let length = timeout(LONG, stream.read_u16()).await.expect("an answer").unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

pub fn read(bytes: &[u8]) -> Foreign {
    wire::parse_foreign(bytes).expect("a well-formed answer")
}

/// The code and the answers, as "NoError 10.96.0.5"; names for CNAME.
pub fn show(foreign: &Foreign) -> String {
    let data = |r: &Record| match &r.data {
        Data::Other { rtype: rtype::A, bytes } => bytes.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
        Data::Other { bytes, .. } => Name::read(bytes, 0).unwrap().0.to_string(),
        other => panic!("{other:?}"),
    };
    let answers = foreign.response.answers.iter().map(|r| format!(" {}", data(r)));
    format!("{:?}{}", foreign.response.rcode, answers.collect::<String>())
}

pub async fn ask(server: SocketAddr, text: &str, rtype: u16) -> String {
    show(&read(&udp(server, &wire::encode_query(7, &name(text), rtype)).await))
}

/// A resolver that answers as told: the datagrams to send for a question by UDP, the messages by TCP.
pub struct Stub {
    pub at: SocketAddr,
    /// The ids of what it was asked by UDP.
    pub asked: Arc<Mutex<Vec<u16>>>,
}

impl Stub {
    /// Repetitions of a question count once.
    pub fn questions(&self) -> usize {
        self.asked.lock().unwrap().iter().collect::<HashSet<_>>().len()
    }
}

pub async fn stub(script: impl Fn(&Query, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Stub {
    let (udp, tcp) = sockets().await;
    let (at, asked, script) = (udp.local_addr().unwrap(), Arc::<Mutex<Vec<u16>>>::default(), Arc::new(script));
    let (count, by_udp) = (asked.clone(), script.clone());
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let query = Query::parse(&buffer[..length]).unwrap();
            if query.name.to_string().ends_with("-probe.") {
                continue;
            }
            count.lock().unwrap().push(query.id);
            for datagram in by_udp(&query, false) {
                udp.send_to(&datagram, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let query = Query::parse(&read_framed(&mut stream).await).unwrap();
            for message in script(&query, true) {
                write_framed(&mut stream, &message).await;
            }
        }
    });
    Stub { at, asked }
}

pub fn a(name: &Name, ip: [u8; 4], ttl: u32) -> Record {
    Record { name: name.clone(), ttl, data: Data::A(ip.into()) }
}

pub fn encoded(query: &Query, rcode: Rcode, answers: Vec<Record>) -> Vec<u8> {
    wire::encode(query, &Response { answers, ..Response::empty(rcode) }, u16::MAX.into())
}

/// Knows example.org and www.example.org, which is an alias of it.
pub fn knows(query: &Query, ttl: u32) -> Vec<u8> {
    let org = name("example.org");
    let www = Record { name: name("www.example.org"), ttl, data: Data::Cname(org.clone()) };
    match query.name.to_string().as_str() {
        "example.org." if query.rtype == rtype::A => encoded(query, Rcode::NoError, vec![a(&org, [192, 0, 2, 1], ttl)]),
        "example.org." => encoded(query, Rcode::NoError, vec![]),
        "www.example.org." => encoded(query, Rcode::NoError, vec![www, a(&org, [192, 0, 2, 1], ttl)]),
        _ => encoded(query, Rcode::NxDomain, vec![]),
    }
}

pub async fn good() -> Stub {
    stub(|query, _| vec![knows(query, 60)]).await
}

pub const WEB: &str = "web.default.svc.cluster.local";
pub const MANY: &str = "many.default.svc.cluster.local";

/// Megabytes that this process has.
pub fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    (pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096) >> 20
}
