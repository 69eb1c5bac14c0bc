//! The cluster's places on this machine: where the network namespaces of its nodes and pods are.

use std::{future::Future, io, net::IpAddr, path::PathBuf};

use k8s_openapi::api::core::v1::Pod;
use skiff_node::pod::record::Record;

use crate::{
    cluster::{
        config::Config,
        network::netns,
        node::{Ranges, proxy_config},
        paths::Paths,
    },
    explain::{
        evidence::{Client, Cluster, Kind, Seen},
        objects::{host_network, name, namespace, node_of},
    },
};

pub(crate) struct Local {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
}

impl Local {
    /// What the proxy of the node is told.
    pub(super) fn proxy_config(&self, node: &str, ip: IpAddr) -> skiff_proxy::Config {
        let number = (0..self.config.nodes).find(|n| self.config.node_name(*n) == node);
        let ips = number.map_or(ip.into(), |n| self.config.node_ips(n));
        proxy_config(node, ips, &Ranges::of(&self.config))
    }

    /// Runs `work` in the network namespace of the node.
    pub(super) fn on_node<T, F, R>(&self, node: &str, work: F) -> Seen<T>
    where
        T: Send,
        F: FnOnce() -> R + Send,
        R: Future<Output = io::Result<T>>,
    {
        inside(self.node_netns(node)?, &format!("node {node}"), work)
    }

    pub(super) fn in_pod<T, F, R>(&self, pod: &Pod, work: F) -> Seen<T>
    where
        T: Send,
        F: FnOnce() -> R + Send,
        R: Future<Output = io::Result<T>>,
    {
        inside(self.pod_netns(pod)?, &format!("pod {}", name(&pod.metadata)), work)
    }

    /// Where the client's sockets are.
    pub(super) fn as_client<T, F, R>(&self, client: &Client, cluster: &Cluster, work: F) -> Seen<T>
    where
        T: Send,
        F: FnOnce() -> R + Send,
        R: Future<Output = io::Result<T>>,
    {
        match client.kind {
            Kind::Node => self.on_node(&client.name, work),
            Kind::Pod => match cluster.pod(&client.namespace, &client.name) {
                Some(pod) => self.in_pod(pod, work),
                None => Err(format!("pod {} is gone", client.name)),
            },
            Kind::Outside => here(work),
        }
    }

    fn node_netns(&self, node: &str) -> Seen<PathBuf> {
        if !rustix::process::geteuid().is_root() {
            return Err("it needs root: ask again with sudo".into());
        }
        let path = self.paths.netns(node);
        match netns::is_namespace(&path) {
            true => Ok(path),
            false => Err(format!("node {node} is not on this machine")),
        }
    }

    fn pod_netns(&self, pod: &Pod) -> Seen<PathBuf> {
        let node = node_of(pod);
        let of_node = self.node_netns(node)?;
        if host_network(pod) {
            return Ok(of_node);
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let file = self.paths.node_run(node).join("pods").join(format!("{uid}.json"));
        let read = std::fs::read(&file).and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?));
        let record = read.map_err(|e| format!("pod {} is not known on node {node}: {e}", name(&pod.metadata)))?;
        let attached = record.state.network.done().and_then(Option::as_ref).map(|a| a.netns.clone());
        let who = || format!("pod {}/{}", namespace(&pod.metadata), name(&pod.metadata));
        attached.ok_or_else(|| format!("{} has no network yet", who()))
    }
}

fn inside<T, F, R>(path: PathBuf, whose: &str, work: F) -> Seen<T>
where
    T: Send,
    F: FnOnce() -> R + Send,
    R: Future<Output = io::Result<T>>,
{
    netns::inside(&path, work).map_err(|e| format!("{whose}: {e}"))
}

/// On a thread with a runtime of its own, as in a namespace.
fn here<T, F, R>(work: F) -> Seen<T>
where
    T: Send,
    F: FnOnce() -> R + Send,
    R: Future<Output = io::Result<T>>,
{
    inside("/proc/self/ns/net".into(), "this machine", work)
}
