//! The daemon of a cluster: control plane and nodes in one process. It starts room by room, tells its story, checks that
//! the cluster really answers, and ends on SIGTERM, leaving pods to the next start (`skiff down` removes them).

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use skiff_apiserver::{NodeTls, Server, pki::Pki};
use skiff_client::{
    farewell::Farewells,
    in_process::Clients,
    life::{Stop, readiness},
};
use skiff_store::embedded::{Embedded, Options};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};

use super::{
    config::{ADVERTISED_PORT, Config},
    dns_service, kubeconfig, lock,
    network::{
        self,
        nat::{self, WayOut},
        netns,
        plan::NodeLink,
    },
    node,
    paths::Paths,
    probe,
};
use crate::report::{Line, Sink, Story};

/// The bits of one node's pod range.
const NODE_MASK: u8 = 24;
/// How long a part may take to be ready, and how long nodes may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until told to end.
pub(crate) fn run(config: Config, paths: Paths, sink: Sink) -> Result<ExitCode> {
    start_log();
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
    let started = tokio::select! {
        started = start(config, paths, story, &stop) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    story.tell(&Line::Ready);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    end(started.nodes).await
}

type Nodes = Vec<JoinHandle<std::io::Result<()>>>;

struct Started {
    nodes: Nodes,
    _ways_out: Vec<WayOut>,
}

async fn end(nodes: Nodes) -> Result<()> {
    let all = tokio::task::spawn_blocking(move || nodes.into_iter().try_for_each(|n| n.join().unwrap_or(Ok(()))));
    tokio::time::timeout(PATIENCE, all).await.context("the nodes do not end")???;
    Ok(())
}

async fn start(config: &Config, paths: &Paths, story: &mut Story, stop: &Stop) -> Result<Started> {
    let ways_out = wire(config, paths, story).await?;
    story.step(format!("network: {} on {}", count(config.nodes, "node"), config.node_subnet()));
    let pki = Pki::load_or_create(&paths.pki(), &server_names(config)).context("certificates")?;
    let server = api_server(config, paths, &pki).await?;
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
    controllers(config, &pki, &clients, stop).await?;
    let admin = clients.as_identity(skiff_api::identity::Identity::admin());
    dns_service::ensure(&admin, config).await.context("the kube-dns Service")?;
    story.step("controllers");

    let (mut nodes, mut waiting) = (vec![], vec![]);
    let farewells = Farewells::default();
    for number in 0..config.nodes {
        let what = node::describe(config, paths, &pki, number)?.sharing(&farewells);
        let name = what.name.clone();
        let (thread, components) = node::spawn(what, clients.clone(), stop.clone()).context("start a node's thread")?;
        nodes.push(thread);
        waiting.extend(components.into_iter().map(|(c, r)| (format!("{c} of node {name}"), r)));
    }
    for (what, readiness) in waiting {
        let ready = tokio::time::timeout(PATIENCE, readiness.wait()).await;
        match ready {
            Ok(true) => {}
            Ok(false) => bail!("the {what} does not start; {} says why", paths.server_log().display()),
            Err(_) => bail!("the {what} is not ready after {PATIENCE:?}; {} says why", paths.server_log().display()),
        }
    }
    story.step(format!("{}: agent, proxy and DNS", count(config.nodes, "node")));
    probe::answers(config, paths).await?;
    story.step(format!("DNS at {} and ClusterIP {} answer on every node", config.dns_ip(), config.kubernetes_ip()));
    Ok(Started { nodes, _ways_out: ways_out })
}

/// Links, addresses, routes, and the way out.
async fn wire(config: &Config, paths: &Paths, story: &Story) -> Result<Vec<WayOut>> {
    let wires = network::plan::network(config, paths);
    for warning in network::apply::up(&wires).await? {
        story.warn(warning);
    }
    let interfaces: Vec<_> = network::apply::uplinks().await?.into_iter().chain([wires.host_link]).collect();
    let opened = network::forwarding::on(&interfaces, &paths.run).map_err(anyhow::Error::from);
    let opened = opened.and_then(|()| ways_out(config, &wires.nodes));
    if let Err(error) = &opened {
        story.warn(format!("pods cannot reach beyond their node: {error:#}"));
    }
    Ok(opened.unwrap_or_default())
}

/// Of each node, and of the host.
fn ways_out(config: &Config, nodes: &[NodeLink]) -> Result<Vec<WayOut>> {
    let (pods, subnet) = (nat::all_of(config.pod_cidr), nat::all_of(config.node_subnet()));
    let first_to_last = (config.node_ip(0), config.node_ip(config.nodes - 1));
    let of_node = |node: &NodeLink| {
        let opened = netns::inside(&node.netns, || async {
            nat::open(&config.name, &[pods], &[pods, first_to_last]).map_err(std::io::Error::other)
        });
        opened.with_context(|| format!("the way out of node {}", node.name))
    };
    let mut all = nodes.iter().map(of_node).collect::<Result<Vec<_>>>()?;
    all.push(nat::open(&config.name, &[subnet, pods], &[subnet, pods]).context("the way out of this host")?);
    Ok(all)
}

fn count(n: u8, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Every name and address that a client may call the server by.
pub(crate) fn server_names(config: &Config) -> Vec<String> {
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let full = format!("kubernetes.default.svc.{}", config.domain);
    let addresses = [config.host_ip().to_string(), config.kubernetes_ip().to_string()];
    let fixed = ["localhost", "127.0.0.1"].into_iter().chain(service).map(str::to_owned);
    fixed.chain([full]).chain(addresses).collect()
}

async fn api_server(config: &Config, paths: &Paths, pki: &Pki) -> Result<Arc<Server>> {
    let store = Embedded::open(paths.store(), Options::default()).context("open the store")?;
    let advertise = SocketAddr::from((config.host_ip(), ADVERTISED_PORT));
    let api = skiff_apiserver::Config {
        service_cidrs: vec![IpNet::V4(config.service_cidr)],
        node_port_range: config.node_port_range(),
        dns_ip: config.dns_ip().into(),
        domain: config.domain.clone(),
        node_tls: Some(NodeTls(Arc::new(pki.node_client_config()?))),
        ..skiff_apiserver::Config::new(&config.name, advertise, pki.service_account_key())
    };
    Ok(Server::new(api, Arc::new(store)).await?)
}

async fn serve(config: &Config, server: &Arc<Server>, pki: &Pki, stop: &Stop) -> Result<()> {
    let tls = Arc::new(pki.server_config()?);
    for address in [(Ipv4Addr::LOCALHOST, config.api_port), (config.host_ip(), ADVERTISED_PORT)] {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("listen on {}:{} (`ss -ltnp` names the program that has the port)", address.0, address.1)
        })?;
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

async fn controllers(config: &Config, pki: &Pki, clients: &Clients, stop: &Stop) -> Result<()> {
    let cluster_cidr = IpNet::V4(config.pod_cidr);
    let told = skiff_controllers::Config {
        cluster_cidr,
        node_mask: NODE_MASK,
        lb_pool: config.lb_pool.clone(),
        ca: pki.ca_pem().into(),
    };
    let (ready, readiness) = readiness();
    let (clients, stop) = (clients.clone(), stop.clone());
    let as_controller: skiff_controllers::Clients = Arc::new(move |name: &str| clients.as_controller(name));
    tokio::spawn(async move {
        let again = |ready| skiff_controllers::run(told.clone(), as_controller.clone(), ready, stop.clone());
        node::keep_running("controllers", ready, &stop, again).await;
    });
    match tokio::time::timeout(PATIENCE, readiness.wait()).await {
        Ok(true) => Ok(()),
        _ => bail!("the controllers do not start"),
    }
}
