//! A node of this machine: one thread that lives in the node's network namespace and runs the node's agent, its proxy,
//! its DNS server and the announcer of load balancers' addresses. Sockets and threads made there belong to the namespace.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use ipnet::IpNet;
use skiff_api::identity::Identity;
use skiff_apiserver::pki::Pki;
use skiff_client::{
    farewell::Farewells,
    in_process::Clients,
    life::{Readiness, Ready, Stop, readiness},
};
use skiff_dns::{
    acl::{Allowed, Net},
    forward::Upstreams,
};
use skiff_node::network::Ips;
use tokio::runtime::Handle;

use super::{config::Config, network::netns, paths::Paths, sweep};

/// What the three components of a node are told.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) netns: PathBuf,
    pub(crate) agent: skiff_node::Config,
    pub(crate) proxy: skiff_proxy::Config,
    pub(crate) dns: skiff_dns::Config,
    pub(crate) announce: skiff_node::announce::Config,
}

impl Node {
    /// The agent asks all proxies of the process before a pod ends.
    pub(crate) fn sharing(mut self, farewells: &Farewells) -> Self {
        self.agent.farewells = farewells.clone();
        self.proxy.farewells = farewells.clone();
        self
    }
}

/// One readiness for each component, with its name.
pub(crate) type Waiting = Vec<(&'static str, Readiness)>;

pub(crate) struct Started {
    pub(crate) thread: JoinHandle<io::Result<()>>,
    /// In the node's network namespace.
    pub(crate) runtime: Handle,
    pub(crate) components: Waiting,
}

/// Starts the node's thread. It ends when `stop` says so, pods stay; or at once, where it stands, when `power` fails.
pub(crate) fn spawn(node: Node, clients: Clients, stop: Stop, power: Stop) -> io::Result<Started> {
    let (inside, entered) = mpsc::sync_channel(1);
    let (agent_ready, agent) = readiness();
    let (proxy_ready, proxy) = readiness();
    let (dns_ready, dns) = readiness();
    let thread = thread::Builder::new().name(node.name.clone()).spawn(move || {
        netns::enter(&node.netns)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _waits_for_it = inside.send(runtime.handle().clone());
        let live = async {
            let clients = NodeClients {
                agent: clients.as_identity(Identity::node(&node.name)),
                proxy: clients.as_controller("system:kube-proxy"),
                dns: clients.as_controller("system:kube-dns"),
            };
            run(node, clients, [agent_ready, proxy_ready, dns_ready], stop).await;
        };
        runtime.block_on(async {
            tokio::select! {
                () = live => {}
                () = power.cancelled() => {}
            }
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    })?;
    let components = vec![("node agent", agent), ("proxy", proxy), ("DNS", dns)];
    match entered.recv() {
        Ok(runtime) => Ok(Started { thread, runtime, components }),
        Err(_) => Err(thread.join().map_or_else(
            |_| io::Error::other("it died"),
            |ended| match ended {
                Err(error) => error,
                Ok(()) => io::Error::other("it ended at once"),
            },
        )),
    }
}

/// The client of each component, made where it is used.
pub(crate) struct NodeClients {
    pub(crate) agent: kube::Client,
    pub(crate) proxy: kube::Client,
    pub(crate) dns: kube::Client,
}

/// Runs the components until told to stop. The announcer sees what the proxy sees, and as the proxy.
pub(crate) async fn run(node: Node, clients: NodeClients, [agent, proxy, dns]: [Ready; 3], stop: Stop) {
    tokio::join!(
        keep_running("node agent", agent, &stop, |ready| {
            skiff_node::run(node.agent.clone(), clients.agent.clone(), ready, stop.clone())
        }),
        keep_running("proxy", proxy, &stop, |ready| {
            skiff_proxy::run(node.proxy.clone(), clients.proxy.clone(), ready, stop.clone())
        }),
        keep_running("DNS", dns, &stop, |ready| {
            skiff_dns::run(node.dns.clone(), clients.dns.clone(), ready, stop.clone())
        }),
        keep_running("announcer", readiness().0, &stop, |_| {
            skiff_node::announce::run(node.announce.clone(), clients.proxy.clone(), stop.clone())
        }),
    );
}

/// Starts a component again when it fails, after a growing pause; the others go on meanwhile.
pub(crate) async fn keep_running<F, E>(name: &str, first: Ready, stop: &Stop, mut start: impl FnMut(Ready) -> F)
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    const LONGEST: Duration = Duration::from_secs(30);
    let mut pause = Duration::from_millis(200);
    let mut ready = Some(first);
    while !stop.is_cancelled() {
        // Only the first start is waited for by anyone.
        let ready = ready.take().unwrap_or_else(|| readiness().0);
        match start(ready).await {
            Ok(()) if stop.is_cancelled() => return,
            Ok(()) => tracing::error!("{name} ended although nobody told it to; starting it again in {pause:?}"),
            Err(error) => tracing::error!("{name} failed: {error}; starting it again in {pause:?}"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// The node agent's own API.
const AGENT_PORT: u16 = 10250;
/// Where the proxy says how it is, as kube-proxy does.
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;
/// Sockets of the node's DNS server: a pod that floods one leaves the others to the rest.
const DNS_LANES: usize = 4;
const MAX_PODS: u32 = 250;
/// Where the host says who resolves names.
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// The host's file as pods can use it: systemd-resolved's stub answers only the host, but it says whom it asks.
fn resolv_conf_for_pods() -> PathBuf {
    const STUB: &str = "nameserver 127.0.0.53";
    const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
    let stub = std::fs::read_to_string(HOST_RESOLV_CONF).is_ok_and(|t| t.lines().any(|l| l.trim() == STUB));
    if stub && Path::new(BEHIND_STUB).exists() { BEHIND_STUB.into() } else { HOST_RESOLV_CONF.into() }
}

/// What node `number` of the cluster is told.
pub(crate) fn describe(config: &Config, paths: &Paths, pki: &Pki, number: u8) -> anyhow::Result<Node> {
    let name = config.node_name(number);
    let ips = config.node_ips(number);
    let credentials = pki.node(&name, &ips.iter().map(|ip| ip.to_string()).collect::<Vec<_>>())?;
    let place = Place {
        name,
        ips,
        lease: config.patience.lease(),
        zone: config.zone(number),
        dns_ip: config.dns_ip().into(),
        domain: config.domain.clone(),
        dns_upstreams: config.dns_upstreams.clone(),
        dns_end_walks: config.dns_end_walks,
        // The nodes of the cluster and the host's end of their link.
        neighbours: Net::new(config.host_ip().into(), 24).into_iter().collect(),
    };
    let tls = skiff_node::Tls {
        certificate: credentials.serving.certificate,
        key: credentials.serving.key,
        client_ca: pki.ca_pem().to_owned(),
    };
    let directories = Directories {
        data: paths.node_data(&place.name),
        run: paths.node_run(&place.name),
        images: paths.images(),
        cgroup: cgroup(config, &place.name),
    };
    let ranges = Ranges::of(config);
    Ok(Node { netns: paths.netns(&place.name), ..place.node(directories, ranges, tls, Handle::current()) })
}

/// The control group that the node's containers are below.
pub(crate) fn cgroup(config: &Config, node: &str) -> String {
    format!("{}/{node}", sweep::cgroup(&config.name))
}

/// Who and where a node is.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) ips: Ips,
    /// See `skiff_node::Config`.
    pub(crate) lease: Duration,
    pub(crate) zone: Option<String>,
    pub(crate) dns_ip: IpAddr,
    pub(crate) domain: String,
    /// None: the host's resolv.conf says.
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    /// Pods' walks through their search paths end at their first question.
    pub(crate) dns_end_walks: bool,
    /// Who may ask the node's DNS server beside the pods.
    pub(crate) neighbours: Vec<Net>,
}

pub(crate) struct Directories {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) images: PathBuf,
    pub(crate) cgroup: String,
}

pub(crate) struct Ranges {
    pub(crate) pods: Vec<IpNet>,
    pub(crate) services: Vec<IpNet>,
    /// What nobody serves is refused in the pool as in the service range: no packet goes to and fro between node and host.
    pub(crate) balancers: Vec<IpNet>,
}

impl Ranges {
    pub(crate) fn of(config: &Config) -> Self {
        Ranges { pods: config.pod_cidrs(), services: config.service_cidrs(), balancers: config.lb_pool.networks() }
    }
}

impl Place {
    /// `host` is a runtime in the host's network namespace: resolvers and registries on the host's loopback are reached
    /// from there.
    pub(crate) fn node(self, dirs: Directories, ranges: Ranges, tls: skiff_node::Tls, host: Handle) -> Node {
        let upstreams = match self.dns_upstreams.is_empty() {
            true => Upstreams::File(HOST_RESOLV_CONF.into()),
            false => Upstreams::Fixed(self.dns_upstreams),
        };
        let pods = ranges.pods.iter().map(|range| Net::new(range.addr(), range.prefix_len()));
        let clients = pods.chain([Some(Net::host(self.dns_ip))]);
        let dns = skiff_dns::Config {
            outside: Some(host.clone()),
            allowed: Allowed::new(clients.into_iter().flatten().chain(self.neighbours)),
            lanes: DNS_LANES,
            end_walks: self.dns_end_walks,
            host_resolv_conf: Some(HOST_RESOLV_CONF.into()),
            node: Some(self.name.clone()),
            ..skiff_dns::Config::new(vec![(self.dns_ip, 53).into()], &self.domain, upstreams)
        };
        let proxy = proxy_config(&self.name, self.ips, &ranges);
        let agent = skiff_node::Config {
            node_name: self.name.clone(),
            node_ips: self.ips,
            labels: Default::default(),
            zone: self.zone,
            data_dir: dirs.data,
            run_dir: dirs.run,
            image_dir: dirs.images,
            images: skiff_node::image::Options { dial: dial_from(host), ..Default::default() },
            dns: skiff_node::Dns {
                ip: Some(self.dns_ip),
                domain: self.domain,
                host_resolv_conf: resolv_conf_for_pods(),
            },
            cgroup_root: dirs.cgroup,
            tls,
            lease: self.lease,
            port: AGENT_PORT,
            max_pods: MAX_PODS,
            shim: None,
            farewells: proxy.farewells.clone(),
        };
        let announce = skiff_node::announce::Config {
            node_name: self.name.clone(),
            node_ip: self.ips.first,
            cluster: skiff_node::announce::cluster_id(&agent.tls.client_ca),
        };
        Node { name: self.name, netns: PathBuf::new(), agent, proxy, dns, announce }
    }
}

/// What a node's proxy is told; `explain` makes the same rules anew by it.
pub(crate) fn proxy_config(name: &str, ips: Ips, ranges: &Ranges) -> skiff_proxy::Config {
    skiff_proxy::Config {
        node_name: name.into(),
        node_ips: ips.iter().collect(),
        follow_node: false,
        cluster_cidrs: ranges.pods.clone(),
        detect_local: skiff_proxy::DetectLocal::NodeCidr,
        masquerade_all: false,
        tcp_be_liberal: true,
        service_cidrs: ranges.services.clone(),
        balancer_pool: ranges.balancers.clone(),
        node_port_addresses: vec![],
        table: skiff_proxy::TABLE.into(),
        healthz: Some((Ipv4Addr::UNSPECIFIED, HEALTHZ_PORT).into()),
        metrics: Some((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
        farewells: Farewells::default(),
    }
}

/// Connects on the other runtime: its sockets are made where its threads are.
fn dial_from(host: Handle) -> skiff_node::image::Dial {
    Arc::new(move |name, port| {
        let connecting = host.spawn(async move { tokio::net::TcpStream::connect((name, port)).await });
        Box::pin(async move { connecting.await.map_err(io::Error::other)? })
    })
}
