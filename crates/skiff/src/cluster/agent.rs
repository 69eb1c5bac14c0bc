//! `skiff agent`: a node whose API server is elsewhere. Its kubeconfig's certificate is also what the node shows to the
//! API server that asks it for logs and exec (`skiff kubeconfig --node NAME --address IP` makes such a file).

use std::{net::IpAddr, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::{KubeConfigOptions, Kubeconfig};
use skiff_client::life::{Stop, readiness};
use skiff_dns::acl::Net;
use tokio::{runtime::Handle, signal::unix::SignalKind};

use super::{
    lock,
    network::{
        apply::wire_agent,
        nat::{self, WayOut},
    },
    node::{Directories, NodeClients, Place, Ranges, run as run_node},
    paths::Paths,
    sweep,
};
use crate::{cli::Agent, commands::preflight};

/// The name of the way out of an agent's pods.
pub(crate) const WAY_OUT: &str = "agent";

/// The control group that all of an agent's containers are below.
pub(crate) fn cgroup(name: &str) -> String {
    format!("skiff-agent/{name}")
}

pub(crate) fn run(args: &Agent) -> Result<ExitCode> {
    super::daemon::start_log();
    preflight::check()?;
    let name = args.node_name.clone().map_or_else(host_name, Ok)?;
    let paths = Paths::of_agent(&name);
    let Some(_lock) = lock::take(&paths.lock()).context("lock the agent")? else {
        bail!("an agent of node {name:?} is already running on this machine");
    };
    if args.cleanup {
        let swept = sweep::agent(&name, args.cluster_dns, args.cluster_cidr, &paths)?;
        eprintln!("removed {swept}; `kubectl delete node {name}` makes the cluster forget the node");
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(args, name, &paths))?;
    Ok(ExitCode::SUCCESS)
}

async fn live(args: &Agent, name: String, paths: &Paths) -> Result<()> {
    let file = args.kubeconfig.as_deref().context("an agent needs --kubeconfig FILE")?;
    let kubeconfig = Kubeconfig::read_from(file)?;
    let tls = node_tls(file)?;
    let told = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let ip = match args.node_ip {
        Some(ip) => ip,
        None => own_address(&told.cluster_url)?,
    };
    let client = kube::Client::try_from(told)?;
    wire_agent(args.cluster_dns).await?;
    let place = Place {
        ips: ip.into(),
        lease: skiff_node::LEASE,
        zone: None,
        dns_ip: args.cluster_dns,
        domain: args.cluster_domain.clone(),
        dns_upstreams: args.dns_upstream.clone(),
        dns_end_walks: args.dns_end_search_walks,
        neighbours: vec![Net::host(ip)],
        name,
    };
    let directories = Directories {
        data: paths.data.clone(),
        run: paths.run.clone(),
        images: paths.images(),
        cgroup: cgroup(&place.name),
    };
    let _way_out = way_out(args, ip);
    let ranges = Ranges { pods: vec![args.cluster_cidr.into()], services: vec![], balancers: vec![] };
    let node = place.node(directories, ranges, tls, Handle::current());
    let stop = Stop::new();
    end_on_signals(&stop)?;
    let ready = [readiness().0, readiness().0, readiness().0];
    let clients = NodeClients { agent: client.clone(), proxy: client.clone(), dns: client };
    run_node(node, clients, ready, stop).await;
    Ok(())
}

/// What pods send beyond the cluster takes this machine's address. Pods of other nodes are reached as they are.
fn way_out(args: &Agent, ip: IpAddr) -> Option<WayOut> {
    let IpAddr::V4(_) = ip else { return None };
    let pods = nat::all_of(args.cluster_cidr.into());
    let opened = nat::open(WAY_OUT, &[pods], &[pods], Some(args.cluster_dns));
    opened.inspect_err(|error| tracing::warn!("pods cannot reach beyond this node: {error}")).ok()
}

pub(crate) fn end_on_signals(stop: &Stop) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = tokio::signal::unix::signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}

/// The kubeconfig's client certificate, key and authority.
fn node_tls(path: &Path) -> Result<skiff_node::Tls> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: serde_json::Value = serde_yaml_ng::from_str(&text).with_context(|| path.display().to_string())?;
    let pem = |pointer: &str| {
        let decoded = file.pointer(pointer).and_then(|v| v.as_str()).and_then(|data| STANDARD.decode(data).ok());
        decoded.and_then(|bytes| String::from_utf8(bytes).ok()).with_context(|| {
            format!("{} has no {pointer}: `skiff kubeconfig --node NAME --address IP` makes a node's", path.display())
        })
    };
    Ok(skiff_node::Tls {
        certificate: pem("/users/0/user/client-certificate-data")?,
        key: pem("/users/0/user/client-key-data")?,
        client_ca: pem("/clusters/0/cluster/certificate-authority-data")?,
    })
}

/// The address from which this machine reaches the API server: the kernel knows.
fn own_address(server: &http::Uri) -> Result<IpAddr> {
    let host = server.host().context("the kubeconfig's server has no host")?;
    let port = server.port_u16().unwrap_or(443);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((host, port)).with_context(|| format!("find the way to {host}"))?;
    let ip = socket.local_addr()?.ip();
    if ip.is_loopback() {
        bail!("this machine reaches {host} by its loopback only: give the node's address with --node-ip");
    }
    Ok(ip)
}

pub(crate) fn host_name() -> Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    Ok(name)
}
