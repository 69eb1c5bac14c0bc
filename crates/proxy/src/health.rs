//! What load balancers and operators ask over HTTP: does the proxy work, is there a local endpoint, the metrics.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::StatusCode;
use skiff_client::probes::{Answer, Server, answer, serve};
use skiff_services::model::ServiceKey;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// A sync that waits longer than this means that the proxy does not work.
const OVERDUE: Duration = Duration::from_secs(120);
/// At once, on each address.
pub const CONNECTIONS: usize = 64;

/// What the loop tells and the servers answer from.
#[derive(Debug, Default)]
pub struct Status {
    pub metrics: Metrics,
    /// Since when a change waits for its sync.
    pub waiting_since: Option<Instant>,
    pub synced_once: bool,
    pub last_updated: Option<jiff::Timestamp>,
    /// When the API server was last heard of. It may just have nothing to say: a node's own object changes every few
    /// minutes at least.
    pub last_news: Option<Instant>,
    /// Node is being deleted, or is marked for it by the autoscaler.
    pub node_leaving: bool,
    /// Ready local endpoints, by healthCheckNodePort.
    pub local: HashMap<u16, (ServiceKey, usize)>,
}

impl Status {
    /// How long ago the API server was last heard of.
    fn news_age(&self) -> Option<Duration> {
        self.last_news.map(|at| at.elapsed())
    }

    pub fn is_alive(&self) -> bool {
        self.waiting_since.is_none_or(|since| since.elapsed() < OVERDUE)
    }

    pub fn is_healthy(&self) -> bool {
        self.is_alive() && self.synced_once && !self.node_leaving
    }
}

#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Status>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Status> {
        // A panic elsewhere does not make these figures wrong.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn code(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// /healthz and /livez, and what else kube-proxy offers on its metrics port.
pub fn about_proxy(shared: &Shared, path: &str) -> Answer {
    let mut status = shared.lock();
    let (alive, healthy) = (status.is_alive(), status.is_healthy());
    match path {
        "/healthz" => {
            status.metrics.healthz[usize::from(!healthy)] += 1;
            answer(code(healthy), "application/json", times(&status))
        }
        "/livez" => {
            status.metrics.livez[usize::from(!alive)] += 1;
            answer(code(alive), "application/json", times(&status))
        }
        "/metrics" => {
            status.metrics.last_news = last_news(&status).map_or(0.0, |t| t.as_millisecond() as f64 / 1000.0);
            answer(StatusCode::OK, "text/plain; version=0.0.4", status.metrics.render())
        }
        "/proxyMode" => answer(StatusCode::OK, "text/plain", "nftables".into()),
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n".into()),
    }
}

/// As the wall clock shows it; what counts is the age, which no change of that clock makes wrong.
fn last_news(status: &Status) -> Option<jiff::Timestamp> {
    jiff::Timestamp::now().checked_sub(status.news_age()?).ok()
}

fn times(status: &Status) -> String {
    let now = jiff::Timestamp::now();
    let updated = status.last_updated.unwrap_or(now);
    let body = serde_json::json!({
        "lastUpdated": updated.to_string(), "currentTime": now.to_string(), "nodeEligible": !status.node_leaving,
        "lastNews": last_news(status).map(|t| t.to_string()),
        "newsAgeSeconds": status.news_age().map(|age| age.as_secs()),
    });
    body.to_string()
}

/// On a healthCheckNodePort: has this node a ready endpoint of the Service?
pub fn about_service(shared: &Shared, port: u16) -> Answer {
    let status = shared.lock();
    let healthy = status.is_healthy();
    let Some((service, local)) = status.local.get(&port) else {
        return answer(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n".into());
    };
    let body = serde_json::json!({
        "service": {"namespace": &*service.namespace, "name": &*service.name},
        "localEndpoints": local, "serviceProxyHealthy": healthy,
    });
    let mut response = answer(code(*local > 0 && healthy), "application/json", body.to_string());
    response.headers_mut().insert("x-load-balancing-endpoint-weight", (*local as u64).into());
    response
}

/// The listeners of all healthCheckNodePorts.
#[derive(Debug, Default)]
pub struct NodePortServers {
    open: BTreeMap<SocketAddr, Server>,
    refused: BTreeSet<SocketAddr>,
}

impl NodePortServers {
    /// Opens what is missing and closes what is not wanted any more. A port that cannot be had is tried again next time;
    /// those that are refused since now come back.
    pub async fn want(&mut self, addresses: &[IpAddr], ports: &[u16], shared: &Shared) -> Vec<(SocketAddr, io::Error)> {
        let wanted: BTreeSet<SocketAddr> =
            ports.iter().flat_map(|p| addresses.iter().map(move |ip| SocketAddr::new(*ip, *p))).collect();
        self.open.retain(|at, _| wanted.contains(at));
        self.refused.retain(|at| wanted.contains(at));
        let mut refused = vec![];
        for at in wanted {
            if self.open.contains_key(&at) {
                continue;
            }
            let shared = shared.clone();
            match serve(at, CONNECTIONS, move |_| about_service(&shared, at.port())).await {
                Ok(server) => {
                    self.refused.remove(&at);
                    self.open.insert(at, server);
                }
                Err(e) if self.refused.insert(at) => refused.push((at, e)),
                Err(_) => {}
            }
        }
        refused
    }
}
