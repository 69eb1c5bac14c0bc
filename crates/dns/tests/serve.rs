//! The server on real sockets, with resolvers of our own behind it.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
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
const LONG: Duration = Duration::from_secs(30);

/// UDP and TCP on one free port of the loopback.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn zone() -> Zone {
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
async fn serve_with(zone: Option<Zone>, forwarder: Forwarder, change: impl Fn(Server) -> Server) -> SocketAddr {
    let server = Arc::new(change(Server::new(name("cluster.local"), Arc::new(forwarder), Allowed::private())));
    *server.zone_mut() = zone;
    let (lanes, tcp) = loop {
        let (failed, _) = tokio::sync::mpsc::unbounded_channel();
        let lanes = Lanes::open(&server, (Ipv4Addr::LOCALHOST, 0).into(), 2, &Handle::current(), failed).unwrap();
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

fn forwarder(upstreams: &[SocketAddr]) -> Forwarder {
    Forwarder::new(Upstreams::Fixed(upstreams.to_vec()), vec![], Handle::current())
}

async fn serve_zone(zone: Option<Zone>, upstreams: &[SocketAddr]) -> SocketAddr {
    serve_with(zone, forwarder(upstreams), |server| server).await
}

async fn serve(upstreams: &[SocketAddr]) -> SocketAddr {
    serve_zone(Some(zone()), upstreams).await
}

/// Sends a message and gives back the answer's bytes.
async fn udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(message).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = timeout(LONG, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

/// A question without EDNS.
fn plain(id: u16, name: &Name, rtype: u16) -> Vec<u8> {
    let mut message = wire::encode_query(id, name, rtype);
    message.truncate(message.len() - 11);
    message[11] = 0;
    message
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    stream.write_u16(message.len() as u16).await.unwrap();
    stream.write_all(message).await.unwrap();
}

async fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let length = timeout(LONG, stream.read_u16()).await.expect("an answer").unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

fn read(bytes: &[u8]) -> Foreign {
    wire::parse_foreign(bytes).expect("a well-formed answer")
}

/// The code and the answers, as "NoError 10.96.0.5"; names for CNAME.
fn show(foreign: &Foreign) -> String {
    let data = |r: &Record| match &r.data {
        Data::Other { rtype: rtype::A, bytes } => bytes.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
        Data::Other { bytes, .. } => Name::read(bytes, 0).unwrap().0.to_string(),
        other => panic!("{other:?}"),
    };
    let answers = foreign.response.answers.iter().map(|r| format!(" {}", data(r)));
    format!("{:?}{}", foreign.response.rcode, answers.collect::<String>())
}

async fn ask(server: SocketAddr, text: &str, rtype: u16) -> String {
    show(&read(&udp(server, &wire::encode_query(7, &name(text), rtype)).await))
}

/// A resolver that answers as told: the datagrams to send for a question by UDP, the messages by TCP.
struct Stub {
    at: SocketAddr,
    /// The ids of what it was asked by UDP.
    asked: Arc<Mutex<Vec<u16>>>,
}

impl Stub {
    /// Repetitions of a question count once.
    fn questions(&self) -> usize {
        self.asked.lock().unwrap().iter().collect::<HashSet<_>>().len()
    }
}

async fn stub(script: impl Fn(&Query, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Stub {
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

fn a(name: &Name, ip: [u8; 4], ttl: u32) -> Record {
    Record { name: name.clone(), ttl, data: Data::A(ip.into()) }
}

fn encoded(query: &Query, rcode: Rcode, answers: Vec<Record>) -> Vec<u8> {
    wire::encode(query, &Response { answers, ..Response::empty(rcode) }, u16::MAX.into())
}

/// Knows example.org and www.example.org, which is an alias of it.
fn knows(query: &Query, ttl: u32) -> Vec<u8> {
    let org = name("example.org");
    let www = Record { name: name("www.example.org"), ttl, data: Data::Cname(org.clone()) };
    match query.name.to_string().as_str() {
        "example.org." if query.rtype == rtype::A => encoded(query, Rcode::NoError, vec![a(&org, [192, 0, 2, 1], ttl)]),
        "example.org." => encoded(query, Rcode::NoError, vec![]),
        "www.example.org." => encoded(query, Rcode::NoError, vec![www, a(&org, [192, 0, 2, 1], ttl)]),
        _ => encoded(query, Rcode::NxDomain, vec![]),
    }
}

async fn good() -> Stub {
    stub(|query, _| vec![knows(query, 60)]).await
}

const WEB: &str = "web.default.svc.cluster.local";
const MANY: &str = "many.default.svc.cluster.local";

#[tokio::test]
async fn answers_from_the_zone() {
    let server = serve(&[]).await;
    let bytes = udp(server, &plain(99, &name("WEB.default.svc.cluster.local"), rtype::A)).await;
    assert_eq!(show(&read(&bytes)), "NoError 10.96.0.5");
    assert_eq!(bytes[..2], [0, 99]);
    assert_eq!(bytes[2] & 0x84, 0x84, "an authoritative answer");
    assert_eq!(ask(server, "missing.default.svc.cluster.local", rtype::A).await, "NxDomain");
    assert_eq!(ask(server, "inner.default.svc.cluster.local", rtype::A).await, format!("NoError {WEB}. 10.96.0.5"));
    assert_eq!(ask(server, "inner.default.svc.cluster.local", rtype::CNAME).await, format!("NoError {WEB}."));
    let looped = ask(server, "loop.default.svc.cluster.local", rtype::A).await;
    assert_eq!(looped, "NoError pool.default.svc.cluster.local. loop.default.svc.cluster.local.");
}

#[tokio::test]
async fn the_question_is_repeated_letter_by_letter() {
    let server = serve(&[]).await;
    let mut question = plain(1, &name(WEB), rtype::A);
    question[13] = b'W';
    let answer = udp(server, &question).await;
    assert_eq!(answer[12..question.len()], question[12..]);
    *question.last_mut().unwrap() = 3;
    assert_eq!(Query::parse(&question).unwrap().class, 3);
    assert_eq!(udp(server, &question).await[3] & 0xf, Rcode::Refused as u8, "only the Internet's class is served");
}

#[tokio::test]
async fn addresses_take_turns() {
    let server = serve(&[]).await;
    let first = |id: u16| async move {
        let answer = read(&udp(server, &wire::encode_query(id, &name(MANY), rtype::A)).await);
        answer.response.answers[0].data.clone()
    };
    assert_ne!(first(1).await, first(2).await);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_told_by_tcp() {
    let server = serve(&[]).await;
    let mut large = wire::encode_query(1, &name(MANY), rtype::A);
    let size_at = large.len() - 8;
    for (size, most) in [(None, 512), (Some(100), 512), (Some(600), 600), (Some(1232), 1232), (Some(4096), 1232)] {
        let question = match size {
            None => plain(1, &name(MANY), rtype::A),
            Some(size) => {
                large[size_at..size_at + 2].copy_from_slice(&u16::to_be_bytes(size));
                large.clone()
            }
        };
        let answer = udp(server, &question).await;
        assert!(answer.len() <= most && answer.len() > most - 40, "{size:?}: {}", answer.len());
        assert!(read(&answer).truncated);
    }
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_framed(&mut stream, &large).await;
    let answer = read(&read_framed(&mut stream).await);
    assert_eq!((answer.truncated, answer.response.answers.len()), (false, 200));
}

#[tokio::test]
async fn several_questions_on_one_connection() {
    let upstream = good().await;
    let server = serve(&[upstream.at]).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    // All at once, before the first answer is read; in pieces.
    let mut all = vec![];
    for (id, text) in [(1, WEB), (2, "example.org"), (3, MANY), (4, "missing.cluster.local")] {
        let message = wire::encode_query(id, &name(text), rtype::A);
        all.extend((message.len() as u16).to_be_bytes());
        all.extend(message);
    }
    let (front, back) = all.split_at(1);
    stream.write_all(front).await.unwrap();
    stream.flush().await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(back).await.unwrap();
    let mut seen = vec![];
    for _ in 0..4 {
        let answer = read(&read_framed(&mut stream).await);
        seen.push((answer.id, answer.response.answers.len()));
    }
    let own: Vec<_> = seen.iter().filter(|(id, _)| *id != 2).collect();
    assert_eq!(own, [&(1, 1), &(3, 200), &(4, 0)], "in their order, without waiting for the foreign name");
    seen.sort();
    assert_eq!(seen, [(1, 1), (2, 1), (3, 200), (4, 0)]);
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(LONG, stream.read(&mut [0; 1])).await.expect("the end").unwrap(), 0);
}

#[tokio::test]
async fn slow_clients_do_not_hold_up_others() {
    let server = serve(&[]).await;
    let mut idle = vec![];
    for n in 0..300 {
        let mut stream = TcpStream::connect(server).await.unwrap();
        if n % 2 == 0 {
            // The promise of a message that never comes.
            stream.write_all(&[0, 50, 1]).await.unwrap();
        }
        idle.push(stream);
    }
    assert_eq!(ask(server, WEB, rtype::A).await, "NoError 10.96.0.5");
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_framed(&mut stream, &wire::encode_query(1, &name(WEB), rtype::A)).await;
    assert_eq!(show(&read(&read_framed(&mut stream).await)), "NoError 10.96.0.5");
}

/// Small, fast and the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[tokio::test]
async fn noise_is_survived() {
    let server = serve(&[]).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    let mut noise = Noise(0x5eed_1234_5678_9abc);
    let real = wire::encode_query(1, &name("_http._tcp.many.default.svc.cluster.local"), rtype::SRV);
    let mut buffer = [0; 4096];
    for n in 0..100_000 {
        let mut packet = real.clone();
        if n % 2 == 0 {
            packet = (0..noise.next() % 80).map(|_| noise.next() as u8).collect();
        }
        for _ in 0..noise.next() % 4 {
            let at = noise.next() as usize % packet.len().max(1);
            if let Some(byte) = packet.get_mut(at) {
                *byte = noise.next() as u8;
            }
        }
        packet.truncate(packet.len() - (noise.next() as usize % 8).min(packet.len()));
        socket.send(&packet).await.unwrap();
        if n % 16 == 0 {
            // The server's turn; what it says to noise must at least be messages.
            tokio::task::yield_now().await;
            while let Ok(length) = socket.try_recv(&mut buffer) {
                assert!(length >= wire::HEADER && buffer[2] & 0x80 != 0);
            }
        }
    }
    // While the noise is worked off, a question may be lost as any other.
    let question = wire::encode_query(7, &name(WEB), rtype::A);
    let answer = timeout(LONG, async {
        loop {
            socket.send(&question).await.unwrap();
            let wait = Duration::from_millis(200);
            while let Ok(Ok(length)) = timeout(wait, socket.recv(&mut buffer)).await {
                if buffer[12..length.max(12)].starts_with(&question[12..question.len() - 11]) && buffer[7] == 1 {
                    return show(&read(&buffer[..length]));
                }
            }
        }
    });
    assert_eq!(answer.await.expect("an answer"), "NoError 10.96.0.5");
}

#[tokio::test]
async fn forwards_and_follows() {
    let upstream = good().await;
    let server = serve(&[upstream.at]).await;
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
    assert_eq!(ask(server, "www.example.org", rtype::A).await, "NoError example.org. 192.0.2.1");
    assert_eq!(ask(server, "nothing.example.org", rtype::A).await, "NxDomain");
    assert_eq!(ask(server, "ext.default.svc.cluster.local", rtype::A).await, "NoError example.org. 192.0.2.1");
    assert_eq!(ask(server, "ext.default.svc.cluster.local", rtype::CNAME).await, "NoError example.org.");
    assert_eq!(ask(server, "lost.default.svc.cluster.local", rtype::A).await, "NoError missing.example.org.");
    let bytes = udp(server, &wire::encode_query(1, &name("example.org"), rtype::A)).await;
    assert_eq!((bytes[2] & 0x04, bytes[3] & 0x80), (0, 0x80), "not authoritative, recursion available");
}

#[tokio::test]
async fn an_alias_without_resolvers_still_answers() {
    let server = serve(&[]).await;
    assert_eq!(ask(server, "ext.default.svc.cluster.local", rtype::A).await, "NoError example.org.");
    assert_eq!(ask(server, "example.org", rtype::A).await, "ServFail");
}

#[tokio::test]
async fn the_next_resolver_is_asked() {
    let good = good().await;
    let silent = stub(|_, _| vec![]).await;
    let failing = stub(|query, _| vec![encoded(query, Rcode::ServFail, vec![])]).await;
    let refusing = stub(|query, _| vec![encoded(query, Rcode::Refused, vec![])]).await;
    let closed = sockets().await.0.local_addr().unwrap();
    for bad in [silent.at, failing.at, refusing.at, closed] {
        let server = serve(&[bad, good.at]).await;
        assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
    }
    assert_eq!(ask(serve(&[silent.at]).await, "example.org", rtype::A).await, "ServFail");
    let sent = silent.asked.lock().unwrap().len();
    assert!(sent > silent.questions(), "a question that may have been lost is sent again");
    let server = serve(&[failing.at, refusing.at]).await;
    assert_eq!(ask(server, "example.org", rtype::A).await, "ServFail");
    assert_eq!(ask(server, "example.org", rtype::A).await, "ServFail");
    assert_eq!(failing.questions(), 3, "a failure is not kept");
}

#[tokio::test]
async fn false_answers_are_not_believed() {
    let liar = stub(|query, _| {
        let evil = |mut query: Query| {
            let answer = a(&query.name.clone(), [6, 6, 6, 6], 60);
            query.edns = None;
            encoded(&query, Rcode::NoError, vec![answer])
        };
        let other = Query::parse(&wire::encode_query(query.id, &name("example.com"), rtype::A)).unwrap();
        let wrong_id = Query { id: query.id.wrapping_add(1), ..query.clone() };
        vec![vec![1, 2, 3], evil(wrong_id), evil(other), knows(query, 60)]
    });
    let server = serve(&[liar.await.at]).await;
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
}

#[tokio::test]
async fn a_cut_answer_is_fetched_by_tcp() {
    let upstream = stub(|query, tcp| {
        let records = (1..=150).map(|n| a(&query.name, [192, 0, 2, n], 60)).collect();
        let response = Response { answers: records, ..Response::empty(Rcode::NoError) };
        vec![wire::encode(query, &response, if tcp { u16::MAX.into() } else { 512 })]
    });
    let server = serve(&[upstream.await.at]).await;
    let question = wire::encode_query(1, &name("example.org"), rtype::A);
    assert!(read(&udp(server, &question).await).truncated);
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_framed(&mut stream, &question).await;
    assert_eq!(read(&read_framed(&mut stream).await).response.answers.len(), 150);
}

#[tokio::test]
async fn answers_are_kept_as_long_as_they_may() {
    let upstream = good().await;
    let server = serve(&[upstream.at]).await;
    for _ in 0..3 {
        assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
        assert_eq!(ask(server, "nothing.example.org", rtype::A).await, "NxDomain");
    }
    assert_eq!(upstream.questions(), 2);
    let fleeting = stub(|query, _| vec![knows(query, 0)]).await;
    let server = serve(&[fleeting.at]).await;
    for _ in 0..3 {
        assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
    }
    assert_eq!(fleeting.questions(), 3);
}

#[tokio::test]
async fn before_the_first_lists_nothing_is_denied() {
    let upstream = good().await;
    let server = serve_zone(None, &[upstream.at]).await;
    assert_eq!(ask(server, WEB, rtype::A).await, "ServFail");
    assert_eq!(ask(server, "5.0.96.10.in-addr.arpa", rtype::PTR).await, "ServFail");
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
}

#[tokio::test]
async fn many_clients_at_once() {
    let upstream = good().await;
    let server = serve(&[upstream.at]).await;
    let wrong = Arc::new(Mutex::new(vec![]));
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..200 {
        let wrong = wrong.clone();
        clients.spawn(async move {
            let (text, expect) = [(WEB, "NoError 10.96.0.5"), ("example.org", "NoError 192.0.2.1")][n % 2];
            let got = ask(server, text, rtype::A).await;
            if got != expect {
                wrong.lock().unwrap().push(got);
            }
        });
    }
    clients.join_all().await;
    assert_eq!(*wrong.lock().unwrap(), [""; 0]);
}

/// What another implementation reads from our bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_agrees() {
    if skiff_testkit::tools::find("dig").is_none() {
        return skiff_testkit::tools::skip("this test needs the program dig");
    }
    let upstream = good().await;
    let server = serve(&[upstream.at]).await;
    let dig = move |args: &str| {
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &server.port().to_string(), "+time=10"]).args(args.split(' '));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    for (args, expect) in [
        ("+short web.default.svc.cluster.local", "10.96.0.5\n"),
        ("+short +tcp web.default.svc.cluster.local", "10.96.0.5\n"),
        ("+short +noedns +ignore web.default.svc.cluster.local", "10.96.0.5\n"),
        ("+short -x 10.96.0.5", "web.default.svc.cluster.local.\n"),
        ("+short dns-version.cluster.local TXT", "\"1.1.0\"\n"),
        ("+short ext.default.svc.cluster.local", "example.org.\n192.0.2.1\n"),
        ("+short cluster.local NS", "ns.dns.cluster.local.\n"),
        ("+short 7-not-a.default.pod.cluster.local", ""),
    ] {
        assert_eq!(dig(args), expect, "{args}");
    }
    let many = dig("many.default.svc.cluster.local");
    assert!(many.contains("Truncated, retrying in TCP mode") && many.contains("ANSWER: 200,"), "{many}");
    let srv = dig("+tcp _http._tcp.many.default.svc.cluster.local SRV");
    assert!(srv.contains("ANSWER: 200, AUTHORITY: 0, ADDITIONAL: 201"), "{srv}");
    let missing = dig("missing.default.svc.cluster.local");
    assert!(missing.contains("NXDOMAIN") && missing.contains("SOA\tns.dns.cluster.local."), "{missing}");
    assert!(!missing.contains("malformed") && !missing.contains("not available"), "{missing}");
    let future = dig("+edns=1 +noednsnegotiation web.default.svc.cluster.local");
    assert!(future.contains("BADVERS"), "{future}");
}
