//! Port-forward over SPDY: each connection is a pair of streams of one request number, one for data and one for an
//! error in words.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};
use tracing::debug;

use super::spdy::{self, Deflater, Frame, Headers, Inflater, Stream};

/// Pieces that wait for a slow side.
const QUEUE: usize = 16;
/// Pairs at one time.
const MAX_CONNECTIONS: usize = 256;
const CONNECT: Duration = Duration::from_secs(10);
const PIECE: usize = 32 << 10;

/// The pod that is reached: its loopback, as kubelet does, so that servers that listen only there answer too.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// For messages: `NAMESPACE/NAME, uid UID`.
    pub(super) pod: String,
    /// None: the node's own.
    pub(super) netns: Option<PathBuf>,
}

impl Destination {
    pub(super) async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        let (done, dialled) = oneshot::channel();
        let netns = self.netns.clone();
        // A thread of its own: it never comes back from the pod's namespace.
        let thread = std::thread::Builder::new().name("dial".into()).spawn(move || {
            let _ = done.send(dial(netns, port));
        });
        let connection = match thread {
            Ok(_) => dialled.await.unwrap_or_else(|_| Err(io::Error::other("the dialling thread ended"))),
            Err(e) => Err(e),
        };
        let connection = connection.and_then(|c| c.set_nonblocking(true).and_then(|()| TcpStream::from_std(c)));
        connection.map_err(|e| format!("error forwarding port {port} to pod {}: {e}", self.pod))
    }
}

fn dial(netns: Option<PathBuf>, port: u16) -> io::Result<std::net::TcpStream> {
    if let Some(path) = netns {
        let file = std::fs::File::open(path)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let connect = |ip: IpAddr| std::net::TcpStream::connect_timeout(&(ip, port).into(), CONNECT);
    // What IPv4 says is what the user understands.
    connect(Ipv4Addr::LOCALHOST.into()).or_else(|e| connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| e))
}

/// A request's streams, until both are there.
#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

struct Connection {
    /// None when the client has sent all.
    input: Option<mpsc::Sender<Bytes>>,
    task: AbortHandle,
}

struct Tunnel {
    destination: Destination,
    out: mpsc::Sender<Bytes>,
    deflater: Deflater,
    pairs: HashMap<String, Pair>,
    /// By their data streams.
    connections: HashMap<Stream, Connection>,
    tasks: JoinSet<Stream>,
}

/// Until the client is gone. What is to be sent goes into `out`.
pub(super) async fn run(mut from: impl AsyncRead + Unpin, out: mpsc::Sender<Bytes>, destination: Destination) {
    let mut tunnel = Tunnel {
        destination,
        out,
        deflater: Deflater::default(),
        pairs: HashMap::new(),
        connections: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let mut inflater = Inflater::default();
    loop {
        match spdy::read(&mut from, &mut inflater).await {
            Ok(Some(Frame::GoAway) | None) => return,
            Ok(Some(frame)) => {
                if tunnel.take(frame).await.is_none() {
                    return;
                }
            }
            Err(e) => return debug!("port-forward ends: {e}"),
        }
        while let Some(Ok(stream)) = tunnel.tasks.try_join_next() {
            tunnel.connections.remove(&stream);
        }
    }
}

impl Tunnel {
    /// None when the client is gone.
    async fn take(&mut self, frame: Frame) -> Option<()> {
        match frame {
            Frame::Open { stream, headers } => self.open(stream, &headers).await,
            Frame::Data { stream, bytes, fin } => {
                self.input(stream, bytes, fin).await;
                Some(())
            }
            Frame::Reset { stream } => {
                if let Some(connection) = self.connections.remove(&stream) {
                    connection.task.abort();
                }
                Some(())
            }
            // Numbers of servers are even: those would be answers to ours.
            Frame::Ping { id } if id % 2 == 1 => self.send(spdy::ping(id)).await,
            Frame::Ping { .. } | Frame::GoAway | Frame::Other => Some(()),
        }
    }

    async fn send(&self, bytes: Bytes) -> Option<()> {
        self.out.send(bytes).await.ok()
    }

    async fn open(&mut self, stream: Stream, headers: &Headers) -> Option<()> {
        let text = |name: &str| headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
        let port = text("port").parse().ok().filter(|p: &u16| *p > 0);
        let full = self.pairs.len() + self.connections.len() >= MAX_CONNECTIONS;
        let (Some(port), false, kind @ ("data" | "error")) = (port, full, text("streamtype")) else {
            return self.send(spdy::reset(stream, spdy::REFUSED)).await;
        };
        let accepted = spdy::accept(stream, &mut self.deflater);
        self.send(accepted).await?;
        // Clients of old number no requests: they make one connection to a port at a time.
        let request = Some(text("requestid")).filter(|r| !r.is_empty()).unwrap_or(text("port"));
        let pair = self.pairs.entry(request.into()).or_default();
        if kind == "data" {
            pair.data = Some(stream)
        } else {
            pair.error = Some(stream)
        }
        if let Pair { data: Some(data), error: Some(error) } = *pair {
            self.pairs.remove(request);
            self.begin(data, error, port);
        }
        Some(())
    }

    fn begin(&mut self, data: Stream, error: Stream, port: u16) {
        let (input, received) = mpsc::channel(QUEUE);
        let (destination, out) = (self.destination.clone(), self.out.clone());
        let task = self.tasks.spawn(async move {
            let why = connection(&destination, port, data, received, &out).await.err().unwrap_or_default();
            // The client waits for the end of both.
            let _ = out.send(spdy::data(error, why.as_bytes(), true)).await;
            data
        });
        self.connections.insert(data, Connection { input: Some(input), task });
    }

    /// Data of a stream that has ended is nobody's.
    async fn input(&mut self, stream: Stream, bytes: Bytes, fin: bool) {
        let Some(connection) = self.connections.get_mut(&stream) else { return };
        if let Some(input) = &connection.input
            && !bytes.is_empty()
        {
            let _ = input.send(bytes).await;
        }
        if fin {
            connection.input = None;
        }
    }
}

async fn connection(
    destination: &Destination,
    port: u16,
    stream: Stream,
    mut input: mpsc::Receiver<Bytes>,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), String> {
    let dialled = destination.dial(port).await;
    let (mut from, mut to) = match dialled {
        Ok(connection) => connection.into_split(),
        Err(why) => {
            let _ = out.send(spdy::data(stream, b"", true)).await;
            return Err(why);
        }
    };
    let send = async move {
        while let Some(bytes) = input.recv().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The pod may have closed already.
        let _ = to.shutdown().await;
        std::future::pending::<()>().await;
    };
    let receive = async {
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if out.send(spdy::data(stream, &buffer[..length], false)).await.is_err() {
                return;
            }
        }
        let _ = out.send(spdy::data(stream, b"", true)).await;
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
    Ok(())
}
