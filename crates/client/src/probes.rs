//! The small HTTP servers beside a component, for probes and metrics: every request is answered from its path alone.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
    time::{sleep, timeout},
};

/// One that lasts longer is cut off.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

pub type Answer = Response<Full<Bytes>>;

pub fn answer(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(kind));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `connections`: more wait until others have ended.
pub async fn serve(
    at: SocketAddr,
    connections: usize,
    ask: impl Fn(&str) -> Answer + Clone + Send + 'static,
) -> io::Result<Server> {
    let listener = TcpListener::bind(at).await?;
    let task = tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(connections));
        while let Ok(permit) = room.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: others need a moment to close theirs.
                sleep(PAUSE).await;
                continue;
            };
            let ask = ask.clone();
            tokio::spawn(async move {
                talk(stream, ask).await;
                drop(permit);
            });
        }
    });
    Ok(Server(task.abort_handle()))
}

async fn talk(stream: TcpStream, ask: impl Fn(&str) -> Answer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = ask(request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    // A client that breaks off or dawdles is its own affair.
    let _ = timeout(CONNECTION_LIFE, connection).await;
}
