//! What one Service is on this node: its frontends, and for each where clients inside and outside the cluster go. Pure.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use skiff_services::{
    choice::{Choice, Viewpoint, choose},
    model::{Port, Protocol, Service, TrafficPolicy},
    snapshot::Entry,
};

use super::{class::Class, skeleton::Networks};

/// This node as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeView {
    pub viewpoint: Viewpoint,
    /// Addresses on which NodePorts are served. Never loopback.
    pub addresses: Vec<IpAddr>,
}

/// Where a client sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub addr: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nobody serves it anywhere.
    Reject,
    /// Somebody does, but not here, and policy Local forbids to go there.
    Drop,
    Cluster,
    Local,
}

/// Whose connections are to come from this node's address, so that the answers come back through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Only those of this node itself: its source address was chosen for the frontend, not for the endpoint.
    NodeOnly,
    /// Those from outside the pods of [`Networks::internal`].
    Outside,
    Everybody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendPlan {
    pub frontend: Frontend,
    pub inside: Route,
    pub outside: Route,
    /// An endpoint on another node would answer the client directly, past the node that has translated.
    pub masquerade: Masquerade,
    /// loadBalancerSourceRanges; empty admits everybody.
    pub admitted: Vec<IpNet>,
    pub is_cluster_ip: bool,
}

/// One port in one address family. The order of the endpoints is that of their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// Comment of the elements: namespace/name:port
    pub label: Arc<str>,
    pub protocol: Protocol,
    pub ipv6: bool,
    pub sticky: Option<u32>,
    pub cluster: Vec<SocketAddr>,
    pub local: Vec<SocketAddr>,
    /// Endpoint addresses whose connections to themselves pass this node.
    pub near: Vec<IpAddr>,
    /// Endpoints whose flows may go on, for protocols whose flows outlive their endpoint in conntrack (not TCP).
    pub serving: Vec<SocketAddr>,
    pub frontends: Vec<FrontendPlan>,
}

impl PortPlan {
    pub fn list(&self, route: Route) -> &[SocketAddr] {
        match route {
            Route::Cluster => &self.cluster,
            Route::Local => &self.local,
            Route::Reject | Route::Drop => &[],
        }
    }
}

/// `before`: the plan that is in force, whose slots are kept where possible, so that one endpoint's change stays one.
pub fn plan(entry: &Entry, node: &NodeView, networks: &Networks, before: &[PortPlan]) -> Vec<PortPlan> {
    let Some(service) = entry.service.as_deref().filter(|s| is_served(s)) else { return vec![] };
    let families = [false, true];
    let ports = service.ports.iter().flat_map(|port| families.map(|ipv6| (port, ipv6)));
    let plans = ports.map(|(port, ipv6)| {
        let choice = choose(entry, port, ipv6, &node.viewpoint);
        let old = |p: &&PortPlan| p.ipv6 == ipv6 && p.protocol == port.protocol && *p.label == *label(service, port);
        let view = PortView { service, port, ipv6, choice: &choice, node, networks };
        view.port_plan(before.iter().find(old))
    });
    let mut seen = HashSet::new();
    let mut plans: Vec<PortPlan> = plans.collect();
    plans.iter_mut().for_each(|p| p.frontends.retain(|f| seen.insert(f.frontend)));
    plans.retain(|p| !p.frontends.is_empty());
    plans
}

/// kube-proxy's ones too: no other proxy's, no headless and no ExternalName Services.
pub fn is_served(service: &Service) -> bool {
    !service.foreign_proxy && !service.headless && !service.cluster_ips.is_empty()
}

fn label(service: &Service, port: &Port) -> String {
    if port.name.is_empty() { service.key.to_string() } else { format!("{}:{}", service.key, port.name) }
}

/// One port in one family, and all that decides about it.
struct PortView<'a> {
    service: &'a Service,
    port: &'a Port,
    ipv6: bool,
    choice: &'a Choice,
    node: &'a NodeView,
    networks: &'a Networks,
}

impl PortView<'_> {
    fn port_plan(&self, before: Option<&PortPlan>) -> PortPlan {
        let (port, choice) = (self.port, self.choice);
        PortPlan {
            label: label(self.service, port).into(),
            protocol: port.protocol,
            ipv6: self.ipv6,
            sticky: self.service.affinity,
            cluster: arrange(before.map_or(&[], |b| &b.cluster), &choice.cluster),
            local: arrange(before.map_or(&[], |b| &b.local), &choice.local),
            near: near(choice),
            serving: if port.protocol == Protocol::Tcp { vec![] } else { choice.serving.clone() },
            frontends: self.frontends(),
        }
    }

    fn frontends(&self) -> Vec<FrontendPlan> {
        let (service, number) = (self.service, self.port.port);
        let mut all: Vec<FrontendPlan> = service.cluster_ips.iter().map(|ip| self.cluster_ip(*ip)).collect();
        let admitted = admitted(service, self.ipv6, self.node);
        let guarded = |ip: &IpAddr| FrontendPlan { admitted: admitted.clone(), ..self.external(*ip, number) };
        all.extend(service.load_balancer_ips.iter().map(guarded));
        all.extend(service.external_ips.iter().map(|ip| self.external(*ip, number)));
        let node_ports = self.port.node_port.iter();
        all.extend(node_ports.flat_map(|p| self.node.addresses.iter().map(|ip| self.external(*ip, *p))));
        all.retain(|f| f.frontend.addr.is_ipv6() == self.ipv6 && !f.frontend.addr.is_loopback());
        all
    }

    fn at(&self, addr: IpAddr, port: u16) -> Frontend {
        Frontend { addr, protocol: self.port.protocol, port }
    }

    fn cluster_ip(&self, ip: IpAddr) -> FrontendPlan {
        let route = match self.service.internal_policy {
            TrafficPolicy::Cluster => cluster_route(self.choice),
            TrafficPolicy::Local => local_route(self.choice),
        };
        // Where it is not known which clients are pods, everybody is taken for one, as kube-proxy does.
        let knows_pods = self.networks.internal.iter().any(|n| n.addr().is_ipv6() == self.ipv6);
        let masquerade = match (self.networks.masquerade_all, knows_pods) {
            (true, _) => Masquerade::Everybody,
            (false, true) => Masquerade::Outside,
            (false, false) => Masquerade::NodeOnly,
        };
        FrontendPlan {
            frontend: self.at(ip, self.port.port),
            inside: route,
            outside: route,
            masquerade,
            admitted: vec![],
            is_cluster_ip: true,
        }
    }

    fn external(&self, ip: IpAddr, port: u16) -> FrontendPlan {
        let everywhere = cluster_route(self.choice);
        let (outside, masquerade) = match self.service.external_policy {
            // Pods of other nodes come here too, and the endpoint may be their neighbour.
            TrafficPolicy::Cluster => (everywhere, Masquerade::Everybody),
            TrafficPolicy::Local => (local_route(self.choice), Masquerade::NodeOnly),
        };
        FrontendPlan {
            frontend: self.at(ip, port),
            // Pods and this node itself go to any endpoint: for them it is a short way to the ClusterIP.
            inside: everywhere,
            outside,
            masquerade,
            admitted: vec![],
            is_cluster_ip: false,
        }
    }
}

fn near(choice: &Choice) -> Vec<IpAddr> {
    let used = |a: &&SocketAddr| choice.cluster.binary_search(a).is_ok() || choice.local.binary_search(a).is_ok();
    let mut ips: Vec<IpAddr> = choice.near.iter().filter(used).map(SocketAddr::ip).collect();
    ips.dedup();
    ips
}

/// The wanted endpoints, as far as possible in the slots they have; the last ones move into the holes.
fn arrange(before: &[SocketAddr], want: &[SocketAddr]) -> Vec<SocketAddr> {
    let want = &want[..want.len().min(Class::MAX_ENDPOINTS)];
    let wanted: HashSet<&SocketAddr> = want.iter().collect();
    let had: HashSet<&SocketAddr> = before.iter().collect();
    let fresh = want.iter().filter(|a| !had.contains(a));
    let kept = before.iter().skip(want.len()).filter(|a| wanted.contains(a));
    let mut movers = fresh.chain(kept).copied();
    let slot = |i: usize| before.get(i).filter(|a| wanted.contains(a)).copied();
    let mut slots = Vec::with_capacity(want.len());
    slots.extend((0..want.len()).filter_map(|i| slot(i).or_else(|| movers.next())));
    slots
}

fn cluster_route(choice: &Choice) -> Route {
    if choice.cluster.is_empty() { Route::Reject } else { Route::Cluster }
}

fn local_route(choice: &Choice) -> Route {
    match (choice.local.is_empty(), choice.anywhere()) {
        (false, _) => Route::Local,
        (true, true) => Route::Drop,
        (true, false) => Route::Reject,
    }
}

/// A range that admits this node admits the balancer's own addresses too: the node's packets to an address that stands on
/// it carry that very address as their source.
fn admitted(service: &Service, ipv6: bool, node: &NodeView) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> =
        service.source_ranges.iter().filter(|r| r.addr().is_ipv6() == ipv6).map(IpNet::trunc).collect();
    if service.source_ranges.iter().any(|r| r.prefix_len() == 0 && r.addr().is_ipv6() == ipv6) {
        return vec![];
    }
    // Ranges of the other family only: nobody of this one is meant.
    if ranges.is_empty() && !service.source_ranges.is_empty() {
        let nobody: IpAddr = if ipv6 { [0u16; 8].into() } else { [0u8; 4].into() };
        return vec![IpNet::from(nobody)];
    }
    if ranges.iter().any(|r| node.addresses.iter().any(|a| r.contains(a))) {
        ranges.extend(service.load_balancer_ips.iter().filter(|ip| ip.is_ipv6() == ipv6).map(|ip| IpNet::from(*ip)));
    }
    IpNet::aggregate(&ranges)
}
