//! exec and attach over a WebSocket, by the protocols `v5.channel.k8s.io` and `v4.channel.k8s.io`: the first byte of
//! each message is its channel.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitStream};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{Duration, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Answer, Refusal, find,
    request::{Streams, Target},
};
use crate::{
    pod::context::Context,
    runtime::{ExecSession, ExecSpec, Resizer, read_until},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only; the channel that ends follows.
const CLOSE: u8 = 255;

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Messages waiting for a slow client.
const QUEUE: usize = 16;
/// Children that go on writing are heard this far: more than a pipe holds, so nothing of the command itself is lost.
const AFTER_END: usize = 2 << 20;
/// For a slow client to take what is queued.
const FLUSH: Duration = Duration::from_secs(60);
/// For a client to answer the farewell; a connection closed before that may lose what is under way.
const FAREWELL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Exec,
    Attach,
}

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(super) fn serve(
    ctx: Arc<Context>,
    target: Target,
    request: Request<Incoming>,
    kind: Kind,
) -> Result<Answer, Refusal> {
    let streams = Streams::parse(request.uri().query().unwrap_or_default());
    let (view, name) = find(&ctx, &target)?;
    let own = view.state.container(&name);
    let id = own.id().filter(|_| own.is_running()).map(String::from);
    let id = id.ok_or_else(|| Refusal::not_found(format!("container not found (\"{name}\")")))?;
    if kind == Kind::Exec && streams.command.is_empty() {
        return Err(Refusal::bad("you must specify at least 1 command for exec"));
    }
    upgrade(request, &PROTOCOLS, move |socket, protocol| async move {
        run(&ctx, &id, streams, kind, socket, protocol == PROTOCOLS[0]).await;
    })
}

/// Answers 101 and goes on with the socket in a task of its own.
pub(super) fn upgrade<F, R>(
    mut request: Request<Incoming>,
    protocols: &[&'static str],
    then: F,
) -> Result<Answer, Refusal>
where
    F: FnOnce(Socket, &'static str) -> R + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| wants_websocket(headers));
    let accept = key.map(|k| derive_accept_key(k.as_bytes())).ok_or_else(no_websocket)?;
    let offered = offered(headers);
    let protocol = *protocols.iter().find(|p| offered.iter().any(|o| o == **p)).ok_or_else(|| {
        Refusal(
            StatusCode::FORBIDDEN,
            format!("unable to upgrade: the client offers {offered:?}, this server speaks {protocols:?}"),
        )
    })?;
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(upgraded) => {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                then(socket, protocol).await;
            }
            Err(e) => debug!("an upgrade to WebSocket failed: {e}"),
        }
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    answer.body(Empty::new().boxed()).map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

pub(super) fn words(value: &header::HeaderValue) -> Vec<String> {
    value.to_str().unwrap_or_default().split(',').map(|w| w.trim().to_string()).collect()
}

pub(super) fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case(protocol))
}

/// The subprotocols that a client of WebSocket offers.
pub(super) fn offered(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().flat_map(words).collect()
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    asks_for(headers, "websocket")
}

fn no_websocket() -> Refusal {
    Refusal::bad(
        "unable to upgrade: this server speaks WebSocket only (kubectl 1.30 and newer do; SPDY is not supported)",
    )
}

async fn run(ctx: &Context, id: &str, streams: Streams, kind: Kind, socket: Socket, v5: bool) {
    let (mut sink, mut stream) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let reader = &mut stream;
    let session = async move {
        let status = match open(ctx, id, &streams, kind).await {
            Ok(session) => converse(session, &streams, reader, &out, v5).await,
            Err(message) => Some(internal(&message)),
        };
        if let Some(status) = status {
            let _ = out.send(message(ERROR, status.to_string().as_bytes())).await;
        }
        let _ = out.send(farewell()).await;
    };
    let write = async move {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    // When the client is gone, the writer or the reader ends and with it the session, which ends its command.
    let mut write = Box::pin(write);
    let over = tokio::select! {
        () = &mut write => false,
        () = session => true,
    };
    if over && timeout(FLUSH, write).await.is_ok() {
        hear_out(&mut stream).await;
    }
}

/// The last message: a normal end.
pub(super) fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Default::default() }))
}

/// Until the client has closed too.
pub(super) async fn hear_out(stream: &mut SplitStream<Socket>) {
    let _ = timeout(FAREWELL, async { while let Some(Ok(_)) = stream.next().await {} }).await;
}

async fn open(ctx: &Context, id: &str, streams: &Streams, kind: Kind) -> Result<ExecSession, String> {
    if kind == Kind::Attach {
        return ctx.runtime.attach(id).await.map_err(|e| e.to_string());
    }
    let spec = ExecSpec { args: streams.command.clone(), tty: streams.tty, stdin: streams.stdin, ..Default::default() };
    let failed = |e: crate::runtime::StartError| format!("error executing command in container: {}", e.message);
    ctx.runtime.exec(id, spec).await.map_err(failed)
}

/// Carries bytes both ways until the command has ended (its status is returned) or the client has gone.
async fn converse(
    mut session: ExecSession,
    streams: &Streams,
    stream: &mut SplitStream<Socket>,
    out: &mpsc::Sender<Message>,
    v5: bool,
) -> Option<Value> {
    let resizer = session.resizer();
    let stdin = session.stdin.take().filter(|_| streams.stdin);
    let stdout = session.stdout.take();
    let stderr = session.stderr.take();
    let end = CancellationToken::new();
    let pumps = async {
        tokio::join!(pump(stdout, STDOUT, streams.stdout, out, &end), pump(stderr, STDERR, streams.stderr, out, &end),)
    };
    tokio::pin!(pumps);
    let input = input(stream, stdin, resizer, v5);
    tokio::pin!(input);
    let mut drained = false;
    let code = {
        let wait = session.wait();
        tokio::pin!(wait);
        loop {
            tokio::select! {
                code = &mut wait => break code,
                _ = &mut pumps, if !drained => drained = true,
                () = &mut input => return None,
            }
        }
    };
    end.cancel();
    if !drained {
        tokio::select! {
            _ = pumps => {}
            () = input => return None,
        }
    }
    Some(ended(code, &streams.command))
}

/// Until the stream's end, or a pause after the command's end.
async fn pump(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    channel: u8,
    wanted: bool,
    out: &mpsc::Sender<Message>,
    end: &CancellationToken,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 32 << 10];
    let mut left = AFTER_END;
    while let Some(length) = read_until(&mut from, &mut buffer, end).await {
        if end.is_cancelled() {
            left = left.saturating_sub(length);
        }
        if left == 0 || (wanted && out.send(message(channel, &buffer[..length])).await.is_err()) {
            return;
        }
    }
}

/// Returns when the client is gone.
async fn input(
    stream: &mut SplitStream<Socket>,
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resizer: Resizer,
    v5: bool,
) {
    while let Some(Ok(message)) = stream.next().await {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        match data.split_first() {
            Some((&STDIN, bytes)) => write(&mut stdin, bytes).await,
            Some((&RESIZE, bytes)) => resize(&resizer, bytes),
            Some((&CLOSE, &[STDIN])) if v5 => stdin = None,
            _ => {}
        }
    }
}

/// A command that reads no more has closed its end: the rest is dropped.
async fn write(stdin: &mut Option<Box<dyn AsyncWrite + Send + Unpin>>, bytes: &[u8]) {
    if let Some(to) = stdin {
        let written = async {
            to.write_all(bytes).await?;
            to.flush().await
        };
        if written.await.is_err() {
            *stdin = None;
        }
    }
}

fn resize(resizer: &Resizer, bytes: &[u8]) {
    let Ok(size) = serde_json::from_slice::<Value>(bytes) else { return };
    let side = |name: &str| size.get(name).and_then(Value::as_u64).and_then(|v| u16::try_from(v).ok());
    if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
        resizer.resize(width, height);
    }
}

pub(super) fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut data = BytesMut::with_capacity(bytes.len() + 1);
    data.put_u8(channel);
    data.put_slice(bytes);
    Message::Binary(data.freeze())
}

fn internal(message: &str) -> Value {
    let causes = json!([{"message": message}]);
    json!({"metadata": {}, "status": "Failure", "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError", "details": {"causes": causes}, "code": 500})
}

fn ended(code: i32, command: &[String]) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    let message =
        format!("command terminated with non-zero exit code: error executing command {command:?}, exit code {code}");
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_become_statuses() {
        assert_eq!(ended(0, &[])["status"], "Success");
        let failed = ended(3, &["false".into()]);
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0]["message"], "3");
    }

    #[test]
    fn messages_begin_with_their_channel() {
        assert_eq!(message(STDOUT, b"x"), Message::Binary(Bytes::from_static(b"\x01x")));
    }
}
