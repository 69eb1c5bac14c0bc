//! Port-forward, in three forms: SPDY inside a WebSocket or by itself (see `tunnel`), and over a WebSocket two channels for
//! each port of the query, data and error, each opened by the port's number.

use std::{collections::HashMap, io};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::OwnedReadHalf,
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::StreamReader;
use tracing::debug;

use super::{
    Answer, Refusal,
    request::{Target, pairs},
    session::{Socket, asks_for, farewell, hear_out, message, offered, upgrade, words},
    tunnel::{self, Destination},
};
use crate::pod::context::{Context, View};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const VERSION: &str = "portforward.k8s.io";
const STREAM_VERSION: &str = "x-stream-protocol-version";
const PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "portforward.k8s.io"];
const QUEUE: usize = 16;
/// Two channels each, numbered by a byte.
const MAX_PORTS: usize = 64;

pub(super) fn serve(ctx: &Context, target: &Target, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let missing = || Refusal::not_found(format!("pod \"{}/{}\" not found on this node", target.namespace, target.pod));
    let view = ctx.directory.get(&target.namespace, &target.pod).ok_or_else(missing)?;
    let to = destination(&view)?;
    if asks_for(request.headers(), "SPDY/3.1") {
        return plain_spdy(request, to);
    }
    let offers = |name: &str| offered(request.headers()).iter().any(|o| o == name);
    if offers(TUNNEL) {
        return upgrade(request, &[TUNNEL], move |socket, _| tunnelled(socket, to));
    }
    let ports = ports(request.uri().query().unwrap_or_default())?;
    upgrade(request, &PROTOCOLS, move |socket, _| run(socket, ports, to))
}

fn destination(view: &View) -> Result<Destination, Refusal> {
    let meta = &view.pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let pod = format!("{}/{}, uid {}", part(&meta.namespace), part(&meta.name), part(&meta.uid));
    match view.state.network.done() {
        Some(attachment) => Ok(Destination { pod, netns: attachment.as_ref().map(|a| a.netns.clone()) }),
        None => Err(Refusal::bad(format!("unable to forward port because pod {pod} has no network yet"))),
    }
}

/// As kubectl before 1.31 does, without a WebSocket.
fn plain_spdy(mut request: Request<Incoming>, to: Destination) -> Result<Answer, Refusal> {
    let versions = request.headers().get_all(STREAM_VERSION).iter().flat_map(words).collect::<Vec<_>>();
    if !versions.is_empty() && !versions.iter().any(|v| v == VERSION) {
        return Err(Refusal(StatusCode::FORBIDDEN, format!("unable to upgrade: this server speaks {VERSION} only")));
    }
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await.inspect_err(|e| debug!("an upgrade to SPDY failed: {e}")) else { return };
        let (from, mut sink) = tokio::io::split(TokioIo::new(upgraded));
        let (out, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
        let write = async move {
            while let Some(piece) = pieces.recv().await {
                if sink.write_all(&piece).await.is_err() || sink.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(tunnel::run(from, out, to), write);
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "SPDY/3.1")
        .header(header::CONNECTION, "Upgrade")
        .header(STREAM_VERSION, VERSION);
    answer.body(Empty::new().boxed()).map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// The messages' bytes are those of one SPDY connection.
async fn tunnelled(socket: Socket, to: Destination) {
    let (mut sink, stream) = socket.split();
    let (out, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
    let bytes = stream.filter_map(|message| async {
        match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(e) => Some(Err(io::Error::other(e))),
        }
    });
    let from = StreamReader::new(Box::pin(bytes));
    let write = async move {
        while let Some(piece) = pieces.recv().await {
            if sink.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(farewell()).await;
    };
    tokio::join!(tunnel::run(from, out, to), write);
}

fn ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let mut ports = vec![];
    for (_, value) in pairs(query).into_iter().filter(|(n, _)| matches!(n.as_str(), "port" | "ports")) {
        for text in value.split(',') {
            let port = text.parse().ok().filter(|p: &u16| *p > 0);
            ports.push(port.ok_or_else(|| Refusal::bad(format!("query parameter \"ports\": {text:?} is no port")))?);
        }
    }
    if !(1..=MAX_PORTS).contains(&ports.len()) {
        return Err(Refusal::bad(format!("query parameter \"ports\" must name 1 to {MAX_PORTS} ports")));
    }
    Ok(ports)
}

async fn run(socket: Socket, ports: Vec<u16>, to: Destination) {
    let (mut sink, mut stream) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let mut inputs: HashMap<u8, mpsc::Sender<Bytes>> = HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (channel, port) in (0_u8..).step_by(2).zip(ports) {
        let (input, received) = mpsc::channel(QUEUE);
        inputs.insert(channel, input);
        tasks.spawn(one(channel, port, to.clone(), received, out.clone()));
    }
    drop(out);
    let write = async move {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
        let _ = sink.send(farewell()).await;
    };
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(mut data) = message else { continue };
            let Some(channel) = data.first().copied() else { continue };
            bytes::Buf::advance(&mut data, 1);
            if let Some(input) = inputs.get(&channel) {
                // The connection may be closed already; others go on.
                let _ = input.send(data).await;
            }
        }
    };
    let over = tokio::select! {
        () = write => true,
        () = read => false,
    };
    if over {
        hear_out(&mut stream).await;
    }
}

async fn one(
    channel: u8,
    port: u16,
    destination: Destination,
    mut input: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Message>,
) {
    for number in [channel, channel + 1] {
        if out.send(message(number, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    let (from, mut to) = match destination.dial(port).await {
        Ok(connection) => connection.into_split(),
        Err(why) => {
            let _ = out.send(message(channel + 1, why.as_bytes())).await;
            return;
        }
    };
    let send = async move {
        while let Some(data) = input.recv().await {
            if to.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = send => {}
        () = receive(from, channel, out) => {}
    }
}

async fn receive(mut from: OwnedReadHalf, channel: u8, out: mpsc::Sender<Message>) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if out.send(message(channel, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_in_the_query() {
        assert_eq!(ports("ports=80,443&port=8080").unwrap(), [80, 443, 8080]);
        assert!(ports("").is_err());
        assert!(ports("port=x").is_err());
    }
}
