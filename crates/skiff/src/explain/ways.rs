//! Which ways are to be walked: the client's own to what it names, or every way into a Service. Pure.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use skiff_services::model::{LABEL_SERVICE_NAME, Protocol, TrafficPolicy};

use super::{
    evidence::{Client, Cluster, Kind, Way},
    objects::{
        exact, is_external_name, is_headless, is_ready, name, namespace, node_ips, node_of, owner, ports, protocol,
    },
    question::{Host, Target},
};

/// More are not walked: they say the same again.
const MAX_WAYS: usize = 24;

/// What the question's words have come to.
pub(super) struct Asked<'a> {
    pub(super) target: &'a Target,
    pub(super) client: &'a Client,
    pub(super) cluster: &'a Cluster,
    /// The addresses that the name has, if it is one.
    pub(super) addresses: &'a [IpAddr],
    /// The Service that the name means.
    pub(super) service: Option<&'a Service>,
    /// A client outside the cluster.
    pub(super) outside: &'a Client,
}

pub(super) fn ways(asked: &Asked<'_>) -> Vec<Way> {
    let mut all = match asked.target {
        Target::Service { port, .. } => into_service(asked, *port),
        Target::Peer { host, port, protocol } => {
            let addresses = match host {
                Host::Ip(ip) => std::slice::from_ref(ip),
                Host::Name(_) => asked.addresses,
            };
            to_peer(asked, addresses, *port, *protocol)
        }
    };
    all.truncate(MAX_WAYS);
    all
}

fn to_peer(asked: &Asked<'_>, addresses: &[IpAddr], port: Option<u16>, protocol: Protocol) -> Vec<Way> {
    let mut all = vec![];
    for ip in addresses {
        let numbers = match port {
            Some(port) => vec![(port, protocol)],
            None => all_ports(asked, *ip),
        };
        all.extend(numbers.into_iter().map(|(port, protocol)| way(asked, SocketAddr::new(*ip, port), protocol)));
    }
    all
}

/// Every port of the Service that has the address or that the name means.
fn all_ports(asked: &Asked<'_>, ip: IpAddr) -> Vec<(u16, Protocol)> {
    match (owner(asked.cluster, ip), asked.service) {
        (Some((service, _)), _) => ports(service).iter().filter_map(|p| Some((number(p.port)?, protocol(p)))).collect(),
        (None, Some(service)) if is_headless(service) => targets(asked.cluster, service),
        _ => vec![],
    }
}

/// From the client, or for a client outside into the node that the address belongs to.
fn way(asked: &Asked<'_>, to: SocketAddr, protocol: Protocol) -> Way {
    let mut from = asked.client.clone();
    if from.kind == Kind::Outside
        && let Some(node) = asked.cluster.node_at(to.ip())
    {
        from.node = name(&node.metadata).into();
    }
    Way { from, to, protocol }
}

fn into_service(asked: &Asked<'_>, wanted: Option<u16>) -> Vec<Way> {
    let Some(service) = asked.service.filter(|s| !is_external_name(s)) else { return vec![] };
    if is_headless(service) {
        let numbers = targets(asked.cluster, service);
        let numbers: Vec<_> = numbers.into_iter().filter(|(p, _)| wanted.is_none_or(|w| w == *p)).collect();
        let pairs = asked.addresses.iter().flat_map(|ip| numbers.iter().map(|n| (*ip, *n)));
        return pairs.map(|(ip, (port, protocol))| way(asked, SocketAddr::new(ip, port), protocol)).collect();
    }
    let Some(addresses) = exact(service) else { return vec![] };
    let mut all = vec![];
    for port in ports(service).iter().filter(|p| wanted.is_none_or(|w| i32::from(w) == p.port)) {
        let Some(at) = number(port.port) else { continue };
        all.extend(addresses.cluster_ips.iter().map(|ip| way(asked, SocketAddr::new(*ip, at), protocol(port))));
        all.extend(
            addresses
                .load_balancer_ips
                .iter()
                .map(|ip| from_outside(asked, None, SocketAddr::new(*ip, at), protocol(port))),
        );
        all.extend(node_port(asked, service, port));
    }
    if let (Some(port), true) = (wanted, all.is_empty()) {
        let there = addresses.cluster_ips.iter();
        all.extend(there.map(|ip| way(asked, SocketAddr::new(*ip, port), Protocol::Tcp)));
    }
    all
}

fn from_outside(asked: &Asked<'_>, node: Option<&str>, to: SocketAddr, protocol: Protocol) -> Way {
    let mut from = asked.outside.clone();
    if let Some(node) = node {
        from.node = node.into();
    }
    Way { from, to, protocol }
}

/// By one node: one that has an endpoint where the policy asks for that.
fn node_port(asked: &Asked<'_>, service: &Service, port: &ServicePort) -> Option<Way> {
    let at = number(port.node_port?)?;
    let local_only = exact(service)?.external_policy == TrafficPolicy::Local;
    let selected = asked.cluster.selected(service);
    let serves = |node: &str| selected.iter().any(|p| is_ready(p) && node_of(p) == node);
    let nodes = &asked.cluster.nodes;
    let best = nodes.iter().find(|n| local_only && serves(name(&n.metadata))).or(nodes.first())?;
    let ip = *node_ips(best).first()?;
    Some(from_outside(asked, Some(name(&best.metadata)), SocketAddr::new(ip, at), protocol(port)))
}

/// The ports at which a headless Service's endpoints are, as its slices say.
fn targets(cluster: &Cluster, service: &Service) -> Vec<(u16, Protocol)> {
    let mine = cluster.slices.iter().filter(|s| {
        let label = s.metadata.labels.as_ref().and_then(|l| l.get(LABEL_SERVICE_NAME));
        namespace(&s.metadata) == namespace(&service.metadata) && label.is_some_and(|l| l == name(&service.metadata))
    });
    let all = mine.flat_map(|s| s.ports.iter().flatten());
    let mut numbers: Vec<(u16, Protocol)> =
        all.filter_map(|p| Some((number(p.port?)?, Protocol::parse(p.protocol.as_deref())?))).collect();
    numbers.sort_by_key(|(port, protocol)| (*port, protocol.number()));
    numbers.dedup();
    numbers
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p != 0)
}
