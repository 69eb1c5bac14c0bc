//! The daemon of a cluster: control plane and nodes in one process. It starts room by room, tells its story, checks that
//! the cluster really answers, and ends on SIGTERM, leaving pods to the next start (`skiff down` removes them).

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use skiff_api::identity::Identity;
use skiff_apiserver::{
    NodeTls, Server,
    audit::Log,
    pki::{Pki, requests::Signer},
};
use skiff_client::{
    in_process::Clients,
    life::{Ready, Stop, readiness},
};
use skiff_controllers::{PodRange, Sign, leader};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    task::JoinHandle as JoinTask,
};

use super::{
    config::Config,
    control::{Control, Request},
    dns_service, kubeconfig, lock,
    network::{
        self, forwarding,
        nat::{self, WayOut},
        plan::Network,
    },
    node,
    nodes::{self, Nodes, PATIENCE, Places},
    paths::Paths,
    probe, store,
};
use crate::report::{Line, Sink, Story};

/// The audit log is put aside when it has so many bytes.
const AUDIT_LOG: u64 = 100 << 20;

/// Runs until told to end.
pub(crate) fn run(config: Config, paths: Paths, sink: Sink) -> Result<ExitCode> {
    start_log();
    allow_many_files();
    let mut story = Story::new(sink);
    let Some(_lock) = lock::take(&paths.lock()).context("lock the cluster")? else {
        bail!("cluster {:?} is already running; `skiff status` shows it", config.name);
    };
    // Two workers serve what two cores can; each worker's heap and stack count on small machines.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(live(&config, &paths, &mut story));
    if let Err(error) = &ended {
        story.tell(&Line::Failed(format!("{error:#}")));
        tracing::error!("{error:#}");
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As many connections as the system lets us have; most shells begin with 1,024.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("the limit of open files stays at {:?}: {e}", limit.current);
    }
}

pub(crate) fn start_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| EnvFilter::new("warn,skiff=info"));
    // A second subscriber can only come from a test that has its own.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

async fn live(config: &Config, paths: &Paths, story: &mut Story) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = Stop::new();
    let mut started = tokio::select! {
        started = start(config, paths, story, &stop) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    story.tell(&Line::Ready);
    tokio::select! {
        never = serve_control(&started.control, &mut started.nodes) => never?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    started.nodes.end().await?;
    match started.leader {
        Some(leader) => Ok(tokio::time::timeout(PATIENCE, leader).await.context("the controllers do not end")??),
        None => Ok(()),
    }
}

struct Started {
    nodes: Nodes,
    control: Control,
    /// Gives the leadership back when told to stop.
    leader: Option<JoinTask<()>>,
    _way_out: Option<WayOut>,
}

/// One request after the other, each to its end.
async fn serve_control(control: &Control, nodes: &mut Nodes) -> Result<()> {
    loop {
        let asked = control.next().await.context("the control socket")?;
        let (done, what) = match &asked.request {
            Request::StopNode(name) => (nodes.stop(name).await, format!("node {name} is off")),
            Request::StartNode(name) => (nodes.start(name).await, format!("node {name} is on")),
        };
        let answer = done.map(|()| what).map_err(|e| format!("{e:#}"));
        tracing::info!("{:?}: {answer:?}", asked.request);
        asked.answer(&answer).await;
    }
}

async fn start(config: &Config, paths: &Paths, story: &mut Story, stop: &Stop) -> Result<Started> {
    let (wires, way_out) = wire(config, paths, story).await?;
    let pki = Pki::load_or_create(&paths.pki(), &server_names(config)).context("certificates")?;
    let places = Places::default();
    let server = api_server(config, paths, &pki, &places).await?;
    serve(config, &server, &pki, stop).await?;
    write_kubeconfig(config, paths, &pki)?;
    story.step(format!("API server: https://127.0.0.1:{}", config.api_port));

    let clients = Clients::new(Handle::current(), {
        let server = server.clone();
        move |request| {
            let server = server.clone();
            async move { server.handle(request).await }
        }
    });
    let leader = controllers(config, &pki, &clients, stop).await?;
    let admin = clients.as_identity(Identity::admin());
    dns_service::ensure(&admin, config).await.context("the kube-dns Service")?;
    story.step("controllers");

    let mut nodes = Nodes::new(config, paths, wires, (pki, clients), stop).at(places);
    nodes.start_all().await?;
    if config.nodes > 0 {
        story.step(format!("{}: agent, proxy and DNS", count(config.nodes, "node")));
        probe::answers(config, paths).await?;
        story.step(format!("DNS at {} and ClusterIP {} answer on every node", config.dns_ip(), config.kubernetes_ip()));
    }
    let control = Control::open(paths).context("the control socket")?;
    Ok(Started { nodes, control, leader, _way_out: way_out })
}

/// Links, addresses, routes, and the host's way out. A control plane alone needs none.
async fn wire(config: &Config, paths: &Paths, story: &mut Story) -> Result<(Network, Option<WayOut>)> {
    let wires = network::plan::network(config, paths, forwarding::can6());
    if config.nodes == 0 {
        return Ok((wires, None));
    }
    for warning in network::apply::up(&wires).await? {
        story.warn(warning);
    }
    let opened = nodes::pass_on(&wires, paths).await.and_then(|()| way_out(config));
    if let Err(error) = &opened {
        story.warn(format!("pods cannot reach beyond this machine: {error:#}"));
    }
    story.step(format!("network: {} on {}", count(config.nodes, "node"), config.node_subnet()));
    Ok((wires, opened.ok()))
}

fn way_out(config: &Config) -> Result<WayOut> {
    let subnets = [IpNet::V4(config.node_subnet())].into_iter().chain(config.node_subnet6().map(IpNet::V6));
    let all: Vec<_> = subnets.chain(config.pod_cidrs()).map(nat::all_of).collect();
    nat::open(&config.name, &all, &all, None).context("the way out of this host")
}

fn count(n: u8, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Every name and address that a client may call the server by.
pub(crate) fn server_names(config: &Config) -> Vec<String> {
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let full = format!("kubernetes.default.svc.{}", config.domain);
    let addresses = [config.advertised().ip().to_string(), config.kubernetes_ip().to_string()];
    let fixed = ["localhost", "127.0.0.1"].into_iter().chain(service).map(str::to_owned);
    fixed.chain([full]).chain(addresses).collect()
}

async fn api_server(config: &Config, paths: &Paths, pki: &Pki, places: &Places) -> Result<Arc<Server>> {
    let store = store::open(config, paths, pki.ca_pem()).await?;
    let audit =
        |path: &PathBuf| Log::open(path, AUDIT_LOG).with_context(|| format!("the audit log {}", path.display()));
    let api = skiff_apiserver::Config {
        service_cidrs: config.service_cidrs(),
        node_port_range: config.node_port_range(),
        dns_ip: config.dns_ip().into(),
        domain: config.domain.clone(),
        not_ready_toleration: config.patience.not_ready,
        unreachable_toleration: config.patience.unreachable,
        dial: places.dial(config.pod_cidrs()),
        node_tls: Some(NodeTls(Arc::new(pki.node_client_config()?))),
        shared: config.etcd.is_some(),
        audit: config.audit_log.as_ref().map(audit).transpose()?,
        ..skiff_apiserver::Config::new(&config.name, config.advertised(), pki.service_account_key())
    };
    Ok(Server::new(api, store).await?)
}

async fn serve(config: &Config, server: &Arc<Server>, pki: &Pki, stop: &Stop) -> Result<()> {
    let tls = Arc::new(pki.server_config()?);
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, config.api_port)), config.advertised()];
    addresses.dedup();
    for address in addresses {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address} (`ss -ltnp` names the program that has the port)"))?;
        tokio::spawn(server.clone().serve(listener, tls.clone(), stop.clone()));
    }
    Ok(())
}

fn write_kubeconfig(config: &Config, paths: &Paths, pki: &Pki) -> Result<()> {
    let admin = pki.admin();
    let access = kubeconfig::Access {
        cluster: &config.name,
        server: format!("https://127.0.0.1:{}", config.api_port),
        ca_pem: pki.ca_pem(),
        cert_pem: &admin.certificate,
        key_pem: &admin.key,
    };
    kubeconfig::write(&paths.kubeconfig(), &access).with_context(|| paths.kubeconfig().display().to_string())
}

/// Each node gets a /24 or a /64 of it.
fn pod_range(cluster: IpNet) -> PodRange {
    PodRange { cluster, node_mask: if cluster.addr().is_ipv4() { 24 } else { 64 } }
}

fn sign(pki: &Pki) -> Sign {
    let authority = pki.authority();
    Sign(Arc::new(move |signer, request, usages, seconds| {
        Some(authority.sign(Signer::of(signer)?, request, usages, seconds))
    }))
}

async fn controllers(config: &Config, pki: &Pki, clients: &Clients, stop: &Stop) -> Result<Option<JoinTask<()>>> {
    let told = skiff_controllers::Config {
        pod_ranges: config.pod_cidrs().into_iter().map(pod_range).collect(),
        node_monitor_grace_period: config.patience.node_monitor_grace,
        lb_pool: config.lb_pool.clone(),
        ca: pki.ca_pem().into(),
        sign: sign(pki),
    };
    let candidate = clients.as_identity(Identity::admin());
    let (clients, stop) = (clients.clone(), stop.clone());
    let as_controller: skiff_controllers::Clients = Arc::new(move |name: &str| clients.as_controller(name));
    let run = async move |ready: Ready, stop: Stop| {
        let again = |ready| skiff_controllers::run(told.clone(), as_controller.clone(), ready, stop.clone());
        node::keep_running("controllers", ready, &stop, again).await;
    };
    if config.etcd.is_some() {
        let me = format!("{}_{:016x}", config.advertised(), rand::random::<u64>());
        let elected = async move { leader::run(candidate, &me, &stop, |term| run(readiness().0, term)).await };
        return Ok(Some(tokio::spawn(elected)));
    }
    let (ready, controllers) = readiness();
    tokio::spawn(async move { run(ready, stop).await });
    match tokio::time::timeout(PATIENCE, controllers.wait()).await {
        Ok(true) => Ok(None),
        _ => bail!("the controllers do not start"),
    }
}
