//! What the rules depend on besides Services: this node's zone, pods and addresses, and the cluster's Service networks.
//! Pure: events in, [`NodeView`] and [`Networks`] out.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Node, networking::v1::ServiceCIDR};
use kube::runtime::watcher::Event;
use skiff_services::choice::Viewpoint;

use crate::{
    ruleset::{Networks, NodeView},
    run::{Config, DetectLocal},
};

const ZONE: &str = "topology.kubernetes.io/zone";
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    zone: Option<String>,
    pod_cidrs: Vec<IpNet>,
    /// As the Node object says.
    node_ips: Vec<IpAddr>,
    /// The node is being deleted, or is marked for it by the autoscaler.
    pub(crate) leaving: bool,
    /// None until the objects have been listed: then, and where there are none, the configuration counts.
    service_cidrs: Option<BTreeMap<String, Vec<IpNet>>>,
    listing: BTreeMap<String, Vec<IpNet>>,
    /// The kernel's addresses of this node, if they are asked for.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Surroundings {
    pub fn node(&mut self, event: &Event<Node>) {
        let (Event::Apply(node) | Event::InitApply(node)) = event else { return };
        let spec = node.spec.as_ref();
        let tainted = spec.and_then(|s| s.taints.as_ref()).is_some_and(|t| t.iter().any(|t| t.key == LEAVING_TAINT));
        self.leaving = tainted || node.metadata.deletion_timestamp.is_some();
        self.zone = node.metadata.labels.as_ref().and_then(|l| l.get(ZONE)).cloned();
        self.node_ips = node_ips(node);
        let many = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten();
        let all: Vec<&String> = many.chain(spec.and_then(|s| s.pod_cidr.as_ref())).collect();
        self.pod_cidrs = all.into_iter().filter_map(|c| c.parse().ok()).collect();
        self.pod_cidrs.sort();
        self.pod_cidrs.dedup();
    }

    pub fn service_cidr(&mut self, event: &Event<ServiceCIDR>) {
        let name = |o: &ServiceCIDR| o.metadata.name.clone().unwrap_or_default();
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => drop(self.listing.insert(name(object), ranges(object))),
            Event::InitDone => self.service_cidrs = Some(std::mem::take(&mut self.listing)),
            Event::Apply(object) => {
                self.service_cidrs.get_or_insert_default().insert(name(object), ranges(object));
            }
            Event::Delete(object) => {
                self.service_cidrs.get_or_insert_default().remove(&name(object));
            }
        }
    }

    pub fn networks(&self, config: &Config) -> Networks {
        let known: Vec<IpNet> = self.service_cidrs.iter().flat_map(|c| c.values().flatten()).copied().collect();
        let ranges = if known.is_empty() { &config.service_cidrs } else { &known };
        let own_pods = config.detect_local == DetectLocal::NodeCidr && !self.pod_cidrs.is_empty();
        Networks {
            internal: if own_pods { self.pod_cidrs.clone() } else { config.cluster_cidrs.clone() },
            refused: ranges.iter().chain(&config.balancer_pool).copied().collect(),
            masquerade_all: config.masquerade_all,
        }
    }

    pub fn node_view(&self, config: &Config) -> NodeView {
        NodeView {
            viewpoint: Viewpoint { node: config.node_name.as_str().into(), zone: self.zone.as_deref().map(Into::into) },
            addresses: self.node_port_addresses(config),
        }
    }

    /// The node's own addresses; or, when networks are given, all of the kernel's in these. A family of which no network
    /// is given is not restricted. Addresses of the Service network on this node are the cluster's, not the node's.
    fn node_port_addresses(&self, config: &Config) -> Vec<IpAddr> {
        let nets = &config.node_port_addresses;
        let refused = self.networks(config).refused;
        let free = |ip: &IpAddr| !nets.iter().any(|n| n.addr().is_ipv6() == ip.is_ipv6());
        let wanted = |ip: &IpAddr| nets.is_empty() || free(ip) || nets.iter().any(|n| n.contains(ip));
        let of_services = |ip: &IpAddr| refused.iter().any(|n| n.contains(ip));
        let asked = if nets.is_empty() { &[][..] } else { &self.addresses };
        let told = config.follow_node && !self.node_ips.is_empty();
        let own = if told { &self.node_ips } else { &config.node_ips };
        let all = own.iter().chain(asked).copied();
        let mut all: Vec<IpAddr> = all.filter(|ip| !ip.is_loopback() && wanted(ip) && !of_services(ip)).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// The addresses that a Node object has inside the cluster; where it has none, those outside.
pub fn node_ips(node: &Node) -> Vec<IpAddr> {
    let all = || node.status.as_ref().and_then(|s| s.addresses.as_ref()).into_iter().flatten();
    let of = |kind: &str| all().filter(|a| a.type_ == kind).filter_map(|a| a.address.parse().ok()).collect();
    let inside: Vec<IpAddr> = of("InternalIP");
    if inside.is_empty() { of("ExternalIP") } else { inside }
}

fn ranges(object: &ServiceCIDR) -> Vec<IpNet> {
    let all = object.spec.as_ref().and_then(|s| s.cidrs.as_ref()).into_iter().flatten();
    all.filter_map(|c| c.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn config() -> Config {
        Config {
            node_name: "a".into(),
            node_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            ..Config::default()
        }
    }

    fn cidr(name: &str, ranges: &[&str]) -> ServiceCIDR {
        from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": ranges}})).unwrap()
    }

    fn shown(nets: &[IpNet]) -> String {
        nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn service_networks_follow_their_objects() {
        let mut around = Surroundings::default();
        let nets = |around: &Surroundings| shown(&around.networks(&config()).refused);
        assert_eq!(nets(&around), "10.96.0.0/12");
        around.service_cidr(&Event::Init);
        around.service_cidr(&Event::InitApply(cidr("kubernetes", &["10.96.0.0/16", "fd96::/112"])));
        assert_eq!(nets(&around), "10.96.0.0/12", "not before the list is whole");
        around.service_cidr(&Event::InitDone);
        assert_eq!(nets(&around), "10.96.0.0/16 fd96::/112");
        around.service_cidr(&Event::Apply(cidr("more", &["10.200.0.0/16"])));
        assert_eq!(nets(&around), "10.96.0.0/16 fd96::/112 10.200.0.0/16");
        around.service_cidr(&Event::Delete(cidr("more", &[])));
        assert_eq!(nets(&around), "10.96.0.0/16 fd96::/112");
        around.service_cidr(&Event::Delete(cidr("kubernetes", &[])));
        assert_eq!(nets(&around), "10.96.0.0/12", "none are left: the configuration counts");
        around.service_cidr(&Event::Apply(cidr("kubernetes", &["10.96.0.0/16"])));
        let with_pool = Config { balancer_pool: vec!["198.51.100.0/24".parse().unwrap()], ..config() };
        assert_eq!(shown(&around.networks(&with_pool).refused), "10.96.0.0/16 198.51.100.0/24");
    }

    #[test]
    fn addresses_of_node_ports() {
        let kernel = ["127.0.0.1", "::1", "192.0.2.1", "192.0.2.9", "10.96.0.10", "2001:db8::1", "2001:db8::9"];
        let around =
            Surroundings { addresses: kernel.iter().map(|a| a.parse().unwrap()).collect(), ..Surroundings::default() };
        let rows: &[(&[&str], &str)] = &[
            (&[], "192.0.2.1 2001:db8::1"),
            (&["192.0.2.0/24"], "192.0.2.1 192.0.2.9 2001:db8::1 2001:db8::9"),
            (&["192.0.2.8/29"], "192.0.2.9 2001:db8::1 2001:db8::9"),
            (&["0.0.0.0/0", "::/0"], "192.0.2.1 192.0.2.9 2001:db8::1 2001:db8::9"),
            (&["127.0.0.0/8", "2001:db8::9/128"], "2001:db8::9"),
            (&["203.0.113.0/24", "fd00::/8"], ""),
        ];
        for (nets, want) in rows {
            let nets: Vec<IpNet> = nets.iter().map(|n| n.parse().unwrap()).collect();
            let config = Config { node_port_addresses: nets.clone(), ..config() };
            let got: Vec<String> = around.node_view(&config).addresses.iter().map(ToString::to_string).collect();
            assert_eq!(got.join(" "), *want, "{nets:?}");
        }
    }

    #[test]
    fn a_node_may_get_other_addresses() {
        let mut around = Surroundings::default();
        let follow = Config { follow_node: true, ..config() };
        let shown = |around: &Surroundings, config: &Config| {
            around.node_view(config).addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&around, &follow), "192.0.2.1 2001:db8::1", "not known yet");
        for (addresses, want) in [
            (
                json!([{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "a"}]),
                "192.0.2.7",
            ),
            (json!([{"type": "ExternalIP", "address": "203.0.113.7"}]), "203.0.113.7"),
            (json!([]), "192.0.2.1 2001:db8::1"),
        ] {
            let node = json!({"metadata": {"name": "a"}, "status": {"addresses": addresses}});
            around.node(&Event::Apply(from_value(node).unwrap()));
            assert_eq!(shown(&around, &follow), want);
            assert_eq!(shown(&around, &config()), "192.0.2.1 2001:db8::1", "told by the one who started it");
        }
    }

    #[test]
    fn a_node_says_where_its_pods_are() {
        let mut around = Surroundings::default();
        let node: Node = from_value(json!({
            "metadata": {"name": "a", "labels": {ZONE: "east"}},
            "spec": {"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"], "taints": [{"key": LEAVING_TAINT, "effect": "NoSchedule"}]},
        }))
        .unwrap();
        around.node(&Event::Apply(node));
        assert!(around.leaving);
        assert_eq!(around.node_view(&config()).viewpoint.zone.as_deref(), Some("east"));
        assert_eq!(shown(&around.networks(&config()).internal), "10.244.0.0/16");
        let near = Config { detect_local: DetectLocal::NodeCidr, ..config() };
        assert_eq!(shown(&around.networks(&near).internal), "10.244.3.0/24");
    }
}
