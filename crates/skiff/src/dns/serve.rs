//! The DNS server in a process of its own, as it runs in CoreDNS's place.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use skiff_client::life::{Stop, readiness};
use skiff_dns::{
    Config, Probes,
    acl::Allowed,
    forward::{Stub, Upstreams},
};
use tokio::signal::unix::{SignalKind, signal};

use super::args::DnsServe;

const PORT: u16 = 53;
const MAX_LANES: usize = 8;

pub(crate) fn run(args: &DnsServe) -> Result<ExitCode> {
    crate::cluster::daemon::start_log();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn live(args: &DnsServe) -> Result<()> {
    let told = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::incluster().context("this is no pod of a cluster: give --kubeconfig FILE")?,
    };
    let client = kube::Client::try_from(told)?;
    let config = config(args);
    let (ready, readiness) = readiness();
    let stop = Stop::new();
    tokio::spawn(stop_on_signals(stop.clone(), Duration::from_secs(args.drain)));
    let listening = format!("{:?}", config.bind);
    tokio::spawn(async move {
        if readiness.wait().await {
            tracing::info!("the zone is complete; answering on {listening}");
        }
    });
    Ok(skiff_dns::run(config, client, ready, stop).await?)
}

/// Goes on for a while after it was told to end: clients learn later than we do that we are gone.
async fn stop_on_signals(stop: Stop, drain: Duration) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("told to end; still answering for {drain:?}");
            tokio::select! {
                () = tokio::time::sleep(drain) => {}
                _ = interrupt.recv() => {}
            }
        }
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    Ok(())
}

fn config(args: &DnsServe) -> Config {
    let listen = if args.listen.is_empty() { everywhere() } else { args.listen.clone() };
    let upstreams = match args.upstream.is_empty() {
        true => Upstreams::File(args.resolv_conf.clone()),
        false => Upstreams::Fixed(args.upstream.clone()),
    };
    let allowed = if args.allow.is_empty() { Allowed::private() } else { Allowed::new(args.allow.iter().copied()) };
    let mut probes: Vec<SocketAddr> = [args.health, args.ready, args.metrics].into_iter().flatten().collect();
    probes.sort();
    probes.dedup();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Config {
        ttl: args.ttl,
        pod_names: args.pods.into(),
        stubs: args.stub.iter().map(|(domain, at)| Stub { domain: domain.clone(), upstreams: at.clone() }).collect(),
        allowed,
        lanes: args.lanes.map_or(cores.clamp(2, MAX_LANES), usize::from),
        end_walks: args.end_search_walks,
        host_resolv_conf: Some(args.resolv_conf.clone()),
        node: args.node_name.clone(),
        probes: Probes(probes),
        ..Config::new(listen, &args.cluster_domain, upstreams)
    }
}

/// Both families, where the machine has them.
fn everywhere() -> Vec<SocketAddr> {
    let mut all = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)];
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        all.push((Ipv6Addr::UNSPECIFIED, PORT).into());
    }
    all
}
