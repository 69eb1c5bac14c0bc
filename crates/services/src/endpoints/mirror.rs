//! EndpointSlices for Endpoints that somebody wrote by hand for a Service without a selector.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    ANNOTATION_LAST_APPLIED, ANNOTATION_LEADER, LABEL_SKIP_MIRROR, LABEL_SLICE_MANAGED_BY, MIRROR_CONTROLLER, protocol,
    slices::{Frame, Group, Plan, PortKey, Shape, family_of, generate_name, id, owner},
};
use crate::model::{ANNOTATION_TRIGGER_TIME, LABEL_SERVICE_NAME};

/// So many addresses of one subset are mirrored, all into one slice of each family.
pub const CAPACITY: usize = 1000;

/// The plan, and what the owner of the Endpoints should be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mirror {
    pub plan: Plan,
    pub invalid: Vec<String>,
    /// So many addresses are not mirrored, invalid ones among them.
    pub skipped: usize,
}

/// True when these Endpoints are to be mirrored.
pub fn wants_mirror(service: &Service, endpoints: &Endpoints) -> bool {
    let has_selector = service.spec.as_ref().is_some_and(|s| s.selector.as_ref().is_some_and(|s| !s.is_empty()));
    let meta = &endpoints.metadata;
    let skip = meta.labels.as_ref().and_then(|l| l.get(LABEL_SKIP_MIRROR)).is_some_and(|v| v == "true");
    let leader = meta.annotations.as_ref().is_some_and(|a| a.contains_key(ANNOTATION_LEADER));
    !has_selector && !skip && !leader && meta.deletion_timestamp.is_none()
}

pub fn plan(endpoints: &Endpoints, existing: &[&EndpointSlice]) -> Mirror {
    let mut mirror = Mirror::default();
    let mut groups: BTreeMap<Shape, Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        for (family, endpoint) in mirror.endpoints(subset) {
            let shape = Shape { family, ports: ports(subset) };
            groups.entry(shape).or_default().entry(id(&endpoint)).or_insert(endpoint);
        }
    }
    // Without addresses there is nothing to mirror, not even an empty slice.
    mirror.plan = Frame { metadata: metadata(endpoints), existing, capacity: CAPACITY }.fill(groups, &[]);
    mirror
}

impl Mirror {
    fn endpoints(&mut self, subset: &EndpointSubset) -> Vec<(&'static str, Endpoint)> {
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let waiting = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let mut made = vec![];
        for (address, ready) in ready.chain(waiting) {
            match address.ip.parse::<IpAddr>() {
                _ if made.len() >= CAPACITY => self.skipped += 1,
                Ok(ip) => made.push((family_of(ip), endpoint(address, ready))),
                Err(_) => {
                    self.skipped += 1;
                    self.invalid.push(address.ip.clone());
                }
            }
        }
        made
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

fn ports(subset: &EndpointSubset) -> Vec<PortKey> {
    let ports = subset.ports.iter().flatten().map(|p| PortKey {
        name: p.name.clone().unwrap_or_default(),
        number: p.port,
        protocol: protocol(p.protocol.as_deref()).into(),
        app_protocol: p.app_protocol.clone(),
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort();
    ports
}

fn metadata(endpoints: &Endpoints) -> ObjectMeta {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_SERVICE_NAME.into(), name.clone());
    labels.insert(LABEL_SLICE_MANAGED_BY.into(), MIRROR_CONTROLLER.into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(ANNOTATION_TRIGGER_TIME);
    annotations.remove(ANNOTATION_LAST_APPLIED);
    ObjectMeta {
        generate_name: Some(generate_name(&name)),
        namespace: endpoints.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![owner("v1", "Endpoints", &endpoints.metadata)]),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::EndpointPort;

    use super::{super::fixture, *};

    fn endpoints(subsets: &[(&[&str], i32)]) -> Endpoints {
        let address = |ip: &&str| EndpointAddress { ip: ip.to_string(), ..Default::default() };
        let subset = |(ips, port): &(&[&str], i32)| EndpointSubset {
            addresses: Some(ips.iter().map(address).collect()),
            ports: Some(vec![EndpointPort { port: *port, ..Default::default() }]),
            ..Default::default()
        };
        let mut endpoints = Endpoints::default();
        endpoints.metadata.name = Some("web".into());
        endpoints.metadata.uid = Some("e1".into());
        endpoints.metadata.labels = Some([("a".to_string(), "b".to_string())].into());
        endpoints.metadata.annotations = Some([(ANNOTATION_LAST_APPLIED.to_string(), "{}".to_string())].into());
        endpoints.subsets = Some(subsets.iter().map(subset).collect());
        endpoints
    }

    #[test]
    fn one_slice_for_each_family_and_port_set() {
        let mirror = plan(&endpoints(&[(&["1.2.3.4", "fd00::1", "no ip"], 80), (&["1.2.3.4"], 81)]), &[]);
        assert_eq!(mirror.invalid, ["no ip"]);
        let mut made: Vec<_> = mirror
            .plan
            .create
            .iter()
            .map(|s| (s.address_type.clone(), s.ports.as_ref().unwrap()[0].port.unwrap()))
            .collect();
        made.sort();
        assert_eq!(made, [("IPv4".to_string(), 80), ("IPv4".to_string(), 81), ("IPv6".to_string(), 80)]);
        let meta = &mirror.plan.create[0].metadata;
        assert_eq!(meta.annotations, None);
        assert_eq!(meta.labels.as_ref().unwrap()[LABEL_SERVICE_NAME], "web");
        assert_eq!(meta.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(meta.owner_references.as_ref().unwrap()[0].kind, "Endpoints");
    }

    #[test]
    fn follows_changes_and_ends_with_the_addresses() {
        let mut slice = plan(&endpoints(&[(&["1.2.3.4"], 80)]), &[]).plan.create.remove(0);
        slice.metadata.name = Some("web-x".into());
        assert_eq!(plan(&endpoints(&[(&["1.2.3.4"], 80)]), &[&slice]).plan, Plan::default());
        let changed = plan(&endpoints(&[(&["1.2.3.5"], 8080)]), &[&slice]).plan;
        assert_eq!((changed.create.len(), changed.update.len(), changed.delete.len()), (0, 1, 0));
        assert_eq!(plan(&endpoints(&[]), &[&slice]).plan.delete, ["web-x"]);
    }

    #[test]
    fn a_thousand_addresses_stand_in_one_slice() {
        let ips: Vec<String> = (0..1100u32).map(|i| format!("10.0.{}.{}", i / 250, i % 250 + 1)).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        let mirror = plan(&endpoints(&[(&ips, 80)]), &[]);
        let sizes: Vec<usize> = mirror.plan.create.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!((sizes, mirror.skipped), (vec![1000], 100));
    }

    #[test]
    fn who_is_mirrored() {
        let mut bare = fixture::service("web", &[]);
        assert!(!wants_mirror(&bare, &endpoints(&[])), "has a selector");
        bare.spec.as_mut().unwrap().selector = None;
        assert!(wants_mirror(&bare, &endpoints(&[])));
        let mut skipped = endpoints(&[]);
        skipped.metadata.labels = Some([(LABEL_SKIP_MIRROR.to_string(), "true".to_string())].into());
        assert!(!wants_mirror(&bare, &skipped));
    }
}
