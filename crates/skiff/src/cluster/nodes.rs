//! The nodes of this machine, each of which can be switched off and on as a machine can: off means that its link is cut
//! first, so that nothing of it says good-bye, and that its processes, mounts and namespaces are gone; its disk stays.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use skiff_apiserver::{Dial, pki::Pki};
use skiff_client::{
    farewell::Farewells,
    in_process::Clients,
    life::{Readiness, Stop},
};
use tokio::{net::TcpStream, runtime::Handle};

use super::{
    config::Config,
    network::{
        apply, forwarding,
        nat::{self, WayOut},
        netns,
        plan::{Network, NodeLink},
    },
    node,
    paths::Paths,
    sweep,
};

/// How long a part may take to be ready, and how long nodes may take to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Nodes {
    config: Config,
    paths: Paths,
    pki: Pki,
    clients: Clients,
    wires: Network,
    places: Places,
    farewells: Farewells,
    stop: Stop,
    running: BTreeMap<String, Running>,
}

struct Running {
    thread: JoinHandle<io::Result<()>>,
    /// Ends the thread where it stands.
    power: Stop,
    _way_out: Option<WayOut>,
}

impl Nodes {
    pub(crate) fn new(
        config: &Config,
        paths: &Paths,
        wires: Network,
        (pki, clients): (Pki, Clients),
        stop: &Stop,
    ) -> Self {
        Nodes {
            config: config.clone(),
            paths: paths.clone(),
            pki,
            clients,
            wires,
            places: Places::default(),
            farewells: Farewells::default(),
            stop: stop.clone(),
            running: BTreeMap::new(),
        }
    }

    /// Where connections to the cluster's inside are made from.
    pub(crate) fn at(mut self, places: Places) -> Self {
        self.places = places;
        self
    }

    /// Starts all; returns when they are ready.
    pub(crate) async fn start_all(&mut self) -> Result<()> {
        let all = 0..self.config.nodes;
        let begun = all.map(|number| self.begin(number)).collect::<Result<Vec<_>>>()?;
        for waiting in begun {
            self.ready(waiting).await?;
        }
        Ok(())
    }

    /// The node's power is switched on.
    pub(crate) async fn start(&mut self, name: &str) -> Result<()> {
        let number = self.number(name)?;
        if self.running.contains_key(name) {
            bail!("node {name} is running");
        }
        let mut wires = self.wires.clone();
        wires.nodes.retain(|n| n.name == name || self.running.contains_key(&n.name));
        apply::up(&wires).await?;
        pass_on(&self.wires, &self.paths).await?;
        let waiting = self.begin(number)?;
        self.ready(waiting).await
    }

    /// The node's power fails.
    pub(crate) async fn stop(&mut self, name: &str) -> Result<()> {
        let number = self.number(name)?;
        let Some(running) = self.running.remove(name) else { bail!("node {name} is stopped already") };
        self.places.leave(name);
        apply::cut(&self.wires, self.link(number)).await?;
        running.power.cancel();
        drop(running._way_out);
        let (paths, group, name) = (self.paths.clone(), self.group(name), name.to_owned());
        let gone = tokio::task::spawn_blocking(move || {
            // How it ended does not matter any more.
            let _ = running.thread.join();
            sweep::node(&group, &name, &paths)
        });
        tokio::time::timeout(PATIENCE, gone).await.context("the node's threads do not end")??.map(drop)
    }

    /// Waits for the nodes to end after `stop` was given; pods stay.
    pub(crate) async fn end(self) -> Result<()> {
        let mut threads = self.running.into_values().map(|r| r.thread);
        let all = tokio::task::spawn_blocking(move || threads.try_for_each(|t| t.join().unwrap_or(Ok(()))));
        tokio::time::timeout(PATIENCE, all).await.context("the nodes do not end")???;
        Ok(())
    }

    fn begin(&mut self, number: u8) -> Result<Vec<(String, Readiness)>> {
        let what = node::describe(&self.config, &self.paths, &self.pki, number)?.sharing(&self.farewells);
        let name = what.name.clone();
        let way_out = way_out(&self.config, self.link(number));
        let way_out =
            way_out.inspect_err(|error| tracing::warn!("pods cannot reach beyond node {name}: {error:#}")).ok();
        let power = Stop::new();
        let started = node::spawn(what, self.clients.clone(), self.stop.clone(), power.clone());
        let node::Started { thread, runtime, components } = started.context("start a node's thread")?;
        self.places.enter(&name, runtime);
        self.running.insert(name.clone(), Running { thread, power, _way_out: way_out });
        Ok(components.into_iter().map(|(c, ready)| (format!("{c} of node {name}"), ready)).collect())
    }

    async fn ready(&self, waiting: Vec<(String, Readiness)>) -> Result<()> {
        for (what, readiness) in waiting {
            let log = self.paths.server_log();
            match tokio::time::timeout(PATIENCE, readiness.wait()).await {
                Ok(true) => {}
                Ok(false) => bail!("the {what} does not start; {} says why", log.display()),
                Err(_) => bail!("the {what} is not ready after {PATIENCE:?}; {} says why", log.display()),
            }
        }
        Ok(())
    }

    fn number(&self, name: &str) -> Result<u8> {
        let names = || (0..self.config.nodes).map(|n| self.config.node_name(n));
        let found = (0..self.config.nodes).find(|n| self.config.node_name(*n) == name);
        found.with_context(|| {
            format!(
                "cluster {:?} has no node {name:?}, only {}",
                self.config.name,
                names().collect::<Vec<_>>().join(", ")
            )
        })
    }

    fn link(&self, number: u8) -> &NodeLink {
        &self.wires.nodes[usize::from(number)]
    }

    fn group(&self, name: &str) -> String {
        node::cgroup(&self.config, name)
    }
}

/// The host passes packets on between the cluster's link and its own ways out.
pub(crate) async fn pass_on(wires: &Network, paths: &Paths) -> Result<()> {
    let interfaces: Vec<_> = apply::uplinks().await?.into_iter().chain([wires.host_link.clone()]).collect();
    forwarding::on(&interfaces, &paths.run)?;
    if wires.forwards6 {
        forwarding::on6(&interfaces, &paths.run)?;
    }
    Ok(())
}

/// What leaves a node for elsewhere takes the node's address.
fn way_out(config: &Config, node: &NodeLink) -> Result<WayOut> {
    let pods: Vec<_> = config.pod_cidrs().into_iter().map(nat::all_of).collect();
    let (first, last) = (config.node_ips(0), config.node_ips(config.nodes - 1));
    let keep: Vec<_> = pods.iter().copied().chain(first.iter().zip(last.iter())).collect();
    let opened = netns::inside(&node.netns, || async {
        nat::open(&config.name, &pods, &keep, Some(node.dns.addr())).map_err(io::Error::other)
    });
    opened.with_context(|| format!("the way out of node {}", node.name))
}

/// The runtimes inside the nodes' network namespaces.
#[derive(Clone, Default)]
pub(crate) struct Places(Arc<Mutex<BTreeMap<String, Handle>>>);

impl Places {
    fn enter(&self, node: &str, runtime: Handle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.into(), runtime);
    }

    fn leave(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn any(&self) -> Option<Handle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().next().cloned()
    }

    /// Connects to pods from a node of this cluster: from the host, their addresses may lead into another cluster.
    pub(crate) fn dial(&self, pods: Vec<IpNet>) -> Dial {
        let places = self.clone();
        Arc::new(move |host: String, port| {
            let of_pods = host.parse::<IpAddr>().is_ok_and(|ip| pods.iter().any(|range| range.contains(&ip)));
            let from = places.any().filter(|_| of_pods);
            let connect = async move { TcpStream::connect((host.as_str(), port)).await };
            Box::pin(async move {
                match from {
                    Some(node) => node.spawn(connect).await.map_err(io::Error::other)?,
                    None => connect.await,
                }
            })
        })
    }
}
