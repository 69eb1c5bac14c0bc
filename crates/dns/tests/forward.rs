//! Foreign names, with resolvers that are good, dead, slow, lying or cutting behind the server.

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::*;
use skiff_dns::{
    forward::Stub as StubDomain,
    wire::{self, Query, Rcode, Response, rtype},
    zone::Pod,
};
use tokio::{net::TcpStream, time::timeout};

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

/// A resolver that says more than it was asked: about the cluster, and about others.
#[tokio::test]
async fn what_was_not_asked_for_is_not_learnt() {
    let upstream = stub(|query, _| {
        if query.name.to_string() != "example.org." {
            return vec![knows(query, 60)];
        }
        let evil = |text| a(&name(text), [6, 6, 6, 6], 3600);
        let more = vec![evil(WEB), evil("bank.example"), evil("missing.default.svc.cluster.local")];
        let answers = vec![a(&query.name, [192, 0, 2, 1], 60)];
        let response =
            Response { answers, authority: more.clone(), additional: more, ..Response::empty(Rcode::NoError) };
        vec![wire::encode(query, &response, u16::MAX.into())]
    });
    let server = serve(&[upstream.await.at]).await;
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
    assert_eq!(ask(server, "bank.example", rtype::A).await, "NxDomain");
    for (text, expect) in own_zone_questions() {
        assert_eq!(ask(server, text, rtype::A).await, expect);
    }
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

fn own_zone_questions() -> [(&'static str, &'static str); 2] {
    [(WEB, "NoError 10.96.0.5"), ("missing.default.svc.cluster.local", "NxDomain")]
}

#[tokio::test]
async fn bad_resolvers_do_not_touch_the_zone() {
    let silent = stub(|_, _| vec![]).await;
    let closed = sockets().await.0.local_addr().unwrap();
    let cutting = stub(|query, _| {
        let mut answer = encoded(query, Rcode::NoError, vec![]);
        answer[2] |= 2;
        vec![answer]
    });
    let lying = stub(|_, _| vec![vec![0xff; 600], vec![]]);
    for bad in [silent.at, closed, cutting.await.at, lying.await.at] {
        let server = serve(&[bad]).await;
        // More than one client may have waiting.
        let waiting: Vec<_> = (0..600)
            .map(|n| tokio::spawn(async move { ask(server, &format!("n{n}.example.org"), rtype::A).await }))
            .collect();
        for (text, expect) in own_zone_questions() {
            let start = Instant::now();
            assert_eq!(ask(server, text, rtype::A).await, expect);
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "its answer waited for a resolver: {:?}",
                start.elapsed()
            );
        }
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn a_slow_resolver_is_overtaken() {
    let slow = stub(|_, _| vec![]).await;
    let good = good().await;
    let server = serve(&[slow.at, good.at]).await;
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
    // After three failures in a row it is asked last, so not at all while the other answers.
    for n in 0..3 {
        assert_eq!(ask(server, &format!("n{n}.example.org"), rtype::A).await, "NxDomain");
    }
    let asked = |stub: &Stub| stub.questions();
    timeout(LONG, async {
        // Its failures are known when its patience ends.
        loop {
            let before = asked(&slow);
            assert_eq!(ask(server, &format!("m{before}.example.org"), rtype::A).await, "NxDomain");
            let probes_only = asked(&slow) == before;
            if probes_only {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("a resolver that never answers is asked last at some time");
}

#[tokio::test]
async fn an_old_answer_is_better_than_none() {
    let dead = Arc::new(AtomicBool::new(false));
    let upstream = stub({
        let dead = dead.clone();
        move |query, _| if dead.load(Ordering::Relaxed) { vec![] } else { vec![knows(query, 1)] }
    });
    let server = serve(&[upstream.await.at]).await;
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
    dead.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let answer = read(&udp(server, &wire::encode_query(7, &name("example.org"), rtype::A)).await);
    assert_eq!((show(&answer).as_str(), answer.response.answers[0].ttl), ("NoError 192.0.2.1", 30));
}

#[tokio::test]
async fn those_who_wait_for_one_name_share_its_answer() {
    let upstream = good().await;
    let server = serve(&[upstream.at]).await;
    let asked = (0..50).map(|_| ask(server, "example.org", rtype::A));
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer, "NoError 192.0.2.1");
    }
    assert_eq!(upstream.questions(), 1);
}

#[tokio::test]
async fn questions_mix_cases_and_answers_must_too() {
    let mixed = Arc::new(AtomicBool::new(false));
    let upstream = stub({
        let mixed = mixed.clone();
        move |query, tcp| {
            mixed.fetch_or(query.question.iter().any(u8::is_ascii_uppercase), Ordering::Relaxed);
            let mut folded = query.clone();
            folded.question.make_ascii_lowercase();
            // Somebody who guessed the id, but did not see the question.
            let ip = if tcp { [192, 0, 2, 1] } else { [6, 6, 6, 6] };
            vec![encoded(&folded, Rcode::NoError, vec![a(&query.name, ip, 0)])]
        }
    });
    let server = serve(&[upstream.await.at]).await;
    for _ in 0..5 {
        assert_eq!(ask(server, "a-name-with-many-letters.example.org", rtype::A).await, "NoError 192.0.2.1");
    }
    assert!(mixed.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_resolver_without_edns_is_asked_without() {
    let old = stub(|query, _| match query.edns {
        Some(_) => vec![encoded(query, Rcode::FormErr, vec![])],
        None => vec![knows(query, 60)],
    });
    let server = serve(&[old.await.at]).await;
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
}

#[tokio::test]
async fn a_domain_with_resolvers_of_its_own() {
    let (general, corp) = (
        good().await,
        stub(|query, _| vec![encoded(query, Rcode::NoError, vec![a(&query.name, [10, 9, 9, 9], 60)])]).await,
    );
    let stubs = vec![StubDomain { domain: name("corp.example"), upstreams: vec![corp.at] }];
    let server = serve_with(Some(zone()), forwarder(&[general.at]).with_stubs(stubs), |server| server).await;
    assert_eq!(ask(server, "git.corp.example", rtype::A).await, "NoError 10.9.9.9");
    assert_eq!(ask(server, "xcorp.example", rtype::A).await, "NxDomain");
    assert_eq!((corp.questions(), general.questions()), (1, 1));
}

#[tokio::test]
async fn a_resolver_that_leads_back_is_not_asked_again() {
    // It passes on whatever it is asked, to the server that asks it.
    let back: Arc<std::sync::Mutex<Option<SocketAddr>>> = Arc::default();
    let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = relay.local_addr().unwrap();
    let target = back.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, _) = relay.recv_from(&mut buffer).await.unwrap();
            let target = *target.lock().unwrap();
            if let Some(target) = target {
                relay.send_to(&buffer[..length], target).await.unwrap();
            }
        }
    });
    let good = good().await;
    let server = serve(&[at, good.at]).await;
    *back.lock().unwrap() = Some(server);
    assert_eq!(ask(server, "example.org", rtype::A).await, "NoError 192.0.2.1");
    let alone = serve(&[at]).await;
    *back.lock().unwrap() = Some(alone);
    let end = Instant::now() + LONG;
    loop {
        let start = Instant::now();
        assert_eq!(ask(alone, "example.com", rtype::A).await, "ServFail");
        // At once, since there is nobody left to ask.
        if start.elapsed() < Duration::from_millis(500) {
            break;
        }
        assert!(Instant::now() < end, "the loop is not seen");
    }
}

#[tokio::test]
async fn a_walk_ends_at_its_first_question() {
    let upstream = good().await;
    let with_pod = || {
        let mut zone = zone();
        let key = ("default".into(), "client".into());
        let ips = vec!["127.0.0.1".parse().unwrap()];
        zone.pods_mut().apply(Pod { key, ips, host_network: false, plain_search: true });
        Some(zone)
    };
    let server = serve_with(with_pod(), forwarder(&[upstream.at]), |server| server.ending_walks(true)).await;
    let first = "example.org.default.svc.cluster.local";
    assert_eq!(ask(server, first, rtype::A).await, "NoError example.org. 192.0.2.1");
    assert_eq!(ask(server, first, rtype::AAAA).await, "NoError example.org.", "the name exists, for every type");
    assert_eq!(
        ask(server, "web.default.default.svc.cluster.local", rtype::A).await,
        format!("NoError {WEB}. 10.96.0.5")
    );
    assert_eq!(ask(server, "missing.example.org.default.svc.cluster.local", rtype::A).await, "NxDomain");
    assert_eq!(ask(server, "example.org.other.svc.cluster.local", rtype::A).await, "NxDomain");
    assert_eq!(ask(server, "example.default.svc.cluster.local", rtype::A).await, "NxDomain");
    let plain = serve_with(with_pod(), forwarder(&[upstream.at]), |server| server).await;
    assert_eq!(ask(plain, first, rtype::A).await, "NxDomain", "only for who wants it");
    let deaf = serve_with(with_pod(), forwarder(&[]), |server| server.ending_walks(true)).await;
    assert_eq!(ask(deaf, first, rtype::A).await, "NxDomain", "what is not certain is left to the client");
}
