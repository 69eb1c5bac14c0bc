//! One question to one resolver: by UDP from a port that the kernel chooses at random, in a random mixture of cases that
//! the answer must repeat (0x20), so that nobody who cannot see the question can answer it. By TCP when the answer was cut.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout_at,
};

use crate::wire::{self, Foreign, HEADER, Name, OPT_LENGTH, Rcode};

/// After so long without an answer the question is sent again: UDP loses packets.
const AGAIN: Duration = Duration::from_millis(700);

#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) rtype: u16,
}

/// The bytes of a question, with an id and a mixture of cases of its own.
struct Sent {
    bytes: Vec<u8>,
    edns: bool,
}

impl Sent {
    fn new(question: &Question, edns: bool) -> Self {
        let mut bytes = wire::encode_query(rand::random(), &question.name, question.rtype);
        if !edns {
            bytes.truncate(bytes.len() - OPT_LENGTH);
            bytes[11] = 0;
        }
        let mut sent = Sent { bytes, edns };
        let end = sent.question_end();
        // Lengths of labels are below any letter.
        for byte in &mut sent.bytes[HEADER..end - 4] {
            if byte.is_ascii_lowercase() && rand::random() {
                byte.make_ascii_uppercase();
            }
        }
        sent
    }

    fn question_end(&self) -> usize {
        self.bytes.len() - if self.edns { OPT_LENGTH } else { 0 }
    }

    /// The answer to this question; `exact` in its mixture of cases.
    fn accepts(&self, message: &[u8], exact: bool) -> Option<Foreign> {
        let asked = &self.bytes[HEADER..self.question_end()];
        let repeated = message.get(HEADER..self.question_end())?;
        let same = if exact { repeated == asked } else { repeated.eq_ignore_ascii_case(asked) };
        (same && message[..2] == self.bytes[..2]).then(|| wire::parse_foreign(message)).flatten()
    }
}

/// Until the caller's patience ends.
pub(super) async fn exchange(upstream: SocketAddr, question: Question) -> io::Result<Foreign> {
    let answer = by_udp(upstream, &Sent::new(&question, true)).await?;
    match answer.response.rcode {
        // It does not know EDNS (RFC 6891, 7).
        Rcode::FormErr | Rcode::NotImp => by_udp(upstream, &Sent::new(&question, false)).await,
        _ => Ok(answer),
    }
}

async fn by_udp(upstream: SocketAddr, sent: &Sent) -> io::Result<Foreign> {
    let here: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(here).await?;
    socket.connect(upstream).await?;
    let mut buffer = [0; 4096];
    let mut send_at = Instant::now();
    loop {
        if Instant::now() >= send_at {
            socket.send(&sent.bytes).await?;
            send_at = Instant::now() + AGAIN;
        }
        let Ok(received) = timeout_at(send_at.into(), socket.recv(&mut buffer)).await else { continue };
        let message = &buffer[..received?];
        match sent.accepts(message, true) {
            Some(foreign) if foreign.truncated => return by_tcp(upstream, sent).await,
            Some(foreign) => return Ok(foreign),
            // Right but for the case: a resolver that changes it, or somebody who guessed the rest. TCP tells.
            None if sent.accepts(message, false).is_some() => return by_tcp(upstream, sent).await,
            // Not the answer to this question: somebody guesses. Wait for the true one.
            None => {}
        }
    }
}

async fn by_tcp(upstream: SocketAddr, sent: &Sent) -> io::Result<Foreign> {
    let mut stream = TcpStream::connect(upstream).await?;
    let mut framed = (sent.bytes.len() as u16).to_be_bytes().to_vec();
    framed.extend(&sent.bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    let foreign = sent.accepts(&answer, false);
    foreign.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer to the question"))
}
