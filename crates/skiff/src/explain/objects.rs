//! Questions to the API's objects that the diagnosis asks again and again. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{ContainerPort, Node, Pod, Service, ServicePort},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use skiff_services::{
    endpoints::selects,
    model::{self, Protocol, ServiceType},
};

use super::evidence::Cluster;

pub(super) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(super) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("default")
}

pub(super) fn id(meta: &ObjectMeta) -> String {
    format!("{}/{}", namespace(meta), name(meta))
}

pub(super) fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    let first = status.and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    ips.extend(first.filter(|ip| !ips.contains(ip)));
    ips
}

pub(super) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

pub(super) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Succeeded or failed for good.
pub(super) fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn node_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|a| a.type_ == "InternalIP");
    internal.filter_map(|a| a.address.parse().ok()).collect()
}

/// The ports that a pod's containers declare.
pub(super) fn declared(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.iter();
    spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
        .flat_map(|c| c.ports.iter().flatten())
}

pub(super) fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default()
}

pub(super) fn protocol(port: &ServicePort) -> Protocol {
    Protocol::parse(port.protocol.as_deref()).unwrap_or(Protocol::Tcp)
}

pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty())
}

pub(super) fn pairs<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// `80/TCP`, with its name where it has one.
pub(super) fn port_words(port: &ServicePort) -> String {
    let named = port.name.as_ref().map_or(String::new(), |n| format!(" ({n})"));
    format!("{}/{}{named}", port.port, protocol(port))
}

pub(super) fn target_words(port: &ServicePort) -> String {
    match &port.target_port {
        None => port.port.to_string(),
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => format!("{name:?}"),
    }
}

impl Cluster {
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| self::namespace(&s.metadata) == namespace && self::name(&s.metadata) == name)
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|p| self::namespace(&p.metadata) == namespace && self::name(&p.metadata) == name)
    }

    /// Who has the address now.
    pub(super) fn pod_at(&self, ip: IpAddr) -> Option<&Pod> {
        self.pods.iter().filter(|p| !host_network(p) && !is_over(p)).find(|p| pod_ips(p).contains(&ip))
    }

    pub(super) fn node_at(&self, ip: IpAddr) -> Option<&Node> {
        self.nodes.iter().find(|n| node_ips(n).contains(&ip))
    }

    /// The pods of the Service's namespace that its selector takes.
    pub(super) fn selected(&self, service: &Service) -> Vec<&Pod> {
        let ours = self.pods.iter().filter(|p| namespace(&p.metadata) == namespace(&service.metadata));
        ours.filter(|p| selects(service, p.metadata.labels.as_ref())).collect()
    }
}

/// How a frontend belongs to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

impl Via {
    pub(super) fn word(self) -> &'static str {
        match self {
            Via::ClusterIp => "ClusterIP",
            Via::NodePort => "NodePort",
            Via::LoadBalancer => "load balancer address",
            Via::ExternalIp => "external IP",
        }
    }
}

/// The exact form of a Service; the API's objects always have it.
pub(super) fn exact(service: &Service) -> Option<model::Service> {
    model::Service::from_api(service)
}

/// Which Service has the address, whatever the port.
pub(super) fn owner(cluster: &Cluster, ip: IpAddr) -> Option<(&Service, Via)> {
    let has = |service: &Service| {
        let s = exact(service)?;
        if s.cluster_ips.contains(&ip) {
            return Some(Via::ClusterIp);
        }
        if s.load_balancer_ips.contains(&ip) {
            return Some(Via::LoadBalancer);
        }
        s.external_ips.contains(&ip).then_some(Via::ExternalIp)
    };
    cluster.services.iter().find_map(|s| has(s).map(|via| (s, via)))
}

/// Which Service has the NodePort.
pub(super) fn node_port_owner(cluster: &Cluster, port: u16, protocol: Protocol) -> Option<(&Service, &ServicePort)> {
    let port = i32::from(port);
    let found = |s| ports(s).iter().find(|p| p.node_port == Some(port) && self::protocol(p) == protocol);
    cluster.services.iter().find_map(|s| found(s).map(|p| (s, p)))
}

pub(super) fn is_external_name(service: &Service) -> bool {
    exact(service).is_some_and(|s| s.kind == ServiceType::ExternalName)
}

pub(super) fn is_headless(service: &Service) -> bool {
    exact(service).is_some_and(|s| s.headless)
}
