//! One client floods, in one way after the other, while another one is served: the other's latency, what it lost, and the
//! server's memory.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use skiff_dns::wire::{self, Name, rtype};

use super::{Result, ours, print, question, used};

const LANES: usize = 4;
const LASTS: Duration = Duration::from_secs(4);
/// The other client asks so often.
const PAUSE: Duration = Duration::from_micros(500);
const LATE: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 400;

/// What goes on at once, until the flag is set. It counts what it did.
type Flood = fn(Ipv4Addr, SocketAddr, &AtomicBool, &AtomicU64);

const FLOODS: [(&str, Flood); 5] = [
    ("nothing else", |_, _, _, _| {}),
    ("UDP, own names", own_names),
    ("UDP, random names", random_names),
    ("TCP, silent", silent),
    ("TCP, greedy", greedy),
];

pub(super) fn run(services: usize) -> Result<()> {
    print(&format!(
        "{:>8} {:<18} {:>10} {:>8} {:>8} {:>8} {:>6} {:>8} {:>8}",
        "services", "while one sends", "per second", "p50 us", "p99 us", "max us", "lost", "MB", "CPU s"
    ));
    let peer = ours(services, LANES)?;
    // Both in one lane: the worst case.
    let bad = Ipv4Addr::new(127, 0, 0, 2);
    let good =
        (3..250).map(|n| Ipv4Addr::new(127, 0, 0, n)).find(|ip| lane(*ip) == lane(bad)).ok_or("no such client")?;
    for (what, flood) in FLOODS {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flooding = {
            let (stop, sent, at) = (stop.clone(), sent.clone(), peer.at);
            thread::spawn(move || flood(bad, at, &stop, &sent))
        };
        let (before, start) = (used(peer.child.id()).0, Instant::now());
        let (mut took, lost) = served(good, peer.at, services)?;
        let per_second = sent.load(Relaxed) as f64 / start.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        flooding.join().map_err(|_| "the flood failed")?;
        let (cpu, memory) = used(peer.child.id());
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took.get(((took.len() - 1) as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        print(&format!(
            "{services:>8} {what:<18} {per_second:>10.0} {:>8.0} {:>8.0} {:>8.0} {lost:>6} {memory:>8.1} {:>8.2}",
            at(0.5),
            at(0.99),
            at(1.0),
            cpu - before
        ));
    }
    Ok(())
}

/// As the server chooses it.
fn lane(ip: Ipv4Addr) -> u32 {
    (ip.to_bits().wrapping_mul(0x9e37_79b1) >> 16) % LANES as u32
}

/// Microseconds of the other client's questions, and how many had no answer.
fn served(from: Ipv4Addr, at: SocketAddr, services: usize) -> Result<(Vec<f64>, usize)> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(LATE))?;
    let (end, mut took, mut lost, mut buffer) = (Instant::now() + LASTS, vec![], 0, [0; 1500]);
    for id in 0.. {
        if Instant::now() > end {
            break;
        }
        let start = Instant::now();
        socket.send(&question(id as u16, id * 7919 % services))?;
        let answered = loop {
            match socket.recv(&mut buffer) {
                Ok(_) if buffer[..2] == (id as u16).to_be_bytes() => break true,
                // A late one.
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        match answered {
            true => took.push(start.elapsed().as_secs_f64() * 1e6),
            false => lost += 1,
        }
        // The pace of a client that has other things to do.
        #[expect(clippy::disallowed_methods, reason = "a pace, no event to wait for; no runtime to stall")]
        thread::sleep(PAUSE);
    }
    Ok((took, lost))
}

fn send_all(from: Ipv4Addr, at: SocketAddr, stop: &AtomicBool, sent: &AtomicU64, next: impl Fn(u64) -> Vec<u8>) {
    let Ok(socket) = UdpSocket::bind((from, 0)) else { return };
    let messages: Vec<Vec<u8>> = (0..4096).map(next).collect();
    for message in messages.iter().cycle() {
        if stop.load(Relaxed) {
            break;
        }
        // Answers are not even read.
        if socket.send_to(message, at).is_ok() {
            sent.fetch_add(1, Relaxed);
        }
    }
}

fn own_names(from: Ipv4Addr, at: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) {
    send_all(from, at, stop, sent, |n| question(n as u16, n as usize % 100));
}

/// Names that only the resolver could know, which is dead.
fn random_names(from: Ipv4Addr, at: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) {
    send_all(from, at, stop, sent, |n| {
        let name = Name::parse(&format!("x{:x}.example.org", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        wire::encode_query(n as u16, &name.expect("a good name"), rtype::A)
    });
}

/// Connections that promise a message and never send it.
fn silent(_: Ipv4Addr, at: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) {
    let mut open = vec![];
    while !stop.load(Relaxed) {
        if let Ok(mut stream) = TcpStream::connect_timeout(&at, LATE) {
            let _ = stream.write_all(&[0, 50, 1]);
            sent.fetch_add(1, Relaxed);
            open.push(stream);
        }
        if open.len() >= CONNECTIONS {
            open.clear();
        }
    }
}

/// Questions without end, whose answers are never read.
fn greedy(_: Ipv4Addr, at: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) {
    let message = question(1, 1);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    while !stop.load(Relaxed) {
        let Ok(mut stream) = TcpStream::connect_timeout(&at, LATE) else { continue };
        let _ = stream.set_write_timeout(Some(LATE));
        while !stop.load(Relaxed) && stream.write_all(&framed).is_ok() {
            sent.fetch_add(1, Relaxed);
        }
    }
}
