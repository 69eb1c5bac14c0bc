//! What probes and Prometheus ask, on the ports where CoreDNS has them: /health (8080), /ready (8181), /metrics (9153).

use std::{io, net::SocketAddr, sync::Arc};

use http::StatusCode;
use skiff_client::probes::{self, Answer};

use crate::server::Server;

/// At once.
const CONNECTIONS: usize = 32;

fn answer(code: StatusCode, body: String) -> Answer {
    probes::answer(code, "text/plain; version=0.0.4; charset=utf-8", body)
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
pub(crate) async fn serve(at: SocketAddr, server: Arc<Server>) -> io::Result<probes::Server> {
    probes::serve(at, CONNECTIONS, move |path| about(&server, path)).await
}
