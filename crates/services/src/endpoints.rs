//! Which pods stand behind a Service, and how: the facts that Endpoints and EndpointSlices share.

pub mod mirror;
pub mod slices;
pub mod subsets;
pub mod topology;
pub mod trigger;

#[cfg(test)]
pub(crate) mod fixture;

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

pub const LABEL_ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
pub const LABEL_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const LABEL_SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
pub const ANNOTATION_OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
pub const ANNOTATION_LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
pub const ANNOTATION_LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
pub const ENDPOINTS_CONTROLLER: &str = "endpoint-controller";
pub const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
pub const MIRROR_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";

/// True when the controllers make endpoints for the Service: it has a selector and an address of its own kind.
pub fn is_managed(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.selector.as_ref().is_some_and(|s| !s.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
    })
}

/// True when the Service's selector takes the pod's labels.
pub fn selects(service: &Service, labels: Option<&BTreeMap<String, String>>) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty()) else {
        return false;
    };
    selector.iter().all(|(k, v)| labels.is_some_and(|l| l.get(k) == Some(v)))
}

pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// A pod that has ended for good serves nobody.
fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The pod's addresses, the primary one first.
pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return vec![] };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = all.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    let mut known = std::collections::HashSet::new();
    ips.retain(|ip| known.insert(*ip));
    ips
}

/// The host name by which a headless Service knows the pod.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.hostname.as_deref().is_some_and(|h| !h.is_empty());
    (named && spec.subdomain.is_some() && spec.subdomain == service.metadata.name)
        .then(|| spec.hostname.clone())
        .flatten()
}

pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// The port of this pod that a Service port leads to; None when it names a port that the pod does not have.
pub(crate) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let wanted = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) if *number != 0 => return Some(*number),
        Some(IntOrString::Int(_)) => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = protocol(port.protocol.as_deref());
    serving_containers(pod)
        .flat_map(|c| c.ports.iter().flatten())
        .find(|p| p.name.as_ref() == Some(wanted) && self::protocol(p.protocol.as_deref()) == protocol)
        .map(|p| p.container_port)
}

/// Containers, then init containers that go on beside them.
fn serving_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.into_iter().flat_map(|s| &s.containers).chain(sidecars)
}

pub(crate) fn protocol(text: Option<&str>) -> &str {
    text.filter(|p| !p.is_empty()).unwrap_or("TCP")
}

pub(crate) fn service_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().flat_map(|s| s.ports.iter().flatten())
}

/// Pods that may stand in Endpoints or slices at all.
fn candidates<'a, P: AsRef<Pod> + 'a>(pods: impl IntoIterator<Item = &'a P>) -> impl Iterator<Item = &'a Pod> {
    pods.into_iter().map(AsRef::as_ref).filter(|pod| !is_over(pod))
}

/// The Service's labels with those that say whose the object is.
fn labels(service: &Service, managed_by: (&str, &str)) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(crate::model::LABEL_HEADLESS);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(crate::model::LABEL_HEADLESS.into(), String::new());
    }
    labels.insert(managed_by.0.into(), managed_by.1.into());
    labels
}
