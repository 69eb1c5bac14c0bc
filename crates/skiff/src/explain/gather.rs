//! Collects the evidence: the API's objects, answers of the name servers, the kernel's rules, the sockets of pods, and a
//! real connection. What cannot be looked at is kept as the reason why.

mod client;
mod connect;
mod dns;
mod kernel;
mod place;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;

pub(super) use self::place::Local;
use super::{
    diagnose::service_of_name,
    evidence::{Attempt, Cluster, Evidence, Lookup, Way},
    objects::id,
    question::{Host, Question, Target},
    ways::{self, Asked},
};

pub(super) async fn gather(question: &Question, local: &Local, api: &Client) -> Result<Evidence> {
    let cluster = objects(api).await?;
    let client = client::find(question, &cluster, local)?;
    let outside = client::outside(&cluster, local, &question.namespace);
    let lookup = dns::look_up(question, &client, &cluster, local);
    let service = service(question, lookup.as_ref(), &client.namespace, local, &cluster);
    let asked = Asked {
        target: &question.target,
        client: &client,
        cluster: &cluster,
        addresses: lookup.as_ref().map_or(&[], Lookup::addresses),
        service,
        outside: &outside,
    };
    let ways = ways::ways(&asked);
    let attempts = attempts(ways, &cluster, local);
    let sockets = sockets_behind(&attempts, &cluster, local);
    Ok(Evidence {
        question: question.clone(),
        domain: local.config.domain.clone(),
        dns: local.config.dns_ip().into(),
        client,
        cluster,
        lookup,
        attempts,
        sockets,
    })
}

async fn objects(api: &Client) -> Result<Cluster> {
    Ok(Cluster {
        services: all(api).await?,
        slices: all(api).await?,
        pods: all(api).await?,
        nodes: all(api).await?,
        events: all(api).await?,
        service_cidrs: all(api).await?,
    })
}

async fn all<K>(api: &Client) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let list = Api::<K>::all(api.clone()).list(&ListParams::default()).await;
    Ok(list.with_context(|| format!("list {}", K::plural(&())))?.items)
}

/// The Service that the question names.
fn service<'a>(
    question: &Question,
    lookup: Option<&Lookup>,
    namespace: &str,
    local: &Local,
    cluster: &'a Cluster,
) -> Option<&'a Service> {
    let host = match &question.target {
        Target::Service { name, .. } => return cluster.service(&question.namespace, name),
        Target::Peer { host: Host::Ip(_), .. } => return None,
        Target::Peer { host: Host::Name(host), .. } => host,
    };
    let found = lookup.filter(|l| l.zone.is_some() && !l.addresses().is_empty()).and_then(|l| l.asked.last());
    let (name, namespace) = service_of_name(found.map_or(host, |(name, _)| name), &local.config.domain, namespace);
    cluster.service(&namespace, &name)
}

fn attempts(ways: Vec<Way>, cluster: &Cluster, local: &Local) -> Vec<Attempt> {
    let mut rules: BTreeMap<String, kernel::Rules> = BTreeMap::new();
    let attempt = |way: Way| {
        let rules =
            rules.entry(way.from.node.clone()).or_insert_with(|| kernel::Rules::of(&way.from.node, cluster, local));
        let (kernel, wanted, element) = rules.trace(&way);
        let connected = connect::attempt(&way, cluster, local);
        Attempt { way, kernel, wanted, element, connected }
    };
    ways.into_iter().map(attempt).collect()
}

/// What is listened on in every pod that an attempt may end at.
fn sockets_behind(
    attempts: &[Attempt],
    cluster: &Cluster,
    local: &Local,
) -> BTreeMap<String, super::evidence::Seen<Vec<super::evidence::Socket>>> {
    let ends = attempts.iter().flat_map(|a| {
        let kernel = a.kernel.iter().flatten().flat_map(skiff_nft::trace::Outcome::endpoints);
        kernel.chain(a.wanted.endpoints()).chain([a.way.to]).map(|end| end.ip())
    });
    let ips: BTreeSet<_> = ends.collect();
    let pods = ips.into_iter().filter_map(|ip| super::diagnose::pod_at(cluster, ip));
    pods.map(|pod| (id(&pod.metadata), sockets::of_pod(pod, local))).collect()
}
