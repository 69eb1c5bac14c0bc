//! Services and EndpointSlices as exact types: parsed once from the API's objects, no strings decided on afterwards.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// Labels and annotations that change what a Service or a slice means to a node.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
pub const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
pub const ANNOTATION_TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        ServiceKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// None: not a protocol that Services have. Absent means TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// internalTrafficPolicy and externalTrafficPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty in a Service with one unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub target: IntOrString,
    pub node_port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    pub kind: ServiceType,
    /// Empty for headless and ExternalName Services.
    pub cluster_ips: Vec<IpAddr>,
    pub headless: bool,
    pub external_name: Option<String>,
    pub external_ips: Vec<IpAddr>,
    /// status.loadBalancer.ingress addresses whose ipMode is absent or VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    /// sessionAffinity ClientIP with its timeout in seconds.
    pub affinity: Option<u32>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    pub source_ranges: Vec<IpNet>,
    pub health_check_node_port: Option<u16>,
    pub publish_not_ready: bool,
    /// Another proxy takes care of it (label service.kubernetes.io/service-proxy-name).
    pub foreign_proxy: bool,
    pub has_selector: bool,
}

/// One endpoint of a slice; absent conditions read as the API defines: ready and serving true, terminating false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// addresses[0]; the others have no meaning (discovery/v1).
    pub ip: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub hostname: Option<Arc<str>>,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub hint_zones: Vec<Arc<str>>,
    pub hint_nodes: Vec<Arc<str>>,
    /// The pod's name, when the target is a pod of the Service's namespace.
    pub pod: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub name: Arc<str>,
    pub service: ServiceKey,
    pub ipv6: bool,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
    /// When the change that made this slice happened, as its annotation says (RFC 3339).
    pub trigger_time: Option<String>,
}

fn ips(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|t| t.as_ref().parse().ok()).collect()
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn port(value: Option<i32>) -> Option<u16> {
    value.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
}

impl Service {
    /// None when the object has no name or namespace. Values that the API would have refused are left out.
    pub fn from_api(object: &core::Service) -> Option<Self> {
        let meta = &object.metadata;
        let key = ServiceKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?);
        let spec = object.spec.clone().unwrap_or_default();
        let kind = match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        };
        let named = kind == ServiceType::ExternalName;
        let cluster_ips = match (&spec.cluster_ips, &spec.cluster_ip) {
            _ if named => vec![],
            (Some(all), _) if !all.is_empty() => ips(all),
            (_, one) => ips(one),
        };
        let timeout = || {
            spec.session_affinity_config
                .as_ref()?
                .client_ip
                .as_ref()?
                .timeout_seconds
                .and_then(|s| u32::try_from(s).ok())
        };
        Some(Service {
            key,
            kind,
            cluster_ips,
            headless: !named && spec.cluster_ip.as_deref() == Some("None"),
            external_name: if named { spec.external_name.clone() } else { None },
            external_ips: ips(spec.external_ips.iter().flatten()),
            load_balancer_ips: load_balancer_ips(object, kind),
            ports: spec.ports.iter().flatten().filter_map(Port::from_api).collect(),
            affinity: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| timeout().unwrap_or(10_800)),
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
            external_policy: policy(spec.external_traffic_policy.as_deref()),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|r| r.trim().parse().ok())
                .collect(),
            health_check_node_port: port(spec.health_check_node_port),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            foreign_proxy: meta.labels.as_ref().is_some_and(|l| l.contains_key(LABEL_PROXY_NAME)),
            has_selector: spec.selector.as_ref().is_some_and(|s| !s.is_empty()),
        })
    }
}

fn load_balancer_ips(object: &core::Service, kind: ServiceType) -> Vec<IpAddr> {
    if kind != ServiceType::LoadBalancer {
        return vec![];
    }
    let status = object.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|l| l.ingress.as_ref()).into_iter().flatten();
    ips(ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_deref()))
}

impl Port {
    fn from_api(p: &core::ServicePort) -> Option<Self> {
        Some(Port {
            name: p.name.as_deref().unwrap_or("").into(),
            protocol: Protocol::parse(p.protocol.as_deref())?,
            port: port(Some(p.port))?,
            target: p.target_port.clone().unwrap_or(IntOrString::Int(p.port)),
            node_port: port(p.node_port),
        })
    }
}

impl Slice {
    /// None when the slice belongs to no Service or holds names instead of addresses.
    pub fn from_api(object: &discovery::EndpointSlice) -> Option<Self> {
        let meta = &object.metadata;
        let namespace = meta.namespace.as_deref()?;
        let service = meta.labels.as_ref()?.get(LABEL_SERVICE_NAME)?;
        let ipv6 = match object.address_type.as_str() {
            "IPv4" => false,
            "IPv6" => true,
            _ => return None,
        };
        let ports = object.ports.iter().flatten().filter_map(|p| {
            Some(SlicePort {
                name: p.name.as_deref().unwrap_or("").into(),
                protocol: Protocol::parse(p.protocol.as_deref())?,
                port: port(p.port)?,
            })
        });
        let endpoints = object.endpoints.iter().flatten();
        let mut endpoints: Vec<Endpoint> = endpoints.filter_map(|e| Endpoint::from_api(e, namespace, ipv6)).collect();
        // They stay for as long as the cluster: hundreds of thousands of them.
        endpoints.shrink_to_fit();
        let annotation = |name: &str| meta.annotations.as_ref().and_then(|a| a.get(name)).cloned();
        Some(Slice {
            name: meta.name.as_deref()?.into(),
            service: ServiceKey::new(namespace, service),
            ipv6,
            ports: ports.collect(),
            endpoints,
            trigger_time: annotation(ANNOTATION_TRIGGER_TIME),
        })
    }
}

impl Endpoint {
    fn from_api(e: &discovery::Endpoint, namespace: &str, ipv6: bool) -> Option<Self> {
        let ip: IpAddr = e.addresses.first()?.parse().ok()?;
        if ip.is_ipv6() != ipv6 {
            return None;
        }
        let condition = e.conditions.as_ref();
        let ready = condition.and_then(|c| c.ready).unwrap_or(true);
        let hints = e.hints.as_ref();
        let target = e.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
        let target = target.filter(|t| t.namespace.as_deref().is_none_or(|n| n == namespace));
        Some(Endpoint {
            ip,
            ready,
            serving: condition.and_then(|c| c.serving).unwrap_or(true),
            terminating: condition.and_then(|c| c.terminating).unwrap_or(false),
            hostname: e.hostname.as_deref().map(Arc::from),
            node: e.node_name.as_deref().map(Arc::from),
            zone: e.zone.as_deref().map(Arc::from),
            hint_zones: hints
                .and_then(|h| h.for_zones.as_ref())
                .into_iter()
                .flatten()
                .map(|z| z.name.as_str().into())
                .collect(),
            hint_nodes: hints
                .and_then(|h| h.for_nodes.as_ref())
                .into_iter()
                .flatten()
                .map(|n| n.name.as_str().into())
                .collect(),
            pod: target.and_then(|t| t.name.as_deref()).map(Arc::from),
        })
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
