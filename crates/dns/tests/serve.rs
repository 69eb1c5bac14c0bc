//! The server on real sockets.

mod common;

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::*;
use skiff_dns::{
    acl::{Allowed, Net},
    server::Server,
    wire::{self, Query, Rcode, rtype},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

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
async fn both_families_are_served() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return skiff_testkit::tools::skip("this test needs IPv6 on the loopback");
    }
    let server = serve_at(std::net::Ipv6Addr::LOCALHOST.into(), Some(zone()), forwarder(&[]), |server| server).await;
    assert_eq!(ask(server, WEB, rtype::A).await, "NoError 10.96.0.5");
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_framed(&mut stream, &wire::encode_query(1, &name(WEB), rtype::A)).await;
    assert_eq!(show(&read(&read_framed(&mut stream).await)), "NoError 10.96.0.5");
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

/// Which of two lanes a client's questions take.
fn lane(ip: Ipv4Addr) -> u32 {
    (ip.to_bits().wrapping_mul(0x9e37_79b1) >> 16) % 2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_client_leaves_others_their_lane() {
    let server = serve(&[]).await;
    let clients: Vec<_> = (2..100).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
    let (bad, good) = (clients[0], *clients.iter().find(|c| lane(**c) != lane(clients[0])).unwrap());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let socket = std::net::UdpSocket::bind((bad, 0)).unwrap();
            let question = wire::encode_query(1, &name(WEB), rtype::A);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Answers are not even read.
                let _ = socket.send_to(&question, server);
            }
        })
    };
    let socket = UdpSocket::bind((good, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    let mut buffer = [0; 4096];
    for id in 0..200 {
        socket.send(&wire::encode_query(id, &name(WEB), rtype::A)).await.unwrap();
        let length = timeout(LONG, socket.recv(&mut buffer)).await.expect("an answer in spite of the flood").unwrap();
        assert_eq!((read(&buffer[..length]).id, show(&read(&buffer[..length]))), (id, "NoError 10.96.0.5".into()));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().unwrap();
}

/// Both take the same lane, and the only resolver is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_floods_is_put_aside() {
    let dead = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let random = |n: u64| name(&format!("x{:x}.example.org", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let floods: [Vec<Vec<u8>>; 2] = [
        vec![wire::encode_query(1, &name(WEB), rtype::A)],
        (0..5000).map(|n| wire::encode_query(n as u16, &random(n), rtype::A)).collect(),
    ];
    for messages in floods {
        let metrics = std::sync::OnceLock::new();
        let server = serve_with(Some(zone()), forwarder(&[dead.local_addr().unwrap()]), |server| {
            let _ = metrics.set(server.metrics.clone());
            server
        });
        let (server, metrics) = (server.await, metrics.get().unwrap());
        let clients: Vec<_> = (2..100).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
        let (bad, good) = (clients[0], *clients[1..].iter().find(|c| lane(**c) == lane(clients[0])).unwrap());
        let socket = UdpSocket::bind((good, 0)).await.unwrap();
        socket.connect(server).await.unwrap();
        let before = resident();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flood = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let socket = std::net::UdpSocket::bind((bad, 0)).unwrap();
                let mut messages = messages.iter().cycle();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = socket.send_to(messages.next().unwrap(), server);
                }
            })
        };
        let aside = || metrics.render().contains("skiff_dns_clients_aside 1\n");
        timeout(LONG, async {
            while !aside() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the flood is noticed");
        // What came before is worked off; a question of that time may be lost.
        let mut buffer = [0; 4096];
        let question = wire::encode_query(u16::MAX, &name(WEB), rtype::A);
        timeout(LONG, async {
            loop {
                socket.send(&question).await.unwrap();
                if timeout(Duration::from_millis(200), socket.recv(&mut buffer)).await.is_ok() {
                    break;
                }
            }
        })
        .await
        .expect("an answer at all");
        for id in 0..200 {
            socket.send(&wire::encode_query(id, &name(WEB), rtype::A)).await.unwrap();
            let answer = timeout(LONG, async {
                loop {
                    let length = socket.recv(&mut buffer).await.unwrap();
                    // One of the first round may come late.
                    if buffer[..2] != u16::MAX.to_be_bytes() {
                        return read(&buffer[..length]);
                    }
                }
            });
            let answer = answer.await.expect("an answer in spite of the flood");
            assert_eq!((answer.id, show(&answer)), (id, "NoError 10.96.0.5".into()));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        flood.join().unwrap();
        let grown = resident().saturating_sub(before);
        assert!(grown < 200, "{grown} MB more than before the flood");
    }
}

#[tokio::test]
async fn strangers_are_refused() {
    let change = |server: Server| server.allowing(Allowed::new([]));
    let server = serve_with(Some(zone()), forwarder(&[]), change).await;
    assert_eq!(ask(server, WEB, rtype::A).await, "NoError 10.96.0.5", "loopback is no stranger");
    // 127.0.0.1 is not in the way of the second, which knows only others.
    let nobody = Allowed::only([Net::parse("10.0.0.0/8").unwrap()]);
    let server = serve_with(Some(zone()), forwarder(&[]), move |server| server.allowing(nobody.clone())).await;
    let question = wire::encode_query(7, &name(WEB), rtype::A);
    let answer = udp(server, &question).await;
    assert_eq!(show(&read(&answer)), "Refused");
    assert!(answer.len() <= question.len(), "an answer to a stranger amplifies nothing");
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
    let reverse = dig("5.0.96.10.in-addr.arpa A");
    let is_soa = |line: &str| line.split_whitespace().take(4).eq(["in-addr.arpa.", "5", "IN", "SOA"]);
    assert!(reverse.contains("NOERROR") && reverse.lines().any(is_soa), "{reverse}");
    let future = dig("+edns=1 +noednsnegotiation web.default.svc.cluster.local");
    assert!(future.contains("BADVERS"), "{future}");
}
