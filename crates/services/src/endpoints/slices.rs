//! The EndpointSlices of a Service: up to a hundred endpoints each, one set of ports and one address family per slice.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    LABEL_SLICE_MANAGED_BY, SLICE_CONTROLLER, addresses, candidates, hostname, is_ready, is_terminating, labels,
    protocol, service_ports, target, target_port,
    topology::{self, Capacity, Spot, Unable},
};
use crate::model::{ANNOTATION_TRIGGER_TIME, LABEL_SERVICE_NAME};

/// So many endpoints fit into one slice.
const CAPACITY: usize = 100;

/// What is to be written. Names of new slices come from the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<String>,
    /// A pod was left out because its node is not known (yet).
    pub node_missing: bool,
    /// Of a Service in topology mode Auto: for each family, whether its endpoints have hints, or why not.
    pub topology: BTreeMap<&'static str, Result<(), Unable>>,
}

/// What the planner knows of nodes.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// Of each node its zone, if it has one.
    pub zones: BTreeMap<String, Option<String>>,
    pub capacity: Capacity,
}

pub fn plan<P: AsRef<Pod>>(
    service: &Service,
    pods: &[P],
    nodes: &Nodes,
    existing: &[&EndpointSlice],
    trigger: Option<String>,
) -> Plan {
    let mut wanted = wanted(service, pods, nodes);
    let topology = if topology::is_auto(service) {
        wanted.families.clone().into_iter().map(|f| (f, wanted.hint(f, existing, &nodes.capacity))).collect()
    } else {
        BTreeMap::new()
    };
    let frame = Frame { metadata: metadata(service, trigger), existing, capacity: CAPACITY };
    let mut plan = frame.fill(wanted.groups, &wanted.families);
    plan.node_missing = wanted.node_missing;
    plan.topology = topology;
    plan
}

/// Everything about a slice but its content, and the slices there are.
pub(crate) struct Frame<'a> {
    /// generateName, namespace, labels, annotations and owner of every slice of the plan.
    pub metadata: ObjectMeta,
    pub existing: &'a [&'a EndpointSlice],
    /// So many endpoints fit into one slice.
    pub capacity: usize,
}

/// One kind of slice: family and ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub family: &'static str,
    pub ports: Vec<PortKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortKey {
    pub name: String,
    pub number: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

impl PortKey {
    fn to_api(&self) -> EndpointPort {
        EndpointPort {
            name: Some(self.name.clone()),
            port: Some(self.number),
            protocol: Some(self.protocol.clone()),
            app_protocol: self.app_protocol.clone(),
        }
    }

    fn of(port: &EndpointPort) -> Self {
        PortKey {
            name: port.name.clone().unwrap_or_default(),
            number: port.port.unwrap_or(0),
            protocol: protocol(port.protocol.as_deref()).into(),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

/// What tells one endpoint from another: its address and what it stands for.
type Id = (String, Option<String>);
pub(crate) type Group = BTreeMap<Id, Endpoint>;

pub(crate) fn id(endpoint: &Endpoint) -> Id {
    (endpoint.addresses.first().cloned().unwrap_or_default(), endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()))
}

struct Wanted {
    groups: BTreeMap<Shape, Group>,
    families: Vec<&'static str>,
    node_missing: bool,
}

impl Wanted {
    /// Gives a family's ready endpoints the zones that they are for, or none of them.
    fn hint(&mut self, family: &str, existing: &[&EndpointSlice], capacity: &Capacity) -> Result<(), Unable> {
        let before = hinted(family, existing);
        let of_family = self.groups.iter_mut().filter(|(shape, _)| shape.family == family);
        let ready = |e: &&mut Endpoint| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
        let mut endpoints: Vec<&mut Endpoint> =
            of_family.flat_map(|(_, group)| group.values_mut()).filter(ready).collect();
        let spot = |e: &&mut Endpoint| (e.zone.clone(), before.get(&id(e)).copied());
        let spots: Vec<_> = endpoints.iter().map(spot).collect();
        let spots: Vec<Spot<'_>> =
            spots.iter().map(|(zone, hint)| Spot { zone: zone.as_deref(), hint: *hint }).collect();
        let zones = topology::assign(&spots, capacity)?;
        for (endpoint, name) in endpoints.iter_mut().zip(zones) {
            endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name }]), for_nodes: None });
        }
        Ok(())
    }
}

/// The zone that each endpoint is for so far.
fn hinted<'a>(family: &str, existing: &[&'a EndpointSlice]) -> BTreeMap<Id, &'a str> {
    let slices = existing.iter().filter(|s| s.address_type == family);
    let endpoints = slices.flat_map(|s| s.endpoints.iter().flatten());
    let zone = |e: &'a Endpoint| Some((id(e), e.hints.as_ref()?.for_zones.as_ref()?.first()?.name.as_str()));
    endpoints.filter_map(zone).collect()
}

fn wanted<P: AsRef<Pod>>(service: &Service, pods: &[P], nodes: &Nodes) -> Wanted {
    let families = families(service, pods);
    let mut wanted = Wanted { groups: BTreeMap::new(), families: families.clone(), node_missing: false };
    let publish = service.spec.as_ref().is_some_and(|s| s.publish_not_ready_addresses == Some(true));
    for pod in candidates(pods) {
        let zone = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).and_then(|node| nodes.zones.get(node));
        for family in &families {
            let Some(ip) = addresses(pod).into_iter().find(|ip| family_of(*ip) == *family) else { continue };
            if zone.is_none() && !publish {
                wanted.node_missing = true;
                continue;
            }
            let shape = Shape { family, ports: pod_ports(service, pod) };
            let endpoint = endpoint(service, pod, ip, zone.cloned().flatten());
            wanted.groups.entry(shape).or_default().insert(id(&endpoint), endpoint);
        }
    }
    wanted
}

pub(crate) fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// The Service's families; those of its pods when the Service is of a time before families.
fn families<P: AsRef<Pod>>(service: &Service, pods: &[P]) -> Vec<&'static str> {
    let named = service.spec.as_ref().and_then(|s| s.ip_families.as_ref()).filter(|f| !f.is_empty());
    match named {
        Some(list) => list.iter().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect(),
        None => {
            let of_pods: BTreeSet<_> = candidates(pods).flat_map(|p| addresses(p).into_iter().map(family_of)).collect();
            if of_pods.is_empty() { vec!["IPv4"] } else { of_pods.into_iter().collect() }
        }
    }
}

fn pod_ports(service: &Service, pod: &Pod) -> Vec<PortKey> {
    let ports = service_ports(service).filter_map(|port| {
        Some(PortKey {
            name: port.name.clone().unwrap_or_default(),
            number: target_port(port, pod)?,
            protocol: protocol(port.protocol.as_deref()).into(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort();
    ports
}

fn endpoint(service: &Service, pod: &Pod, ip: IpAddr, zone: Option<String>) -> Endpoint {
    let publish = service.spec.as_ref().is_some_and(|s| s.publish_not_ready_addresses == Some(true));
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    let ready = publish || (serving && !terminating);
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: if ready { hints(service, zone.as_deref(), node.as_deref()) } else { None },
        hostname: hostname(pod, service),
        node_name: node,
        target_ref: Some(target(pod)),
        zone,
        ..Default::default()
    }
}

/// trafficDistribution as hints: stay in the zone, or on the node. Topology mode Auto goes before it.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    if topology::is_auto(service) {
        return None;
    }
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|z| vec![ForZone { name: z.into() }]);
    match distribution {
        "PreferClose" | "PreferSameZone" => for_zones.map(|z| EndpointHints { for_zones: Some(z), for_nodes: None }),
        "PreferSameNode" => {
            let for_nodes = node.map(|n| vec![ForNode { name: n.into() }]);
            Some(EndpointHints { for_zones, for_nodes })
        }
        _ => None,
    }
}

fn metadata(service: &Service, trigger: Option<String>) -> ObjectMeta {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = labels(service, (LABEL_SLICE_MANAGED_BY, SLICE_CONTROLLER));
    labels.insert(LABEL_SERVICE_NAME.into(), name.clone());
    ObjectMeta {
        generate_name: Some(generate_name(&name)),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: trigger.map(|t| [(ANNOTATION_TRIGGER_TIME.to_string(), t)].into()),
        owner_references: Some(vec![owner("v1", "Service", &service.metadata)]),
        ..Default::default()
    }
}

pub(crate) fn owner(api_version: &str, kind: &str, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.into(),
        kind: kind.into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Leaves room for the server's random suffix and stays a valid name.
pub(crate) fn generate_name(name: &str) -> String {
    format!("{}-", name.chars().take(57).collect::<String>())
}

impl Frame<'_> {
    /// Divides the endpoints among the slices there are and new ones, changing as few slices as possible. A family that
    /// ends up without any slice gets an empty one, so that clients see that the Service is known.
    pub(crate) fn fill(&self, mut groups: BTreeMap<Shape, Group>, families: &[&'static str]) -> Plan {
        let mut plan = Plan::default();
        let mut idle: Vec<&EndpointSlice> = vec![];
        let mut homes: BTreeMap<Shape, Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in self.existing {
            match shape_of(slice).filter(|s| groups.contains_key(s)) {
                Some(shape) => homes.entry(shape).or_default().push(slice),
                None => idle.push(slice),
            }
        }
        for family in families {
            if !groups.keys().any(|s| s.family == *family) {
                let shape = Shape { family, ports: vec![] };
                let at = idle.iter().position(|s| shape_of(s).as_ref() == Some(&shape));
                homes.entry(shape.clone()).or_default().extend(at.map(|at| idle.remove(at)));
                groups.insert(shape, Group::new());
            }
        }
        for (shape, group) in groups {
            self.fill_shape(&shape, group, homes.remove(&shape).unwrap_or_default(), &mut plan, &mut idle);
        }
        self.reuse(&mut plan, idle);
        plan
    }

    fn fill_shape<'s>(
        &self,
        shape: &Shape,
        mut group: Group,
        homes: Vec<&'s EndpointSlice>,
        plan: &mut Plan,
        idle: &mut Vec<&'s EndpointSlice>,
    ) {
        let placeholder = group.is_empty();
        let mut parts: Vec<Part<'s>> = homes.into_iter().map(|slice| Part::keep(slice, &mut group)).collect();
        let mut rest: Vec<Endpoint> = group.into_values().collect();
        // Slices that must be written anyway take newcomers first, the fullest of them before the others.
        parts.sort_by_key(|p| (Reverse(p.changed), Reverse(p.endpoints.len())));
        for part in parts.iter_mut().filter(|p| p.changed) {
            part.take(&mut rest, self.capacity);
        }
        // What is left goes whole into the fullest slice that can hold it, else into new slices.
        let spill = rest.len() % self.capacity;
        let fitting =
            parts.iter_mut().filter(|p| spill > 0 && !p.changed && p.endpoints.len() + spill <= self.capacity);
        if let Some(part) = fitting.max_by_key(|p| p.endpoints.len()) {
            let from = rest.len() - spill;
            part.endpoints.extend(rest.drain(from..));
            part.changed = true;
        }
        let mut kept = 0;
        for part in parts {
            if part.endpoints.is_empty() && !(placeholder && kept == 0) {
                idle.push(part.slice);
                continue;
            }
            kept += 1;
            let metadata = self.metadata_of(part.slice);
            if part.changed || !same_metadata(&metadata, &part.slice.metadata) {
                plan.update.push(slice(shape, metadata, part.endpoints));
            }
        }
        while !rest.is_empty() || (placeholder && kept == 0) {
            let part = rest.drain(..rest.len().min(self.capacity)).collect();
            plan.create.push(slice(shape, self.metadata.clone(), part));
            kept += 1;
        }
    }

    /// Turns a deletion and a creation into one update; deletes what nobody can use.
    fn reuse(&self, plan: &mut Plan, mut idle: Vec<&EndpointSlice>) {
        let mut create = vec![];
        for new in plan.create.drain(..) {
            match idle.iter().position(|old| old.address_type == new.address_type) {
                Some(at) => {
                    let metadata = self.metadata_of(idle.remove(at));
                    plan.update.push(EndpointSlice { metadata, ..new });
                }
                None => create.push(new),
            }
        }
        plan.create = create;
        plan.delete = idle.iter().filter_map(|s| s.metadata.name.clone()).collect();
    }

    fn metadata_of(&self, slice: &EndpointSlice) -> ObjectMeta {
        let mut metadata = slice.metadata.clone();
        metadata.labels = self.metadata.labels.clone();
        metadata.owner_references = self.metadata.owner_references.clone();
        let mut annotations = metadata.annotations.take().unwrap_or_default();
        annotations.remove(ANNOTATION_TRIGGER_TIME);
        annotations.extend(self.metadata.annotations.clone().unwrap_or_default());
        metadata.annotations = (!annotations.is_empty()).then_some(annotations);
        metadata
    }
}

/// The annotation of the time changes with every write and is no reason for one.
fn same_metadata(want: &ObjectMeta, have: &ObjectMeta) -> bool {
    let annotations = |m: &ObjectMeta| {
        let mut all = m.annotations.clone().unwrap_or_default();
        all.remove(ANNOTATION_TRIGGER_TIME);
        all
    };
    want.labels == have.labels
        && want.owner_references == have.owner_references
        && annotations(want) == annotations(have)
}

/// An existing slice with what is to stand in it.
struct Part<'s> {
    slice: &'s EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl<'s> Part<'s> {
    /// Keeps the endpoints that are still wanted, as they are wanted now, and takes them out of the group.
    fn keep(slice: &'s EndpointSlice, group: &mut Group) -> Self {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let endpoints: Vec<Endpoint> = old.iter().filter_map(|e| group.remove(&id(e))).collect();
        let changed = endpoints != old;
        Part { slice, endpoints, changed }
    }

    fn take(&mut self, rest: &mut Vec<Endpoint>, capacity: usize) {
        let room = capacity.saturating_sub(self.endpoints.len()).min(rest.len());
        self.endpoints.extend(rest.drain(..room));
    }
}

fn shape_of(slice: &EndpointSlice) -> Option<Shape> {
    let family = match slice.address_type.as_str() {
        "IPv4" => "IPv4",
        "IPv6" => "IPv6",
        _ => return None,
    };
    let mut ports: Vec<_> = slice.ports.iter().flatten().map(PortKey::of).collect();
    ports.sort();
    Some(Shape { family, ports })
}

fn slice(shape: &Shape, metadata: ObjectMeta, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let ports: Vec<_> = shape.ports.iter().map(PortKey::to_api).collect();
    EndpointSlice {
        metadata,
        address_type: shape.family.into(),
        endpoints: Some(endpoints),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
