//! What bad clients cost: nothing that grows. A process of its own, since it measures its memory; one test at a time.

mod common;

use std::{net::Ipv4Addr, time::Duration};

use common::*;
use skiff_dns::wire::{self, rtype};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Mutex,
    time::timeout,
};

static ALONE: Mutex<()> = Mutex::const_new(());

/// Connections that say nothing, that promise a message, that read no answer, again and again: none is kept for long, and
/// all of them together cost little.
#[tokio::test]
async fn slow_clients_are_left_and_cost_little() {
    let _alone = ALONE.lock().await;
    let server = serve(&[]).await;
    let many = wire::encode_query(1, &name(MANY), rtype::A);
    let mut framed = (many.len() as u16).to_be_bytes().to_vec();
    framed.extend(&many);
    let starts: [&[u8]; 4] = [&[], &[0], &[0, 50, 1], &framed];
    let mut before = None;
    for round in 0..6 {
        let mut open = vec![];
        for n in 0..200 {
            let mut stream = TcpStream::connect(server).await.unwrap();
            stream.write_all(starts[n % starts.len()]).await.unwrap();
            open.push(stream);
        }
        if round < 5 {
            // They vanish as clients do: with a reset where an answer was not read.
            drop(open);
        } else {
            for stream in &mut open {
                let ended = timeout(LONG, async { while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} });
                ended.await.expect("the server ends a silent connection");
            }
        }
        before.get_or_insert_with(resident);
    }
    let grown = resident().saturating_sub(before.unwrap());
    assert!(grown < 20, "{grown} MB more after five more rounds of 200 connections");
    assert_eq!(ask(server, WEB, rtype::A).await, "NoError 10.96.0.5");
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
    let _alone = ALONE.lock().await;
    let server = serve(&[]).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    let mut noise = Noise(0x5eed_1234_5678_9abc);
    let real = wire::encode_query(1, &name("_http._tcp.many.default.svc.cluster.local"), rtype::SRV);
    let mut buffer = [0; 4096];
    let mut before = 0;
    for n in 0..100_000 {
        if n == 10_000 {
            before = resident();
        }
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
    let grown = resident().saturating_sub(before);
    assert!(grown < 50, "{grown} MB more after 90,000 more packets");
}
