//! The loop: observe (watches), plan (ruleset), diff and apply (sync). Events only mark Services dirty; the next turn of
//! the loop commits everything that has come in by then, in one transaction.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::FutureExt;
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, ObjectReference},
    networking::v1::ServiceCIDR,
};
use kube::Client;
use skiff_client::{
    events::{Recorder, Severity},
    farewell::{Farewells, Question},
    feed::Feed,
    life::{Ready, Stop},
    probes::{Server, serve},
    watch::{self, Watch},
};
use skiff_nft::{Kernel, Netlink, Ownership};
use skiff_services::{
    choice::{Viewpoint, choose},
    model::{LABEL_HEADLESS, LABEL_PROXY_NAME, ServiceKey, TrafficPolicy},
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::{
    addresses::Addresses,
    conntrack::{self, Cleanup, Conntrack},
    health::{CONNECTIONS, Door, NodePortServers, Shared, about_proxy},
    observe::Observed,
    ruleset::{Networks, NodeView, PortPlan, Route, Ruleset, is_served},
    surroundings::Surroundings,
    sync::{Report, Syncer},
};

/// Foreign changes are found within this time.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// healthCheckNodePorts that another program has are tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(15);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// Events taken in one turn, so that a flood does not keep the rules waiting.
const EVENTS_PER_TURN: usize = 5000;

/// Which clients are this node's pods: they keep their address at a ClusterIP, and see every endpoint where
/// externalTrafficPolicy is Local.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectLocal {
    /// Those from `cluster_cidrs`.
    #[default]
    ClusterCidr,
    /// Those from the node's own part, `spec.podCIDRs` of its Node object; from `cluster_cidrs` as long as it has none.
    /// A pod of another node that comes to this one is then a client from outside, as its answers would else pass by.
    NodeCidr,
}

#[derive(Clone, Debug, Default)]
pub struct Config {
    pub node_name: String,
    /// Addresses on which NodePorts are served.
    pub node_ips: Vec<IpAddr>,
    /// Those of the Node object count, once it has been seen and has some.
    pub follow_node: bool,
    /// Where pods are: clients from here keep their address. Empty: every client is taken for a pod.
    pub cluster_cidrs: Vec<IpNet>,
    pub detect_local: DetectLocal,
    /// Whoever connects to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// Where ClusterIPs come from, as long as no ServiceCIDR object says so.
    pub service_cidrs: Vec<IpNet>,
    /// Where load balancers' addresses come from, if this proxy's cluster gives them out: whatever nobody serves there is
    /// refused too.
    pub balancer_pool: Vec<IpNet>,
    /// If not empty, NodePorts are served on all addresses of this machine in these networks.
    pub node_port_addresses: Vec<IpNet>,
    /// TCP packets that conntrack finds out of order are translated all the same. Untranslated they would reach the
    /// client from an address that it never asked, and its reset would end the connection.
    pub tcp_be_liberal: bool,
    /// Name of the nftables tables (ip and ip6).
    pub table: String,
    /// Where /healthz and /livez are served.
    pub healthz: Option<SocketAddr>,
    /// Where /metrics, /proxyMode and /configz are served: for this machine only, unless told otherwise.
    pub metrics: Option<SocketAddr>,
    /// Agents that ask whether a pod may end.
    pub farewells: Farewells,
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
    if config.tcp_be_liberal
        && let Err(e) = conntrack::be_liberal()
    {
        tracing::warn!(error = %e, "TCP packets out of order stay untranslated");
    }
    let shared = Shared::default();
    let _servers = listen(&config, &shared).await?;
    let watches = Watches::open(&client, &config.node_name);
    let events = Recorder::start(client, "kube-proxy", stop.clone());
    let proxy = Proxy::new(config, kernel, conntrack, shared, events, ready);
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
    let configuration = configz(config);
    let wanted: BTreeSet<SocketAddr> = config.healthz.into_iter().chain(config.metrics).collect();
    for at in wanted {
        let door = match (config.healthz == Some(at), config.metrics == Some(at)) {
            (true, true) => Door::Both,
            (true, false) => Door::Health,
            (false, _) => Door::Metrics,
        };
        let (shared, configuration) = (shared.clone(), configuration.clone());
        let server = serve(at, CONNECTIONS, move |path| about_proxy(&shared, door, &configuration, path)).await;
        servers.push(server.map_err(|e| Error::Listen(at, e))?);
    }
    Ok(servers)
}

/// The configuration in the words of kube-proxy's own (`kubeproxy.config.k8s.io/v1alpha1`).
fn configz(config: &Config) -> String {
    let words = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    let at = |address: Option<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    let mode = match config.detect_local {
        DetectLocal::ClusterCidr => "ClusterCIDR",
        DetectLocal::NodeCidr => "NodeCIDR",
    };
    let body = serde_json::json!({"kubeproxy.config.k8s.io": {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
        "hostnameOverride": config.node_name, "clusterCIDR": words(&config.cluster_cidrs).join(","),
        "detectLocalMode": mode, "nodePortAddresses": words(&config.node_port_addresses),
        "healthzBindAddress": at(config.healthz), "metricsBindAddress": at(config.metrics),
        "nftables": {"masqueradeAll": config.masquerade_all},
        "conntrack": {"tcpBeLiberal": config.tcp_be_liberal},
    }});
    body.to_string()
}

struct Watches {
    feed: Feed,
    node: Watch<Node>,
    service_cidrs: Watch<ServiceCIDR>,
}

impl Watches {
    fn open(client: &Client, node: &str) -> Self {
        let any = || watch::Config::default().any_semantic();
        let services = any().labels(&format!("!{LABEL_PROXY_NAME}"));
        let slices = any().labels(&format!("!{LABEL_HEADLESS},!{LABEL_PROXY_NAME}"));
        Watches {
            feed: Feed::open(client, services, slices),
            node: Watch::all(client, any().fields(&format!("metadata.name={node}"))),
            service_cidrs: Watch::all(client, any()),
        }
    }
}

struct Proxy<K> {
    config: Config,
    syncer: Syncer<K>,
    conntrack: Option<Conntrack>,
    observed: Observed,
    shared: Shared,
    events: Recorder,
    ready: Option<Ready>,
    around: Surroundings,
    around_dirty: bool,
    addresses: Option<Addresses>,
    health_ports: NodePortServers,
    health: HashMap<ServiceKey, (u16, usize)>,
    retry_at: Option<Instant>,
    retry_delay: Duration,
    questions: Vec<Question>,
}

impl<K: Kernel> Proxy<K> {
    fn new(
        config: Config,
        kernel: K,
        conntrack: Option<Conntrack>,
        shared: Shared,
        events: Recorder,
        ready: Ready,
    ) -> Self {
        let around = Surroundings::default();
        let rules = Ruleset::new(&config.table, around.networks(&config), around.node_view(&config));
        let mut proxy = Proxy {
            config,
            syncer: Syncer::new(kernel, rules),
            conntrack,
            observed: Observed::default(),
            shared,
            events,
            ready: Some(ready),
            around,
            around_dirty: false,
            addresses: None,
            health_ports: NodePortServers::default(),
            health: HashMap::new(),
            retry_at: None,
            retry_delay: RETRY_FIRST,
            questions: vec![],
        };
        proxy.look_at_addresses();
        proxy
    }

    async fn run(mut self, mut watches: Watches) {
        let [mut check, mut listen] = [CHECK_EVERY, LISTEN_AGAIN].map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let mut asked = self.config.farewells.join();
        loop {
            let retry_at = self.retry_at;
            let retry = async {
                match retry_at {
                    Some(at) => sleep_until(at).await,
                    None => futures::future::pending().await,
                }
            };
            let heard = tokio::select! {
                change = watches.feed.next() => {
                    self.observed.take(change);
                    true
                }
                event = watches.node.next() => {
                    self.around.node(&event);
                    self.around_dirty = true;
                    true
                }
                event = watches.service_cidrs.next() => {
                    self.around.service_cidr(&event);
                    self.around_dirty = true;
                    true
                }
                _ = check.tick() => {
                    self.check();
                    self.look_at_addresses();
                    false
                }
                _ = listen.tick() => {
                    self.open_health_ports().await;
                    false
                }
                Some(question) = asked.recv() => {
                    self.questions.push(question);
                    false
                }
                () = retry => {
                    self.retry_at = None;
                    false
                }
            };
            if heard {
                self.shared.lock().last_news = Some(Instant::now());
            }
            self.drain(&mut watches);
            if self.work_waits() {
                self.sync().await;
            }
            self.answer_questions();
        }
    }

    /// Only what is in force counts.
    fn answer_questions(&mut self) {
        if self.questions.is_empty()
            || self.ready.is_some()
            || self.retry_at.is_some()
            || !self.observed.dirty.is_empty()
        {
            return;
        }
        let observed = &self.observed;
        for question in self.questions.extract_if(.., |q| q.is_idle() || !observed.is_ready(q.ip)) {
            question.answer();
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
        let changed = first || !self.observed.dirty.is_empty() || self.around_dirty || self.retry_delay > RETRY_FIRST;
        let waits = self.observed.is_complete() && changed;
        if waits {
            let mut status = self.shared.lock();
            if status.waiting_since.is_none() {
                status.waiting_since = Some(Instant::now());
                status.metrics.last_queued = unix_now();
            }
            status.metrics.service_pending = self.observed.service_changes as u64;
            status.metrics.endpoint_pending = self.observed.endpoint_changes as u64;
        }
        waits && self.retry_at.is_none()
    }

    /// Only where networks of NodePorts are given do the machine's other addresses matter.
    fn look_at_addresses(&mut self) {
        if self.config.node_port_addresses.is_empty() {
            return;
        }
        let opened = match self.addresses.take() {
            Some(addresses) => Ok(addresses),
            None => Addresses::open(),
        };
        let changed = opened.and_then(|mut addresses| {
            let changed = addresses.changed()?;
            self.addresses = Some(addresses);
            Ok(changed)
        });
        match changed {
            Ok(None) => {}
            Ok(Some(all)) => {
                self.around_dirty |= self.around.addresses != all;
                self.around.addresses = all;
            }
            Err(e) => tracing::warn!(error = %e, "addresses of NodePorts"),
        }
    }

    /// What the rules should be made for, if that is not what they are made for.
    fn new_surroundings(&mut self) -> Option<(NodeView, Networks)> {
        self.around_dirty = false;
        self.shared.lock().node_leaving = self.around.leaving;
        let now = (self.around.node_view(&self.config), self.around.networks(&self.config));
        let rules = self.syncer.rules();
        ((&now.0, &now.1) != (rules.node(), rules.networks())).then_some(now)
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
        self.retry_at = Some(Instant::now() + self.retry_delay);
        self.retry_delay = (self.retry_delay * 2).min(RETRY_MOST);
    }

    async fn sync(&mut self) {
        let started = Instant::now();
        let dirty = std::mem::take(&mut self.observed.dirty);
        let before: Vec<Vec<PortPlan>> = dirty.iter().map(|k| self.syncer.rules().plan(k).to_vec()).collect();
        let result = match self.new_surroundings() {
            Some((node, networks)) => {
                let result = self.syncer.sync_node(node, networks, &self.observed.snapshot);
                self.recount_without_local();
                result
            }
            None => {
                let result = self.syncer.sync(&dirty, &self.observed.snapshot);
                self.count_without_local(&dirty, &before);
                result
            }
        };
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
        let cleanup = report.cleanup.unwrap_or_else(|| self.everything());
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
        match cleanup.carry_out(conntrack) {
            Ok(cleaned) => {
                let mut status = self.shared.lock();
                status.metrics.conntrack.observe(started.elapsed());
                status.metrics.conntrack_deleted += cleaned.deleted as u64;
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
        (m.service_pending, m.endpoint_pending) = (0, 0);
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
            count(&mut status.metrics.no_local, -1, before);
            count(&mut status.metrics.no_local, 1, self.syncer.rules().plan(key));
        }
    }

    /// Where other addresses make other frontends.
    fn recount_without_local(&self) {
        let mut counts = [[0; 2]; 2];
        for (key, _) in self.observed.snapshot.iter() {
            count(&mut counts, 1, self.syncer.rules().plan(key));
        }
        self.shared.lock().metrics.no_local = counts;
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
        self.open_health_ports().await;
    }

    async fn open_health_ports(&mut self) {
        let ports: Vec<u16> = self.health.values().map(|(port, _)| *port).collect();
        let addresses = self.syncer.rules().node().addresses.clone();
        for (at, error) in self.health_ports.want(&addresses, &ports, &self.shared).await {
            tracing::warn!(%at, %error, "healthCheckNodePort cannot be opened: balancers will avoid this node");
            let Some((key, _)) = self.health.iter().find(|(_, (port, _))| *port == at.port()) else { continue };
            let node = &self.config.node_name;
            let message = format!(
                "node {node} failed to start healthcheck {key} on {at}: {error}; load balancers will avoid this node \
                 until the program that has the port gives it up"
            );
            self.events.record(service_ref(key), Severity::Warning, "FailedToStartServiceHealthcheck", message);
        }
    }
}

fn service_ref(key: &ServiceKey) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(key.namespace.to_string()),
        name: Some(key.name.to_string()),
        ..ObjectReference::default()
    }
}

fn unix_now() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1000.0
}

/// Adds a Service to the counts of those whose clients are dropped for want of a local endpoint, or takes it away.
fn count(counts: &mut [[i64; 2]; 2], step: i64, plans: &[PortPlan]) {
    for (ipv6, counts) in [false, true].into_iter().zip(counts) {
        let frontends = || plans.iter().filter(|p| p.ipv6 == ipv6).flat_map(|p| &p.frontends);
        let inside = frontends().any(|f| f.is_cluster_ip && f.inside == Route::Drop);
        let outside = frontends().any(|f| !f.is_cluster_ip && f.outside == Route::Drop);
        counts[0] += step * i64::from(inside);
        counts[1] += step * i64::from(outside);
    }
}

/// healthCheckNodePort and the ready endpoints of this node (of any port), for Services that have such a port.
fn health_of(observed: &Observed, key: &ServiceKey, from: &Viewpoint) -> Option<(u16, usize)> {
    let entry = observed.snapshot.get(key)?;
    let service = entry.service.as_deref().filter(|s| is_served(s) && s.external_policy == TrafficPolicy::Local)?;
    let port = service.health_check_node_port?;
    let ready = |ipv6| {
        let ports = service.ports.iter();
        ports.flat_map(|p| choose(entry, p, ipv6, from).local_ready).collect::<BTreeSet<IpAddr>>().len()
    };
    Some((port, ready(false).max(ready(true))))
}
