//! The server's life: bind, follow the cluster, serve until told to stop.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use kube::Client;
use skiff_client::life::{Ready, Stop};
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};

use crate::{
    acl::Allowed,
    follow::{self, PodScope},
    forward::{self, Forwarder, Stub, Upstreams},
    http,
    server::{Lanes, Server, tcp},
    wire::Name,
    zone::{self, PodNames, Zone},
};

#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, UDP and TCP.
    pub bind: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// How long clients may keep what the zone says, in seconds.
    pub ttl: u32,
    pub pod_names: PodNames,
    /// Who answers all other names.
    pub upstreams: Upstreams,
    pub stubs: Vec<Stub>,
    /// The runtime on which resolvers are asked, where that is not the one that serves; its sockets may be in another
    /// network namespace.
    pub outside: Option<Handle>,
    /// Who is answered.
    pub allowed: Allowed,
    /// UDP sockets for each address, each with a thread.
    pub lanes: usize,
    /// Whether a pod's walk through its search path ends at its first question (see `search`).
    pub end_walks: bool,
    /// The resolv.conf whose search domains pods have too.
    pub host_resolv_conf: Option<PathBuf>,
    /// Only pods of this node ask this server.
    pub node: Option<String>,
    pub probes: Probes,
}

/// Where probes and Prometheus are answered; several may share a port.
#[derive(Clone, Debug, Default)]
pub struct Probes(pub Vec<SocketAddr>);

impl Config {
    /// What has to be said; everything else as is usual.
    pub fn new(bind: Vec<SocketAddr>, domain: &str, upstreams: Upstreams) -> Self {
        Config {
            bind,
            domain: domain.into(),
            ttl: zone::TTL,
            pod_names: PodNames::default(),
            upstreams,
            stubs: vec![],
            outside: None,
            allowed: Allowed::private(),
            lanes: 1,
            end_walks: false,
            host_resolv_conf: None,
            node: None,
            probes: Probes::default(),
        }
    }

    /// A name that is checked against pods needs all of them; who asks, only those who can.
    fn pod_scope(&self) -> PodScope {
        match (self.pod_names, self.end_walks, &self.node) {
            (PodNames::Verified, ..) | (_, true, None) => PodScope::All,
            (_, true, Some(node)) => PodScope::Node(node.clone()),
            (_, false, _) => PodScope::None,
        }
    }

    fn forwarder(&self) -> Forwarder {
        let own = forward::own_addresses(&self.bind);
        let outside = self.outside.clone().unwrap_or_else(Handle::current);
        let forwarder = Forwarder::new(self.upstreams.clone(), own, outside).with_stubs(self.stubs.clone());
        match &self.host_resolv_conf {
            Some(path) => forwarder.with_searches(path.clone()),
            None => forwarder,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cluster domain {0:?} is not a DNS name")]
    Domain(String),
    #[error("listen for DNS on {address}: {error}")]
    Bind { address: SocketAddr, error: io::Error },
    #[error("a DNS socket failed: {0}")]
    Socket(io::Error),
    #[error("serve health and metrics on {address}: {error}")]
    Probes { address: SocketAddr, error: io::Error },
}

/// Serves until `stop`. Ready as soon as the first lists of Services, slices and namespaces have arrived.
pub async fn run(config: Config, client: Client, ready: Ready, stop: Stop) -> Result<(), Error> {
    let domain = Name::parse(&config.domain).ok_or_else(|| Error::Domain(config.domain.clone()))?;
    let nameservers = config.bind.iter().map(|a| a.ip()).filter(|ip| !ip.is_unspecified()).collect();
    let zone = Zone::new(domain.clone(), nameservers).with_ttl(config.ttl).with_pod_names(config.pod_names);
    let server = Server::new(domain, Arc::new(config.forwarder()), config.allowed.clone());
    let server = Arc::new(server.ending_walks(config.end_walks));
    let mut tasks = JoinSet::new();
    let (failed, mut failures) = mpsc::unbounded_channel();
    let mut lanes = vec![];
    for address in &config.bind {
        let bad = |error| Error::Bind { address: *address, error };
        let udp = Lanes::open(&server, *address, config.lanes.max(1), &Handle::current(), failed.clone());
        let udp = udp.map_err(bad)?;
        let tcp = tcp::listen(udp.address()).map_err(bad)?;
        lanes.push(udp);
        let server = server.clone();
        tasks.spawn(async move { server.serve_tcp(tcp).await.map_err(Error::Socket) });
    }
    let mut probes = vec![];
    for address in config.probes.0.iter().copied() {
        let served = http::serve(address, server.clone()).await;
        probes.push(served.map_err(|error| Error::Probes { address, error })?);
    }
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = follow::follow(&server, zone, client.clone(), config.pod_scope(), ready) => Ok(()),
        () = follow::look_for_api(&server, client) => Ok(()),
        Some(Ok(Err(error))) = tasks.join_next() => Err(error),
        Some(error) = failures.recv() => Err(Error::Socket(error)),
    }
}
