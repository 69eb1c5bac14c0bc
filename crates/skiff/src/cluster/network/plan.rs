//! Decides which namespaces, links, addresses and routes a cluster has. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;

use crate::cluster::{config::Config, paths::Paths};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// The host's end.
    pub(crate) host_link: String,
    /// One of each family that the cluster has.
    pub(crate) host_ips: Vec<IpNet>,
    /// Where the nodes' links meet; None when the one node is linked to the host directly.
    pub(crate) hub: Option<PathBuf>,
    pub(crate) nodes: Vec<NodeLink>,
    /// The host passes the nodes' IPv6 packets on.
    pub(crate) forwards6: bool,
    /// What the host reaches through the first node.
    pub(crate) routes: Vec<IpNet>,
    /// What the host looks for on the link: whichever node has the address answers.
    pub(crate) on_link: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeLink {
    pub(crate) name: String,
    pub(crate) netns: PathBuf,
    /// The link's name at the far end (the hub's, or the host's).
    pub(crate) peer: String,
    pub(crate) ips: Vec<IpNet>,
    /// The ways out, of the families in which the host passes packets on.
    pub(crate) gateways: Vec<IpAddr>,
    /// The cluster DNS address, which stands on the node's loopback device.
    pub(crate) dns: IpNet,
}

/// The node's own name for its link.
pub(crate) const NODE_LINK: &str = "eth0";
pub(crate) const HUB_BRIDGE: &str = "skiff";
/// The hub's name for the link to the host.
pub(crate) const HUB_UPLINK: &str = "host";

/// `forwards6`: the host passes IPv6 packets on. Where it does not, nodes have no IPv6 way out and say so at once.
pub(crate) fn network(config: &Config, paths: &Paths, forwards6: bool) -> Network {
    let host6 = config.host_ip6().filter(|_| forwards6).map(IpAddr::from);
    let forwards6 = host6.is_some();
    let gateways: Vec<IpAddr> = [config.host_ip().into()].into_iter().chain(host6).collect();
    let host_link = format!("skiff{}", config.index);
    let in_subnet = |v4: Ipv4Addr, v6: Option<Ipv6Addr>| {
        let v6 = v6.zip(config.node_subnet6()).map(|(ip, net)| IpNet::new_assert(ip.into(), net.prefix_len()));
        [IpNet::new_assert(v4.into(), config.node_subnet().prefix_len())].into_iter().chain(v6).collect()
    };
    let several = config.nodes > 1;
    let node = |n: u8| NodeLink {
        name: config.node_name(n),
        netns: paths.netns(&config.node_name(n)),
        peer: if several { format!("node{}", n + 1) } else { host_link.clone() },
        ips: in_subnet(config.node_ip(n), config.node_ip6(n)),
        gateways: gateways.clone(),
        dns: IpAddr::from(config.dns_ip()).into(),
    };
    Network {
        host_ips: in_subnet(config.host_ip(), config.host_ip6()),
        hub: several.then(|| paths.netns("hub")),
        nodes: (0..config.nodes).map(node).collect(),
        routes: config.service_cidrs().into_iter().chain(config.pod_cidrs()).collect(),
        on_link: config.reachable_lb_pool(),
        forwards6,
        host_link,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_is_linked_directly() {
        let net = network(&Config::new("a", 0, 1, 6443), &Paths::of("a"), true);
        assert_eq!(net.hub, None);
        assert_eq!(net.nodes[0].peer, net.host_link);
        assert_eq!(format!("{:?}", net.nodes[0].ips), "[172.30.0.11/24]");
    }

    #[test]
    fn several_nodes_meet_at_the_hub() {
        let net = network(&Config::new("a", 7, 3, 6443), &Paths::of("a"), true);
        assert!(net.hub.is_some());
        let peers: Vec<_> = net.nodes.iter().map(|n| n.peer.as_str()).collect();
        assert_eq!(peers, ["node1", "node2", "node3"]);
        let both = Config { ipv6: "fd01::/48".parse().ok(), ..Config::new("a", 7, 3, 6443) };
        let of = |forwards6| network(&both, &Paths::of("a"), forwards6).nodes[0].gateways.len();
        assert_eq!((of(true), of(false)), (2, 1));
        assert!(net.nodes.iter().all(|n| n.gateways == [IpAddr::from([172, 30, 7, 1])]));
    }
}
