//! The agent's life: registers the node, keeps its lease and status, then runs pods, routes and the node's own API.

mod lease;
mod machine;
pub mod object;
mod register;
mod routes;

pub use lease::LEASE;

use std::{collections::BTreeMap, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::{WatchStreamExt, reflector, watcher},
};
use skiff_client::{
    farewell::Farewells,
    life::{Ready, Stop},
};
use tracing::{info, warn};

use crate::{
    hostports::{HostPorts, Surroundings},
    image, network,
    network::{Ips, Network},
    pod::{
        self, Manager,
        context::{Context, Machine},
        events::Recorder,
        record::{self, Records},
    },
    runtime::{self, Runtime},
};

/// Everything an agent needs to know.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    pub node_ips: Ips,
    pub labels: BTreeMap<String, String>,
    pub zone: Option<String>,
    /// Pod directories and logs.
    pub data_dir: PathBuf,
    /// Records, namespaces and shim state; gone with a reboot.
    pub run_dir: PathBuf,
    pub image_dir: PathBuf,
    pub images: image::Options,
    pub dns: Dns,
    /// As `skiff/<cluster>/<node>`.
    pub cgroup_root: String,
    pub tls: Tls,
    /// Of the node's own API.
    pub port: u16,
    pub max_pods: u32,
    /// How long the node counts as alive without a sign; a sign is given four times as often.
    pub lease: Duration,
    /// The program started for each container; this very binary when `None`.
    pub shim: Option<PathBuf>,
    /// Proxies of this process, which say when a pod that ends gets no more connections.
    pub farewells: Farewells,
}

#[derive(Clone, Debug)]
pub struct Dns {
    pub ip: Option<IpAddr>,
    pub domain: String,
    pub host_resolv_conf: PathBuf,
}

/// The node's own API: its certificate and key, and who may sign clients. PEM.
#[derive(Clone)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub client_ca: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make {path}: {cause}")]
    Directory { path: PathBuf, cause: io::Error },
    #[error("node {name} could not be registered: {cause}")]
    Register { name: String, cause: kube::Error },
    #[error("pod records: {0}")]
    Records(#[from] record::Error),
    #[error("image store: {0}")]
    Images(#[from] image::Error),
    #[error("container runtime: {0}")]
    Runtime(#[from] runtime::Error),
    #[error("pod network: {0}")]
    Network(#[from] network::Error),
    #[error("node API: {0}")]
    Server(#[from] crate::server::Error),
}

/// Runs a node until told to stop; its pods are left running. To be called on a single-threaded runtime on a thread in
/// the node's network namespace.
pub async fn run(config: Config, client: kube::Client, ready: Ready, stop: Stop) -> Result<(), Error> {
    // Whatever was begun ends with this function, also when it fails.
    let stop = stop.child_token();
    let _end = stop.clone().drop_guard();
    for path in [&config.data_dir, &config.run_dir] {
        std::fs::create_dir_all(path).map_err(|cause| Error::Directory { path: path.clone(), cause })?;
    }
    let server = crate::server::Server::bind(&config).await?;
    let facts = facts(&config, server.port());
    let Some(ranges) = register::register(&client, &facts, &stop).await? else { return Ok(()) };
    let records = Records::open(config.run_dir.join("pods"))?;
    let left = records.load()?;
    let network = Network::open(config.run_dir.join("netns"), ranges.first, ranges.second, &pod::attachments(&left))?;
    let around = Surroundings {
        node: config.node_ips.iter().chain(network.gateways().iter()).collect(),
        services: config.dns.ip.into_iter().collect(),
    };
    let host_ports = Arc::new(HostPorts::open(pod::published(&left), around));
    let ctx = context(config, client, (network, host_ports), records, &facts, &stop)?;
    let filler = ctx.network.clone();
    tokio::task::spawn_blocking(move || filler.fill().map_err(|e| warn!("{e}")));
    tokio::spawn(lease::run(ctx.clone(), facts, stop.clone()));
    tokio::spawn(routes::run(ctx.clone(), stop.clone()));
    tokio::spawn(server.run(ctx.clone(), stop.clone()));
    info!("node {} is ready, its pods have {ranges}", ctx.config.node_name);
    ready.set();
    Manager::new(ctx.clone(), left).run(stop).await;
    ctx.network.close();
    Ok(())
}

fn facts(config: &Config, port: u16) -> object::Facts {
    object::Facts {
        name: config.node_name.clone(),
        ips: config.node_ips,
        labels: config.labels.clone(),
        zone: config.zone.clone(),
        cpus: machine::cpus(),
        memory: machine::memory(),
        disk: machine::disk(&config.data_dir),
        pods: config.max_pods,
        port,
        info: machine::info(),
    }
}

fn context(
    config: Config,
    client: kube::Client,
    (network, host_ports): (Network, Arc<HostPorts>),
    records: Records,
    facts: &object::Facts,
    stop: &Stop,
) -> Result<Arc<Context>, Error> {
    let images = image::Images::open(&config.image_dir, config.images.clone())?;
    let (run, data) = (config.run_dir.join("containers"), config.data_dir.join("containers"));
    let runtime = match &config.shim {
        Some(shim) => Runtime::with_shim(shim.clone(), run, data, &config.cgroup_root)?,
        None => Runtime::new(run, data, &config.cgroup_root)?,
    };
    let recorder = Recorder::start(client.clone(), &config.node_name);
    recorder.node(pod::events::Kind::Normal, "Starting", "Starting skiff's node agent.");
    Ok(Arc::new(Context {
        services: services(client.clone(), stop.clone()),
        machine: Machine { cpus: facts.cpus, memory: facts.memory },
        directory: Default::default(),
        config,
        client,
        runtime,
        images,
        network,
        host_ports,
        records,
        recorder,
    }))
}

/// The Services of the cluster, for pods' environments.
fn services(client: kube::Client, stop: Stop) -> reflector::Store<Service> {
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
    let stream = reflector(writer, stream);
    tokio::spawn(async move {
        tokio::pin!(stream);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = stream.next() => match event {
                    Some(Err(e)) => warn!("the watch of services failed, trying again: {e}"),
                    Some(Ok(_)) => {}
                    None => return,
                }
            }
        }
    });
    store
}
