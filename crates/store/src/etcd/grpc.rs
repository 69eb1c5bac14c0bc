//! A gRPC client as small as etcd needs it: one HTTP/2 connection to one of the endpoints, calls with one answer, and
//! calls with a stream of them. A connection that failed is given up, and the next call tries the next endpoint.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response, Uri,
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::TlsConnector;

use super::wire::Message;

const CONNECT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// The largest answer that is taken: a page of a list, or the changes of some commits.
const MAX_ANSWER: usize = 1 << 30;

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Debug)]
pub(super) enum Failure {
    /// etcd's own no: nothing has happened.
    Refused { code: u32, message: String },
    /// No connection, no answer in time, or one that cannot be understood: what has happened is unknown.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused { message, .. } => f.write_str(message),
            Failure::Unknown(reason) => f.write_str(reason),
        }
    }
}

pub(super) const OUT_OF_RANGE: u32 = 11;
const RESOURCE_EXHAUSTED: u32 = 8;

impl Failure {
    fn of(code: u32, message: String) -> Self {
        // Invalid argument, permission denied, resource exhausted, failed precondition, out of range, unimplemented,
        // unauthenticated. All else says that etcd is not well.
        match code {
            3 | 7 | RESOURCE_EXHAUSTED | 9 | OUT_OF_RANGE | 12 | 16 => Failure::Refused { code, message },
            _ => Failure::Unknown(message),
        }
    }

    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Failure::Refused { code: OUT_OF_RANGE, message } if message.contains("compacted"))
    }

    /// What to do about it, where that is known.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Failure::Refused { code: RESOURCE_EXHAUSTED, message } if message.contains("space") => {
                "; give etcd a larger --quota-backend-bytes, or `etcdctl defrag` and then `etcdctl alarm disarm`"
            }
            Failure::Refused { code: 16, .. } | Failure::Refused { code: 7, .. } => {
                "; the user of the client certificate needs read and write permission for the prefix"
            }
            _ => "",
        }
    }
}

fn unknown(error: impl fmt::Display) -> Failure {
    Failure::Unknown(error.to_string())
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

impl Endpoint {
    /// None: not of the form `http://HOST:PORT` or `https://HOST:PORT`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.trim_end_matches('/').parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let plain = uri.path() == "/" && uri.query().is_none();
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(2379);
        plain.then_some(Endpoint { uri, host, port, tls })
    }

    pub(super) fn needs_tls(&self) -> bool {
        self.tls
    }
}

#[derive(Default)]
struct Current {
    /// Counts the connections, so that of many callers that see one fail only the first gives it up.
    generation: u64,
    connection: Option<SendRequest<Body>>,
}

pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsConnector>,
    current: Mutex<Current>,
}

impl Client {
    /// `endpoints` is not empty.
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Client { endpoints, tls: tls.map(TlsConnector::from), current: Mutex::default() }
    }

    /// Asks and waits for the one answer.
    pub(super) async fn call(&self, path: &str, message: Message, within: Duration) -> Result<Bytes, Failure> {
        let (generation, connection) = self.connection().await?;
        let body = Full::new(framed(&message.finish())).boxed_unsync();
        let answer = tokio::time::timeout(within, self.ask(connection, path, body)).await;
        let answer = answer.unwrap_or_else(|_| Err(unknown(format!("no answer within {within:?}"))));
        if let Err(Failure::Unknown(_)) = &answer {
            self.give_up(generation).await;
        }
        answer
    }

    async fn ask(&self, connection: SendRequest<Body>, path: &str, body: Body) -> Result<Bytes, Failure> {
        let response = self.send(connection, path, body).await?;
        let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(unknown)?;
        if let Some(trailers) = collected.trailers() {
            status(trailers)?;
        }
        let mut bytes = collected.to_bytes();
        unframe(&mut bytes)?.ok_or_else(|| unknown("an answer of etcd ended early"))
    }

    /// Asks and leaves the question open, for as long as answers are wanted.
    pub(super) async fn open(&self, path: &str, message: Message, within: Duration) -> Result<Answers, Failure> {
        let (generation, connection) = self.connection().await?;
        let frame = Ok(Frame::data(framed(&message.finish())));
        let body = StreamBody::new(stream::iter([frame]).chain(stream::pending())).boxed_unsync();
        let response = tokio::time::timeout(within, self.send(connection, path, body)).await;
        let response = response.unwrap_or_else(|_| Err(unknown(format!("no answer within {within:?}"))));
        if let Err(Failure::Unknown(_)) = &response {
            self.give_up(generation).await;
        }
        Ok(Answers { body: response?.into_body(), read: BytesMut::new() })
    }

    async fn send(
        &self,
        mut connection: SendRequest<Body>,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // A member that has lost the others says so instead of waiting for them.
            .header("hasleader", "true")
            .body(body)
            .map_err(unknown)?;
        let response = connection.send_request(request).await.map_err(unknown)?;
        if response.status() != 200 {
            return Err(unknown(format!("{} from something that is no etcd v3 endpoint", response.status())));
        }
        status(response.headers())?;
        Ok(response)
    }

    async fn connection(&self) -> Result<(u64, SendRequest<Body>), Failure> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok((current.generation, connection.clone()));
        }
        let mut reasons = Vec::new();
        for _ in &self.endpoints {
            let endpoint = &self.endpoints[current.generation as usize % self.endpoints.len()];
            current.generation += 1;
            let connected = tokio::time::timeout(CONNECT, self.connect(endpoint)).await;
            match connected.unwrap_or_else(|_| Err(unknown(format!("no connection within {CONNECT:?}")))) {
                Ok(connection) => {
                    current.connection = Some(connection.clone());
                    return Ok((current.generation, connection));
                }
                Err(failure) => reasons.push(format!("{}: {failure}", endpoint.uri)),
            }
        }
        Err(Failure::Unknown(reasons.join(", ")))
    }

    async fn give_up(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation {
            current.connection = None;
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<SendRequest<Body>, Failure> {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(unknown)?;
        tcp.set_nodelay(true).map_err(unknown)?;
        let Some(tls) = self.tls.as_ref().filter(|_| endpoint.tls) else {
            return handshake(endpoint, TokioIo::new(tcp)).await;
        };
        let name = ServerName::try_from(endpoint.host.clone()).map_err(unknown)?;
        let tls = tls.connect(name, tcp).await.map_err(|error| unknown(format!("TLS: {error}")))?;
        handshake(endpoint, TokioIo::new(tls)).await
    }
}

async fn handshake(
    endpoint: &Endpoint,
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
) -> Result<SendRequest<Body>, Failure> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    let (requests, connection) = builder.handshake(io).await.map_err(unknown)?;
    let uri = endpoint.uri.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("the connection to {uri} ended: {error}");
        }
    });
    Ok(requests)
}

/// The answers to an open question. Dropping it takes the question back.
pub(super) struct Answers {
    body: Incoming,
    read: BytesMut,
}

impl Answers {
    /// Loses nothing when it is not waited for to the end.
    pub(super) async fn next(&mut self) -> Result<Bytes, Failure> {
        loop {
            if let Some(length) = whole_frame(&self.read)? {
                self.read.advance(FRAME_HEAD);
                return Ok(self.read.split_to(length).freeze());
            }
            let frame = self.body.frame().await.ok_or_else(|| unknown("the stream of changes ended"))?;
            match frame.map_err(unknown)?.into_data() {
                Ok(data) => self.read.put(data),
                Err(frame) => frame.into_trailers().map_or(Ok(()), |trailers| status(&trailers))?,
            }
        }
    }
}

/// One byte that says whether it is compressed, four of length.
const FRAME_HEAD: usize = 5;

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The length of the message at the front, if it is there to its end.
fn whole_frame(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let Some((head, rest)) = bytes.split_at_checked(FRAME_HEAD) else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    match head[0] {
        _ if length > MAX_ANSWER => Err(unknown(format!("an answer of {length} bytes"))),
        0 => Ok((rest.len() >= length).then_some(length)),
        _ => Err(unknown("a compressed answer, which was not asked for")),
    }
}

fn unframe(bytes: &mut Bytes) -> Result<Option<Bytes>, Failure> {
    let Some(length) = whole_frame(bytes)? else { return Ok(None) };
    bytes.advance(FRAME_HEAD);
    Ok(Some(bytes.split_to(length)))
}

fn status(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").map(str::parse) {
        None | Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => Err(Failure::of(code, text("grpc-message").unwrap_or("no reason given").to_owned())),
        Some(Err(_)) => Err(unknown("an answer without a status")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_of_a_host() {
        for (text, expected) in [
            ("http://127.0.0.1:2379", Some(("127.0.0.1", 2379, false))),
            ("https://etcd.example:1/", Some(("etcd.example", 1, true))),
            ("https://[::1]:2379", Some(("::1", 2379, true))),
            ("http://etcd", Some(("etcd", 2379, false))),
            ("127.0.0.1:2379", None),
            ("unix:///run/etcd", None),
            ("http://etcd/path", None),
            ("", None),
        ] {
            let parsed = Endpoint::parse(text);
            let parsed = parsed.as_ref().map(|endpoint| (endpoint.host.as_str(), endpoint.port, endpoint.tls));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn frames_come_whole_or_not_yet() {
        let frame = framed(b"message");
        for cut in 0..frame.len() {
            assert!(matches!(unframe(&mut frame.slice(..cut)), Ok(None)));
        }
        let mut two = [&frame[..], &frame[..3]].concat().into();
        assert!(matches!(unframe(&mut two), Ok(Some(message)) if message == "message"));
        assert_eq!(two, frame[..3]);
        assert!(whole_frame(&[1, 0, 0, 0, 0]).is_err());
        assert!(whole_frame(&[0, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
