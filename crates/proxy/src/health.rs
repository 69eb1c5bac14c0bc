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
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

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

    /// The rules are in force: what healthCheckNodePorts tell, whatever becomes of the node.
    pub fn is_working(&self) -> bool {
        self.is_alive() && self.synced_once
    }

    pub fn is_healthy(&self) -> bool {
        self.is_working() && !self.node_leaving
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

fn not_found() -> Answer {
    answer(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into())
}

/// Who may ask what: probes and balancers come from anywhere, everything else is for this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Health,
    Metrics,
    /// One address for both.
    Both,
}

pub fn about_proxy(shared: &Shared, door: Door, configuration: &str, path: &str) -> Answer {
    match (door, path) {
        (Door::Health | Door::Both, "/healthz" | "/livez") => about_health(&mut shared.lock(), path),
        (Door::Metrics | Door::Both, _) => about_work(&mut shared.lock(), configuration, path),
        (Door::Health, _) => not_found(),
    }
}

fn about_health(status: &mut Status, path: &str) -> Answer {
    if path == "/livez" {
        let alive = status.is_alive();
        status.metrics.livez[usize::from(!alive)] += 1;
        return answer(code(alive), JSON, times(status, alive).to_string());
    }
    let healthy = status.is_healthy();
    status.metrics.healthz[usize::from(!healthy)] += 1;
    let mut body = times(status, healthy);
    body["nodeEligible"] = (!status.node_leaving).into();
    answer(code(healthy), JSON, body.to_string())
}

fn about_work(status: &mut Status, configuration: &str, path: &str) -> Answer {
    match path {
        "/metrics" => {
            status.metrics.last_news = last_news(status).map_or(0.0, |t| t.as_millisecond() as f64 / 1000.0);
            answer(StatusCode::OK, "text/plain; version=0.0.4", status.metrics.render())
        }
        "/healthz" => answer(StatusCode::OK, TEXT, "ok".into()),
        "/proxyMode" => answer(StatusCode::OK, TEXT, "nftables".into()),
        "/configz" => answer(StatusCode::OK, JSON, configuration.into()),
        _ => not_found(),
    }
}

/// As the wall clock shows it; what counts is the age, which no change of that clock makes wrong.
fn last_news(status: &Status) -> Option<jiff::Timestamp> {
    jiff::Timestamp::now().checked_sub(status.news_age()?).ok()
}

/// As long as all is well `lastUpdated` is now, as in kube-proxy: the rules are those of this moment.
fn times(status: &Status, well: bool) -> serde_json::Value {
    let now = jiff::Timestamp::now();
    let updated = status.last_updated.filter(|_| !well).unwrap_or(now);
    serde_json::json!({
        "lastUpdated": updated.to_string(), "currentTime": now.to_string(),
        "lastNews": last_news(status).map(|t| t.to_string()),
        "newsAgeSeconds": status.news_age().map(|age| age.as_secs()),
    })
}

/// On a healthCheckNodePort: has this node a ready endpoint of the Service?
pub fn about_service(shared: &Shared, port: u16) -> Answer {
    let status = shared.lock();
    let healthy = status.is_working();
    let Some((service, local)) = status.local.get(&port) else { return not_found() };
    let body = serde_json::json!({
        "service": {"namespace": &*service.namespace, "name": &*service.name},
        "localEndpoints": local, "serviceProxyHealthy": healthy,
    });
    let mut response = answer(code(*local > 0 && healthy), JSON, body.to_string());
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
