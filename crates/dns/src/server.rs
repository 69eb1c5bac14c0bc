//! Sockets: questions in, answers out. The zone's own answers are given at once; foreign ones are waited for aside.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    forward::Forwarder,
    wire::{self, CLASS_IN, Name, Query, Rcode, Record, Reject, Response, rtype},
    zone::{Answer, Zone, reverse_address},
};

/// TCP connections that may be open at once, and how long one may be silent.
const CONNECTIONS: usize = 256;
const SILENCE: Duration = Duration::from_secs(10);
/// The same while half of the connections are taken: silent clients make room for others.
const HURRY: Duration = Duration::from_secs(1);
/// After a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(10);
/// How far a chain of aliases is followed.
const CHAIN: usize = 8;

pub struct Server {
    pub zone: RwLock<Option<Zone>>,
    pub domain: Name,
    pub forwarder: Forwarder,
}

/// What a question leads to.
enum Step {
    Done(Vec<u8>),
    /// The answer needs others.
    Ask(Query),
    Silence,
}

impl Server {
    /// Decides at once where that is possible.
    fn first(&self, message: &[u8], limit: impl Fn(&Query) -> usize) -> Step {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Reject::Silently) => return Step::Silence,
            Err(Reject::With(id, rcode)) => return Step::Done(wire::encode_reject(id, rcode)),
        };
        if query.edns.is_some_and(|e| e.version > 0) {
            return Step::Done(wire::encode_bad_version(&query));
        }
        if query.class != CLASS_IN {
            return Step::Done(wire::encode(&query, &Response::empty(Rcode::Refused), limit(&query)));
        }
        match self.look_up(&query.name, query.rtype) {
            Answer::Here(response) => Step::Done(wire::encode(&query, &turned(response, query.id), limit(&query))),
            Answer::Alias { .. } | Answer::Elsewhere => Step::Ask(query),
        }
    }

    fn look_up(&self, name: &Name, rtype: u16) -> Answer {
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        match zone.as_ref() {
            Some(zone) => zone.answer(name, rtype),
            // Before the first lists have arrived, "no such name" would be a lie.
            None if name.labels_below(&self.domain).is_some() || reverse_address(name).is_some() => {
                Answer::Here(Response::empty(Rcode::ServFail))
            }
            None => Answer::Elsewhere,
        }
    }

    /// Follows aliases and asks upstream.
    async fn resolve(&self, name: &Name, rtype: u16) -> Response {
        let mut chain: Vec<Record> = vec![];
        let mut name = name.clone();
        while chain.len() < CHAIN && !chain.iter().any(|c| c.name == name) {
            match self.look_up(&name, rtype) {
                Answer::Alias { cname, target } => {
                    chain.push(cname);
                    if rtype == rtype::CNAME {
                        break;
                    }
                    name = target;
                }
                Answer::Here(response) => return behind(chain, response),
                Answer::Elsewhere => return behind(chain, self.forwarder.resolve(&name, rtype).await),
            }
        }
        behind(chain, Response { authoritative: true, ..Response::empty(Rcode::NoError) })
    }

    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            match self.first(&buffer[..length], Query::udp_limit) {
                Step::Silence => {}
                Step::Done(answer) => send(&socket, &answer, from).await,
                Step::Ask(query) => {
                    let (server, socket) = (self.clone(), socket.clone());
                    tokio::spawn(async move {
                        let response = server.resolve(&query.name, query.rtype).await;
                        send(&socket, &wire::encode(&query, &response, query.udp_limit()), from).await;
                    });
                }
            }
        }
    }

    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // A connection that ended before it was accepted, or no descriptor left: the listener is still good.
                Err(error) => {
                    tracing::debug!("DNS over TCP: accept: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (server, slots) = (self.clone(), slots.clone());
            tokio::spawn(async move {
                let patience = || if slots.available_permits() < CONNECTIONS / 2 { HURRY } else { SILENCE };
                if let Err(error) = server.converse(stream, patience).await {
                    tracing::debug!("DNS over TCP: {error}");
                }
                drop(slot);
            });
        }
    }

    /// One question after the other on one connection (RFC 7766), until the client has no more.
    async fn converse(&self, mut stream: TcpStream, patience: impl Fn() -> Duration) -> io::Result<()> {
        loop {
            let length = match timeout(patience(), stream.read_u16()).await {
                Ok(Ok(length)) => length,
                // The client is done, or silent for too long.
                _ => return Ok(()),
            };
            let mut message = vec![0; length.into()];
            timeout(patience(), stream.read_exact(&mut message)).await??;
            let answer = match self.first(&message, |_| u16::MAX.into()) {
                Step::Silence => return Ok(()),
                Step::Done(answer) => answer,
                Step::Ask(query) => {
                    let response = self.resolve(&query.name, query.rtype).await;
                    wire::encode(&query, &response, u16::MAX.into())
                }
            };
            let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
            framed.extend(answer);
            timeout(patience(), stream.write_all(&framed)).await??;
        }
    }
}

/// Addresses in an order that changes from question to question, so that clients which take the first one spread.
fn turned(mut response: Response, id: u16) -> Response {
    let is_address = |r: &Record| matches!(r.data.rtype(), rtype::A | rtype::AAAA);
    if response.answers.len() > 1 && response.answers.iter().all(is_address) {
        let by = usize::from(id) % response.answers.len();
        response.answers.rotate_left(by);
    }
    response
}

/// The aliases in front of what they led to. An alias that leads nowhere is still an answer: the name itself exists.
fn behind(chain: Vec<Record>, mut response: Response) -> Response {
    if chain.is_empty() {
        return response;
    }
    response.rcode = Rcode::NoError;
    response.authoritative = true;
    response.answers.splice(0..0, chain);
    response
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    // A client that is gone cannot be told so.
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!("DNS answer to {to}: {error}");
    }
}
