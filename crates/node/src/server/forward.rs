//! Port-forward over a WebSocket: two channels for each port, data and error, each opened by the port's number.

use std::{collections::HashMap, net::SocketAddr};

use futures::{SinkExt, StreamExt};
use http::Request;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Answer, Refusal,
    request::{Target, pairs},
    session::{Socket, farewell, hear_out, message, upgrade},
};
use crate::pod::context::Context;

const PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "portforward.k8s.io"];
const QUEUE: usize = 16;
/// Two channels each, numbered by a byte.
const MAX_PORTS: usize = 64;

pub(super) fn serve(ctx: &Context, target: &Target, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let missing = || Refusal::not_found(format!("pod \"{}/{}\" not found on this node", target.namespace, target.pod));
    let view = ctx.directory.get(&target.namespace, &target.pod).ok_or_else(missing)?;
    let ip = view.pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).and_then(|i| i.parse().ok());
    let ip = ip.ok_or_else(|| Refusal::bad("the pod has no address yet"))?;
    let ports = ports(request.uri().query().unwrap_or_default())?;
    let targets: Vec<SocketAddr> = ports.into_iter().map(|p| SocketAddr::new(ip, p)).collect();
    upgrade(request, &PROTOCOLS, move |socket, _| run(socket, targets))
}

fn ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let mut ports = vec![];
    for (_, value) in pairs(query).into_iter().filter(|(n, _)| matches!(n.as_str(), "port" | "ports")) {
        for text in value.split(',') {
            let port = text.parse().ok().filter(|p: &u16| *p > 0);
            ports.push(port.ok_or_else(|| Refusal::bad(format!("query parameter \"ports\": {text:?} is no port")))?);
        }
    }
    if ports.is_empty() {
        // What kubectl sends.
        return Err(Refusal::bad(
            "port-forward over SPDY is not supported: reach the pod by its address from this machine, or use a client \
             that names the ports in the query (v4.channel.k8s.io)",
        ));
    }
    if ports.len() > MAX_PORTS {
        return Err(Refusal::bad(format!("query parameter \"ports\" must name 1 to {MAX_PORTS} ports")));
    }
    Ok(ports)
}

async fn run(socket: Socket, targets: Vec<SocketAddr>) {
    let (mut sink, mut stream) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let mut inputs: HashMap<u8, mpsc::Sender<bytes::Bytes>> = HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (channel, target) in (0_u8..).step_by(2).zip(targets) {
        let (input, received) = mpsc::channel(QUEUE);
        inputs.insert(channel, input);
        tasks.spawn(one(channel, target, received, out.clone()));
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

async fn one(channel: u8, target: SocketAddr, mut input: mpsc::Receiver<bytes::Bytes>, out: mpsc::Sender<Message>) {
    let port = target.port().to_le_bytes();
    for number in [channel, channel + 1] {
        if out.send(message(number, &port)).await.is_err() {
            return;
        }
    }
    let (from, mut to) = match TcpStream::connect(target).await {
        Ok(connection) => connection.into_split(),
        Err(e) => {
            let why = format!("an error occurred forwarding {}: {e}", target.port());
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
