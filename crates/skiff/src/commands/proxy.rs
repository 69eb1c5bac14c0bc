//! `skiff proxy`: the service proxy alone, in kube-proxy's place on a node of any Kubernetes cluster.

use std::{net::IpAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use skiff_client::life::{Stop, readiness};
use skiff_nft::{Family, Kernel, Netlink, Ownership, TableRef};
use skiff_proxy::{DetectLocal, TABLE};

use crate::{
    cli::{DetectLocalMode, Proxy, ProxyMode},
    cluster::{agent, daemon},
};

/// The one that kube-proxy makes in its nftables mode.
const RIVAL: &str = "kube-proxy";
/// A Node object may come after the machine: how long to wait before asking again.
const ASK_FIRST: Duration = Duration::from_millis(500);
const ASK_MOST: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &Proxy) -> Result<ExitCode> {
    daemon::start_log();
    if args.cleanup {
        skiff_proxy::remove_tables(TABLE).context("remove the rules")?;
        eprintln!("removed the tables ip {TABLE} and ip6 {TABLE}");
        return Ok(ExitCode::SUCCESS);
    }
    if args.proxy_mode != ProxyMode::Nftables {
        bail!("--proxy-mode {}: this proxy speaks nftables only", args.proxy_mode);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn live(args: &Proxy) -> Result<()> {
    let stop = Stop::new();
    agent::end_on_signals(&stop)?;
    warn_of_a_rival()?;
    let client = Client::try_from(client_config(args.kubeconfig.as_deref()).await?)?;
    let name = args.hostname_override.clone().map_or_else(agent::host_name, Ok)?;
    let node_ips = tokio::select! {
        ips = node_ips(told_address(args), &client, &name) => ips,
        () = stop.cancelled() => return Ok(()),
    };
    tracing::info!(node = name, addresses = ?node_ips, "the proxy starts");
    let (ready, readiness) = readiness();
    tokio::spawn(async move {
        if readiness.wait().await {
            tracing::info!("the rules are in force");
        }
    });
    skiff_proxy::run(config(args, name, node_ips), client, ready, stop).await?;
    tracing::info!("the proxy ends; its rules stay in force (--cleanup removes them)");
    Ok(())
}

fn config(args: &Proxy, node_name: String, node_ips: Vec<IpAddr>) -> skiff_proxy::Config {
    skiff_proxy::Config {
        // Only the node's own addresses: kube-proxy's word for what is the default here.
        node_port_addresses: args.nodeport_addresses.iter().filter_map(|n| n.0).collect(),
        cluster_cidrs: args.cluster_cidr.clone(),
        service_cidrs: args.service_cluster_ip_range.clone(),
        balancer_pool: vec![],
        detect_local: match args.detect_local_mode {
            DetectLocalMode::ClusterCidr => DetectLocal::ClusterCidr,
            DetectLocalMode::NodeCidr => DetectLocal::NodeCidr,
        },
        masquerade_all: args.masquerade_all,
        tcp_be_liberal: args.conntrack_tcp_be_liberal,
        table: TABLE.into(),
        healthz: args.healthz_bind_address.0,
        metrics: args.metrics_bind_address.0,
        node_name,
        node_ips,
        follow_node: told_address(args).is_none(),
        farewells: Default::default(),
    }
}

/// 0.0.0.0 and :: are kube-proxy's words for: ask the Node.
fn told_address(args: &Proxy) -> Option<IpAddr> {
    args.bind_address.filter(|ip| !ip.is_unspecified())
}

/// By the file, or else as a pod's service account.
async fn client_config(file: Option<&Path>) -> Result<kube::Config> {
    let mut config = match file {
        Some(file) => {
            let read = Kubeconfig::read_from(file).with_context(|| file.display().to_string())?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::incluster()
            .context("no --kubeconfig was given, and this is no pod with a service account: give --kubeconfig FILE")?,
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    Ok(config)
}

/// Two proxies on one node undo each other's work.
fn warn_of_a_rival() -> Result<()> {
    let mut kernel = Netlink::open(Ownership::Shared).context("speak to the kernel")?;
    for family in [Family::Ip, Family::Ip6] {
        let id = TableRef::new(family, RIVAL);
        if kernel.dump(&id)?.is_some() {
            tracing::warn!(
                "the table {id} is kube-proxy's: stop kube-proxy and remove its rules (kube-proxy --cleanup)"
            );
        }
    }
    Ok(())
}

/// The addresses that the Node object has; asked for until it has one. Rules of an earlier run are in force meanwhile.
async fn node_ips(told: Option<IpAddr>, client: &Client, name: &str) -> Vec<IpAddr> {
    if let Some(ip) = told {
        return vec![ip];
    }
    let nodes = Api::<Node>::all(client.clone());
    let mut pause = ASK_FIRST;
    loop {
        match nodes.get_opt(name).await {
            Ok(Some(node)) => match skiff_proxy::node_ips(&node) {
                ips if ips.is_empty() => tracing::warn!("node {name} has no address yet; asking again in {pause:?}"),
                ips => return ips,
            },
            Ok(None) => tracing::warn!(
                "there is no node {name:?} yet; asking again in {pause:?} (--hostname-override names another)"
            ),
            Err(error) => tracing::warn!(%error, "cannot ask for node {name}; trying again in {pause:?}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_MOST);
    }
}
