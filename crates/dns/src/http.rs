//! What probes and Prometheus ask, on the ports where CoreDNS has them: /health (8080), /ready (8181), /metrics (9153).

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::server::Server;

const CONNECTIONS: usize = 32;
const LIFE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

fn answer(code: StatusCode, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert("content-type", kind);
    response
}

/// Ready from when the zone is complete; that the API is gone later only makes the zone old, which is said.
fn ready(server: &Server) -> Answer {
    if server.zone().is_none() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "waiting for the first lists of the API\n".into());
    }
    let age = server.metrics.zone_age().map_or(String::new(), |a| format!("API last seen {} s ago\n", a.as_secs()));
    answer(StatusCode::OK, format!("OK\n{age}"))
}

fn about(server: &Server, path: &str) -> Answer {
    match path {
        "/health" | "/healthz" | "/livez" => answer(StatusCode::OK, "OK".into()),
        "/ready" | "/readyz" => ready(server),
        "/metrics" => answer(StatusCode::OK, server.metrics.render()),
        _ => answer(StatusCode::NOT_FOUND, "404 page not found: there are /health, /ready and /metrics\n".into()),
    }
}

/// Answers until it is dropped.
pub(crate) async fn serve(address: SocketAddr, server: Arc<Server>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: others need a moment to close theirs.
            sleep(PAUSE).await;
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = about(&server, request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let mut builder = http1::Builder::new();
            let connection = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            // A client that breaks off or dawdles is its own affair.
            let _ = timeout(LIFE, connection).await;
            drop(permit);
        });
    }
}
