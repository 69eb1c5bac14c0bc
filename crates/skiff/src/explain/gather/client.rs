//! Who asks: the pod, the node or the world outside that the question names.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;

use super::place::Local;
use crate::explain::{
    evidence::{Client, Cluster, Kind},
    nearest,
    objects::{host_network, is_over, is_ready, name, namespace, node_ips, node_of, pod_ips},
    question::{From, Question},
};

pub(super) fn find(question: &Question, cluster: &Cluster, local: &Local) -> Result<Client> {
    match &question.from {
        Some(From::Pod(wanted)) => of_pod(pod(wanted, &question.namespace, cluster)?),
        Some(From::Node(wanted)) => of_node(wanted.as_deref(), cluster, &question.namespace),
        None => of_node(None, cluster, &question.namespace),
        Some(From::Outside) => Ok(outside(cluster, local, &question.namespace)),
    }
}

pub(super) fn outside(cluster: &Cluster, local: &Local, namespace: &str) -> Client {
    let node = cluster.nodes.first().map_or_else(String::new, |n| name(&n.metadata).into());
    plain(Kind::Outside, "", namespace, local.config.host_ip().into(), &node)
}

fn plain(kind: Kind, name: &str, namespace: &str, ip: IpAddr, node: &str) -> Client {
    Client {
        kind,
        name: name.into(),
        namespace: namespace.into(),
        ip,
        node: node.into(),
        host_network: false,
        dns_policy: String::new(),
    }
}

/// By its name, or by the beginning of it: the first ready pod of a Deployment will do.
fn pod<'a>(wanted: &str, ns: &str, cluster: &'a Cluster) -> Result<&'a Pod> {
    if let Some(pod) = cluster.pod(ns, wanted) {
        return Ok(pod);
    }
    let here = || cluster.pods.iter().filter(|p| namespace(&p.metadata) == ns && !is_over(p));
    let prefix = format!("{wanted}-");
    let mut begins: Vec<&Pod> = here().filter(|p| name(&p.metadata).starts_with(&prefix)).collect();
    begins.sort_by_key(|p| (!is_ready(p), name(&p.metadata).to_owned()));
    if let Some(pod) = begins.first() {
        return Ok(pod);
    }
    let near = nearest::names(wanted, here().map(|p| name(&p.metadata)));
    match near.is_empty() {
        false => bail!("there is no pod {wanted:?} in namespace {ns}; nearly so are called: {}", near.join(", ")),
        true => bail!("there is no pod {wanted:?} in namespace {ns}; `kubectl get pods -A` shows all"),
    }
}

fn of_pod(pod: &Pod) -> Result<Client> {
    let (own, ns) = (name(&pod.metadata), namespace(&pod.metadata));
    let ip = *pod_ips(pod).first().with_context(|| {
        format!(
            "pod {own} has no address yet, so nothing can come from it; `kubectl -n {ns} describe pod {own}` says why"
        )
    })?;
    let spec = pod.spec.as_ref();
    Ok(Client {
        host_network: host_network(pod),
        dns_policy: spec.and_then(|s| s.dns_policy.clone()).unwrap_or_else(|| "ClusterFirst".into()),
        ..plain(Kind::Pod, own, ns, ip, node_of(pod))
    })
}

fn of_node(wanted: Option<&str>, cluster: &Cluster, ns: &str) -> Result<Client> {
    let names: Vec<&str> = cluster.nodes.iter().map(|n| name(&n.metadata)).collect();
    let node = match wanted {
        None => cluster.nodes.first(),
        Some(wanted) => cluster.nodes.iter().find(|n| name(&n.metadata) == wanted),
    };
    let node =
        node.with_context(|| format!("there is no node {:?}, only {}", wanted.unwrap_or_default(), names.join(", ")))?;
    let own = name(&node.metadata);
    let ip = *node_ips(node).first().with_context(|| format!("node {own} has no InternalIP"))?;
    Ok(plain(Kind::Node, own, ns, ip, own))
}
