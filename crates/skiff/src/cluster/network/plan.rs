//! Decides which namespaces, links, addresses and routes a cluster has. Pure.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;

use crate::cluster::{config::Config, paths::Paths};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// The host's end.
    pub(crate) host_link: String,
    pub(crate) host_ip: Ipv4Net,
    /// Where the nodes' links meet; None when the one node is linked to the host directly.
    pub(crate) hub: Option<PathBuf>,
    pub(crate) nodes: Vec<NodeLink>,
    /// What the host reaches through the first node.
    pub(crate) routes: Vec<Ipv4Net>,
    /// What the host looks for on the link: whichever node has the address answers.
    pub(crate) on_link: Vec<Ipv4Net>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeLink {
    pub(crate) name: String,
    pub(crate) netns: PathBuf,
    /// The link's name at the far end (the hub's, or the host's).
    pub(crate) peer: String,
    pub(crate) ip: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    /// The cluster DNS address, which stands on the node's loopback device.
    pub(crate) dns: Ipv4Net,
}

/// The node's own name for its link.
pub(crate) const NODE_LINK: &str = "eth0";
pub(crate) const HUB_BRIDGE: &str = "skiff";
/// The hub's name for the link to the host.
pub(crate) const HUB_UPLINK: &str = "host";

pub(crate) fn network(config: &Config, paths: &Paths) -> Network {
    let host_link = format!("skiff{}", config.index);
    let with_prefix = |ip| Ipv4Net::new_assert(ip, config.node_subnet().prefix_len());
    let several = config.nodes > 1;
    let node = |n: u8| NodeLink {
        name: config.node_name(n),
        netns: paths.netns(&config.node_name(n)),
        peer: if several { format!("node{}", n + 1) } else { host_link.clone() },
        ip: with_prefix(config.node_ip(n)),
        gateway: config.host_ip(),
        dns: Ipv4Net::new_assert(config.dns_ip(), 32),
    };
    Network {
        host_ip: with_prefix(config.host_ip()),
        hub: several.then(|| paths.netns("hub")),
        nodes: (0..config.nodes).map(node).collect(),
        routes: vec![config.service_cidr, config.pod_cidr],
        on_link: config.lb_pool_v4(),
        host_link,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_is_linked_directly() {
        let net = network(&Config::new("a", 0, 1, 6443), &Paths::of("a"));
        assert_eq!(net.hub, None);
        assert_eq!(net.nodes[0].peer, net.host_link);
        assert_eq!(net.nodes[0].ip.to_string(), "172.30.0.11/24");
    }

    #[test]
    fn several_nodes_meet_at_the_hub() {
        let net = network(&Config::new("a", 7, 3, 6443), &Paths::of("a"));
        assert!(net.hub.is_some());
        let peers: Vec<_> = net.nodes.iter().map(|n| n.peer.as_str()).collect();
        assert_eq!(peers, ["node1", "node2", "node3"]);
        assert!(net.nodes.iter().all(|n| n.gateway == Ipv4Addr::new(172, 30, 7, 1)));
    }
}
