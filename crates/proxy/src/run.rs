//! The loop: observe (watches), plan (ruleset), diff and apply (sync). Events only mark Services dirty; the next turn of
//! the loop commits everything that has come in by then, in one transaction.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream::BoxStream};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use skiff_client::{
    feed::Feed,
    life::{Ready, Stop},
};
use skiff_nft::{Kernel, Netlink, Ownership};
use skiff_services::{
    choice::{Viewpoint, choose},
    model::{LABEL_HEADLESS, LABEL_PROXY_NAME, ServiceKey, TrafficPolicy},
};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::{
    conntrack::{Cleanup, Conntrack},
    health::{NodePortServers, Server, Shared, about_proxy, serve},
    observe::Observed,
    ruleset::{Networks, NodeView, PortPlan, Route, Ruleset, is_served},
    sync::{Report, Syncer},
};

const ZONE: &str = "topology.kubernetes.io/zone";
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// Foreign changes are found within this time.
const CHECK_EVERY: Duration = Duration::from_millis(250);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// Events taken in one turn, so that a flood does not keep the rules waiting.
const EVENTS_PER_TURN: usize = 5000;

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// Addresses on which NodePorts are served.
    pub node_ips: Vec<IpAddr>,
    /// Where pods are: clients from here keep their address.
    pub cluster_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    /// If not empty, only node addresses in these networks serve NodePorts.
    pub node_port_addresses: Vec<IpNet>,
    /// Name of the nftables tables (ip and ip6).
    pub table: String,
    /// Where /healthz and /livez are served.
    pub healthz: Option<SocketAddr>,
    /// Where /metrics and /proxyMode are served.
    pub metrics: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kernel(#[from] skiff_nft::Error),
    #[error("proxy: cannot listen on {0}: {1}; choose another address or stop who has it")]
    Listen(SocketAddr, io::Error),
}

/// Runs until `stop`. The rules stay in force afterwards: a proxy that comes back takes them over.
///
/// Must be called on the thread that is inside the node's network namespace.
pub async fn run(config: Config, client: Client, ready: Ready, stop: Stop) -> Result<(), Error> {
    let kernel = Netlink::open(Ownership::Exclusive)?;
    let conntrack = Conntrack::open().inspect_err(|e| tracing::warn!(error = %e, "no conntrack clean-up")).ok();
    let shared = Shared::default();
    let _servers = listen(&config, &shared).await?;
    let watches = Watches::open(&client, &config.node_name);
    let proxy = Proxy::new(config, kernel, conntrack, shared, ready);
    tokio::select! {
        () = stop.cancelled() => {}
        () = proxy.run(watches) => {}
    }
    Ok(())
}

/// Takes the tables away, for a node that will have no proxy any more.
pub fn remove_tables(table: &str) -> Result<(), skiff_nft::Error> {
    let mut kernel = Netlink::open(Ownership::Exclusive)?;
    for id in Ruleset::new(table, Networks::default(), NodeView::default()).table_refs() {
        if kernel.dump(&id)?.is_some() {
            let mut batch = skiff_nft::Batch::default();
            batch.push(&id, skiff_nft::Change::DeleteTable);
            kernel.commit(&batch)?;
        }
    }
    Ok(())
}

async fn listen(config: &Config, shared: &Shared) -> Result<Vec<Server>, Error> {
    let mut servers = vec![];
    let wanted: BTreeSet<SocketAddr> = config.healthz.into_iter().chain(config.metrics).collect();
    for at in wanted {
        let shared = shared.clone();
        let server = serve(at, move |path| about_proxy(&shared, path)).await;
        servers.push(server.map_err(|e| Error::Listen(at, e))?);
    }
    Ok(servers)
}

type Events = BoxStream<'static, Result<Event<Node>, watcher::Error>>;

struct Watches {
    feed: Feed,
    node: Events,
}

impl Watches {
    fn open(client: &Client, node: &str) -> Self {
        let any = || watcher::Config::default().any_semantic();
        let services = any().labels(&format!("!{LABEL_PROXY_NAME}"));
        let slices = any().labels(&format!("!{LABEL_HEADLESS},!{LABEL_PROXY_NAME}"));
        let node = any().fields(&format!("metadata.name={node}"));
        Watches {
            feed: Feed::open(client, services, slices),
            node: watcher(Api::all(client.clone()), node).default_backoff().boxed(),
        }
    }
}

/// The next event; a failed watch is told and goes on by itself.
async fn next(events: &mut Events) -> Event<Node> {
    loop {
        match events.next().await {
            Some(Ok(event)) => return event,
            Some(Err(e)) => tracing::warn!(error = %e, "watch of this node failed; trying again"),
            None => futures::future::pending().await,
        }
    }
}

struct Proxy<K> {
    config: Config,
    syncer: Syncer<K>,
    conntrack: Option<Conntrack>,
    observed: Observed,
    shared: Shared,
    ready: Option<Ready>,
    node_changed: Option<NodeView>,
    health_ports: NodePortServers,
    health: HashMap<ServiceKey, (u16, usize)>,
    retry_at: Option<tokio::time::Instant>,
    retry_delay: Duration,
}

impl<K: Kernel> Proxy<K> {
    fn new(config: Config, kernel: K, conntrack: Option<Conntrack>, shared: Shared, ready: Ready) -> Self {
        let networks = Networks { internal: config.cluster_cidrs.clone(), service_cidrs: config.service_cidrs.clone() };
        let rules = Ruleset::new(&config.table, networks, node_view(&config, None));
        Proxy {
            config,
            syncer: Syncer::new(kernel, rules),
            conntrack,
            observed: Observed::default(),
            shared,
            ready: Some(ready),
            node_changed: None,
            health_ports: NodePortServers::default(),
            health: HashMap::new(),
            retry_at: None,
            retry_delay: RETRY_FIRST,
        }
    }

    async fn run(mut self, mut watches: Watches) {
        let mut check = interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let retry_at = self.retry_at;
            let retry = async {
                match retry_at {
                    Some(at) => sleep_until(at).await,
                    None => futures::future::pending().await,
                }
            };
            tokio::select! {
                change = watches.feed.next() => self.observed.take(change),
                event = next(&mut watches.node) => self.node(event),
                _ = check.tick() => self.check(),
                () = retry => self.retry_at = None,
            }
            self.drain(&mut watches);
            if self.work_waits() {
                self.sync().await;
            }
        }
    }

    /// Takes in what has arrived already, so that it shares the transaction.
    fn drain(&mut self, watches: &mut Watches) {
        for _ in 0..EVENTS_PER_TURN {
            let Some(change) = watches.feed.next().now_or_never() else { return };
            self.observed.take(change);
        }
    }

    fn work_waits(&mut self) -> bool {
        let first = self.ready.is_some();
        let changed =
            first || !self.observed.dirty.is_empty() || self.node_changed.is_some() || self.retry_delay > RETRY_FIRST;
        let waits = self.observed.is_complete() && changed;
        if waits {
            let mut status = self.shared.lock();
            if status.waiting_since.is_none() {
                status.waiting_since = Some(Instant::now());
                status.metrics.last_queued = unix_now();
            }
        }
        waits && self.retry_at.is_none()
    }

    fn node(&mut self, event: Event<Node>) {
        let (Event::Apply(node) | Event::InitApply(node)) = event else { return };
        let spec = node.spec.as_ref();
        let tainted = spec.and_then(|s| s.taints.as_ref()).is_some_and(|t| t.iter().any(|t| t.key == LEAVING_TAINT));
        self.shared.lock().node_leaving = tainted || node.metadata.deletion_timestamp.is_some();
        let zone = node.metadata.labels.as_ref().and_then(|l| l.get(ZONE));
        let view = node_view(&self.config, zone.map(String::as_str));
        self.node_changed = (view != *self.syncer.rules().node()).then_some(view);
    }

    fn check(&mut self) {
        match self.syncer.check() {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(table = %self.config.table, "another program changed the rules; they are repaired");
                self.shared.lock().metrics.repairs += 1;
            }
            Err(e) => self.failed(&e),
        }
    }

    fn failed(&mut self, e: &skiff_nft::Error) {
        tracing::error!(error = %e, retry_in = ?self.retry_delay, "the rules are not up to date");
        self.shared.lock().metrics.sync_failures += 1;
        self.retry_at = Some(tokio::time::Instant::now() + self.retry_delay);
        self.retry_delay = (self.retry_delay * 2).min(RETRY_MOST);
    }

    async fn sync(&mut self) {
        let started = Instant::now();
        let dirty = std::mem::take(&mut self.observed.dirty);
        let before: Vec<Vec<PortPlan>> = dirty.iter().map(|k| self.syncer.rules().plan(k).to_vec()).collect();
        let node = self.node_changed.take();
        let mut result = self.syncer.sync(&dirty, &self.observed.snapshot);
        if let (Some(node), Ok(_)) = (node, &result) {
            let more = self.syncer.sync_node(node, &self.observed.snapshot);
            result = more.and(result);
        }
        self.count_without_local(&dirty, &before);
        self.update_health(&dirty).await;
        match result {
            Err(e) => self.failed(&e),
            Ok(report) => self.succeeded(report, started),
        }
    }

    fn succeeded(&mut self, report: Report, started: Instant) {
        let took = started.elapsed();
        self.retry_delay = RETRY_FIRST;
        tracing::debug!(?took, full = report.full, elements = report.elements, "rules are up to date");
        let first = self.ready.take();
        // After a start or a failure it is not known what the rules were before.
        let cleanup = if report.full { self.everything() } else { report.cleanup };
        self.clean(&cleanup);
        self.record(report.full, took);
        if let Some(ready) = first {
            ready.set();
        }
    }

    fn everything(&self) -> Cleanup {
        Cleanup::everything(self.observed.snapshot.iter().map(|(key, _)| self.syncer.rules().plan(key)))
    }

    fn clean(&mut self, cleanup: &Cleanup) {
        let Some(conntrack) = self.conntrack.as_mut().filter(|_| !cleanup.is_empty()) else { return };
        let started = Instant::now();
        match conntrack.clean(cleanup) {
            Ok(deleted) => {
                let mut status = self.shared.lock();
                status.metrics.conntrack.observe(started.elapsed());
                status.metrics.conntrack_deleted += deleted as u64;
            }
            Err(e) => {
                tracing::warn!(error = %e, "stale flows");
                self.conntrack = Conntrack::open().ok();
            }
        }
    }

    fn record(&mut self, full: bool, took: Duration) {
        let observed = &mut self.observed;
        let mut status = self.shared.lock();
        status.waiting_since = None;
        status.synced_once = true;
        status.last_updated = Some(jiff::Timestamp::now());
        let m = &mut status.metrics;
        m.sync.observe(took);
        if full {
            m.sync_full.observe(took)
        } else {
            m.sync_partial.observe(took)
        }
        m.last_sync = unix_now();
        m.service_changes += std::mem::take(&mut observed.service_changes) as u64;
        m.endpoint_changes += std::mem::take(&mut observed.endpoint_changes) as u64;
        for trigger in observed.triggers.drain(..) {
            let Ok(at) = trigger.parse::<jiff::Timestamp>() else { continue };
            let late = jiff::Timestamp::now().duration_since(at);
            m.network_programming.observe(Duration::try_from(late).unwrap_or_default());
        }
    }

    fn count_without_local(&self, dirty: &BTreeSet<ServiceKey>, before: &[Vec<PortPlan>]) {
        let mut status = self.shared.lock();
        for (key, before) in dirty.iter().zip(before) {
            let (was, is) = (without_local(before), without_local(self.syncer.rules().plan(key)));
            status.metrics.no_local_internal += i64::from(is.0) - i64::from(was.0);
            status.metrics.no_local_external += i64::from(is.1) - i64::from(was.1);
        }
    }

    async fn update_health(&mut self, dirty: &BTreeSet<ServiceKey>) {
        for key in dirty {
            match health_of(&self.observed, key, &self.syncer.rules().node().viewpoint) {
                Some(health) => self.health.insert(key.clone(), health),
                None => self.health.remove(key),
            };
        }
        let local = self.health.iter().map(|(key, (port, n))| (*port, (key.clone(), *n))).collect();
        self.shared.lock().local = local;
        let ports: Vec<u16> = self.health.values().map(|(port, _)| *port).collect();
        let addresses = self.syncer.rules().node().addresses.clone();
        self.health_ports.want(&addresses, &ports, &self.shared).await;
    }
}

fn unix_now() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1000.0
}

fn node_view(config: &Config, zone: Option<&str>) -> NodeView {
    let nets = &config.node_port_addresses;
    // A family without any network given is not restricted.
    let free = |ip: &IpAddr| !nets.iter().any(|n| n.addr().is_ipv4() == ip.is_ipv4());
    let serves = |ip: &&IpAddr| !ip.is_loopback() && (free(ip) || nets.iter().any(|n| n.contains(*ip)));
    NodeView {
        viewpoint: Viewpoint { node: config.node_name.as_str().into(), zone: zone.map(Into::into) },
        addresses: config.node_ips.iter().filter(serves).copied().collect(),
    }
}

/// Whether clients are dropped for want of a local endpoint: inside, outside.
fn without_local(plans: &[PortPlan]) -> (bool, bool) {
    let frontends = || plans.iter().flat_map(|p| &p.frontends);
    let inside = frontends().any(|f| f.is_cluster_ip && f.inside == Route::Drop);
    (inside, frontends().any(|f| !f.is_cluster_ip && f.outside == Route::Drop))
}

/// healthCheckNodePort and the ready endpoints of this node, for Services that have such a port.
fn health_of(observed: &Observed, key: &ServiceKey, from: &Viewpoint) -> Option<(u16, usize)> {
    let entry = observed.snapshot.get(key)?;
    let service = entry.service.as_deref().filter(|s| is_served(s) && s.external_policy == TrafficPolicy::Local)?;
    let port = service.health_check_node_port?;
    let ready = |ipv6| service.ports.iter().map(|p| choose(entry, p, ipv6, from).local_ready).max().unwrap_or(0);
    Some((port, ready(false).max(ready(true))))
}
