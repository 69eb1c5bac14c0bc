//! TCP (RFC 7766): several questions on one connection, answered in the order in which their answers are known.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Server, Step};
use crate::{
    metrics::{Tally, Transport},
    wire::{self, Query, Rcode, Response},
};

/// TCP connections that may be open at once, in all and for each client; and how long one may be silent.
const CONNECTIONS: usize = 256;
const EACH: usize = 64;
const SILENCE: Duration = Duration::from_secs(10);
/// The same while half of the connections are taken: silent clients make room for others.
const HURRY: Duration = Duration::from_secs(1);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// After a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(10);
/// How many questions of one connection may wait for others.
const WAITING: usize = 64;

/// How many connections each client has.
type Clients = Arc<std::sync::Mutex<std::collections::HashMap<IpAddr, usize>>>;

/// Of one family alone, so that both can have the same port.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // What is left of a former server's connections does not count.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Server {
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let (slots, clients) = (Arc::new(Semaphore::new(CONNECTIONS)), Clients::default());
        loop {
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                // A connection that ended before it was accepted, or no descriptor left: the listener is still good.
                Err(error) => {
                    tracing::debug!("DNS over TCP: accept: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(seat) = Seat::take(&clients, from.ip()) else { continue };
            let (server, slots) = (self.clone(), slots.clone());
            tokio::spawn(async move {
                let patience = || if slots.available_permits() < CONNECTIONS / 2 { HURRY } else { SILENCE };
                if let Err(error) = server.converse(stream, from, patience).await {
                    tracing::debug!("DNS over TCP: {error}");
                }
                drop((seat, slot));
            });
        }
    }

    async fn converse(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        patience: impl Fn() -> Duration,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut reader, writer) = stream.into_split();
        let line = Arc::new(Line { writer: Mutex::new(writer), from });
        let mut waiting = JoinSet::new();
        loop {
            let length = match timeout(patience(), reader.read_u16()).await {
                Ok(Ok(length)) => length,
                // The client is done, or silent for too long. What it still waits for, it gets.
                _ => break,
            };
            let mut message = vec![0; length.into()];
            timeout(patience(), reader.read_exact(&mut message)).await??;
            let step = self.first(self.zone().as_ref(), &message, from.ip(), |_| u16::MAX.into());
            match step {
                Step::Silence => break,
                Step::Done(answer) => line.send(self, wire::question_type(&message), &answer, patience()).await?,
                Step::Ask(query) => {
                    while waiting.len() >= WAITING {
                        waiting.join_next().await;
                    }
                    waiting.spawn(self.clone().later(query, line.clone(), patience()));
                }
            }
        }
        while waiting.join_next().await.is_some() {}
        Ok(())
    }

    async fn later(self: Arc<Self>, query: Query, line: Arc<Line>, patience: Duration) {
        let response = match self.pending.enter(line.from.ip()) {
            Some(_place) => self.resolve(&query, line.from.ip()).await,
            None => Response::empty(Rcode::ServFail),
        };
        let answer = wire::encode(&query, &response, u16::MAX.into());
        if let Err(error) = line.send(&self, query.rtype, &answer, patience).await {
            tracing::debug!("DNS over TCP: {error}");
        }
    }
}

/// The way back to a client.
struct Line {
    writer: Mutex<OwnedWriteHalf>,
    from: SocketAddr,
}

impl Line {
    async fn send(&self, server: &Server, asked: u16, answer: &[u8], patience: Duration) -> io::Result<()> {
        let start = Instant::now();
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend(answer);
        timeout(patience, async { self.writer.lock().await.write_all(&framed).await }).await??;
        let mut tally = Tally::new(Transport::Tcp, self.from.is_ipv6());
        tally.answered(asked, wire::rcode(answer));
        server.metrics.add(&tally, 1, start.elapsed());
        Ok(())
    }
}

/// One of a client's connections.
struct Seat(Clients, IpAddr);

impl Seat {
    fn take(clients: &Clients, ip: IpAddr) -> Option<Self> {
        let mut counts = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = counts.entry(ip).or_default();
        if *mine >= EACH && !ip.is_loopback() {
            return None;
        }
        *mine += 1;
        Some(Seat(clients.clone(), ip))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = counts.get_mut(&self.1) {
            *mine -= 1;
            if *mine == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[tokio::test]
    async fn both_families_have_the_same_port() {
        if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return skiff_testkit::tools::skip("this test needs IPv6 on the loopback");
        }
        let four = listen((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = four.local_addr().unwrap().port();
        listen((Ipv6Addr::UNSPECIFIED, port).into()).expect("the other family's port is free");
    }
}
