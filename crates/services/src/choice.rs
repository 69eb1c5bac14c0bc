//! Which endpoints a Service port has for one node: by traffic policy, readiness, termination and topology hints.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    model::{Endpoint, Port},
    snapshot::Entry,
};

/// Where the question is asked from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Viewpoint {
    pub node: Arc<str>,
    pub zone: Option<Arc<str>>,
}

/// The endpoints of one Service port in one address family, in the order of their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Choice {
    /// For policy Cluster: ready ones, narrowed by topology; when none is ready, those that serve while they terminate.
    pub cluster: Vec<SocketAddr>,
    /// For policy Local: the same rule among the endpoints of this node, without topology.
    pub local: Vec<SocketAddr>,
    /// Endpoints on this node (or on no known node): a connection from such a one to itself needs masquerading.
    pub near: Vec<SocketAddr>,
    /// Every endpoint that still serves, whatever the policies: flows to others are stale.
    pub serving: Vec<SocketAddr>,
    /// Addresses of ready endpoints of this node, for the health check of load balancers.
    pub local_ready: Vec<IpAddr>,
}

impl Choice {
    /// True when a packet could be served by somebody somewhere: then policy Local drops instead of rejecting.
    pub fn anywhere(&self) -> bool {
        !self.cluster.is_empty() || !self.local.is_empty()
    }
}

pub fn choose(entry: &Entry, port: &Port, ipv6: bool, from: &Viewpoint) -> Choice {
    let all = candidates(entry, port, ipv6);
    let is_local = |e: &Endpoint| e.node.as_ref() == Some(&from.node);
    let local: BTreeMap<SocketAddr, &Endpoint> =
        all.iter().filter(|(_, e)| is_local(e)).map(|(a, e)| (*a, *e)).collect();
    let keys = |f: &dyn Fn(&Endpoint) -> bool| all.iter().filter(|(_, e)| f(e)).map(|(a, _)| *a).collect();
    Choice {
        cluster: usable(&all, |ready| by_topology(ready, from)),
        local: usable(&local, |ready| ready),
        near: keys(&|e| e.node.is_none() || is_local(e)),
        serving: keys(&|e| e.serving),
        local_ready: local.values().filter(|e| e.ready).map(|e| e.ip).collect(),
    }
}

type Found<'a> = BTreeMap<SocketAddr, &'a Endpoint>;

/// The endpoints of all slices under the port's name and protocol. Where one stands in several slices, the entry that
/// does not terminate counts.
fn candidates<'a>(entry: &'a Entry, port: &Port, ipv6: bool) -> Found<'a> {
    let mut found: Found = BTreeMap::new();
    for slice in entry.slices.values().filter(|s| s.ipv6 == ipv6) {
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for target in ports {
            for endpoint in &slice.endpoints {
                let slot = found.entry(SocketAddr::new(endpoint.ip, target.port)).or_insert(endpoint);
                if slot.terminating && !endpoint.terminating {
                    *slot = endpoint;
                }
            }
        }
    }
    found
}

fn usable<'a>(all: &Found<'a>, narrow: impl FnOnce(Found<'a>) -> Found<'a>) -> Vec<SocketAddr> {
    let only = |f: &dyn Fn(&Endpoint) -> bool| -> Found<'a> {
        all.iter().filter(|(_, e)| f(e)).map(|(a, e)| (*a, *e)).collect()
    };
    let ready = only(&|e| e.ready);
    if ready.is_empty() {
        return only(&|e| e.serving && e.terminating).into_keys().collect();
    }
    narrow(ready).into_keys().collect()
}

/// Hints count only when every ready endpoint carries them and at least one is meant for this node or zone: anything
/// less means that the hints are being written or that this node was forgotten.
fn by_topology<'a>(ready: Found<'a>, from: &Viewpoint) -> Found<'a> {
    let all_hint_nodes = ready.values().all(|e| !e.hint_nodes.is_empty());
    if all_hint_nodes && ready.values().any(|e| e.hint_nodes.contains(&from.node)) {
        return ready.into_iter().filter(|(_, e)| e.hint_nodes.contains(&from.node)).collect();
    }
    let Some(zone) = &from.zone else { return ready };
    let all_hint_zones = ready.values().all(|e| !e.hint_zones.is_empty());
    if all_hint_zones && ready.values().any(|e| e.hint_zones.contains(zone)) {
        return ready.into_iter().filter(|(_, e)| e.hint_zones.contains(zone)).collect();
    }
    ready
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::*;
    use crate::model::{Protocol, ServiceKey, Slice, SlicePort};

    fn port() -> Port {
        Port { name: "web".into(), protocol: Protocol::Tcp, port: 80, target: IntOrString::Int(8080), node_port: None }
    }

    /// "1 r a z=a n=b": last octet, state letters (r ready, s serving, t terminating), node, hints.
    fn endpoint(text: &str) -> Endpoint {
        let words: Vec<&str> = text.split(' ').collect();
        let hint = |p: &str| words.iter().filter_map(|w| w.strip_prefix(p)).map(Into::into).collect();
        Endpoint {
            ip: format!("10.244.0.{}", words[0]).parse().unwrap(),
            ready: words[1].contains('r'),
            serving: words[1].contains(['r', 's']),
            terminating: words[1].contains('t'),
            hostname: None,
            node: words.get(2).filter(|n| **n != "-").map(|n| (*n).into()),
            zone: None,
            hint_zones: hint("z="),
            hint_nodes: hint("n="),
            pod: None,
        }
    }

    fn entry(slices: &[&[&str]]) -> Entry {
        let mut entry = Entry::default();
        for (i, endpoints) in slices.iter().enumerate() {
            let slice = Slice {
                name: format!("s{i}").into(),
                service: ServiceKey::new("default", "s"),
                ipv6: false,
                ports: vec![SlicePort { name: "web".into(), protocol: Protocol::Tcp, port: 8080 }],
                endpoints: endpoints.iter().map(|t| endpoint(t)).collect(),
                trigger_time: None,
            };
            entry.slices.insert(slice.name.clone(), slice.into());
        }
        entry
    }

    fn octets(addresses: &[SocketAddr]) -> String {
        let last = |a: &SocketAddr| a.ip().to_string().rsplit('.').next().unwrap().to_owned();
        addresses.iter().map(last).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn table() {
        // (endpoints of one slice, for Cluster, for Local), asked from node a in zone a
        let rows: &[(&[&str], &str, &str)] = &[
            (&[], "", ""),
            (&["1 r a", "2 r b"], "1 2", "1"),
            (&["1 r b", "2 r b"], "1 2", ""),
            (&["1 - a", "2 r b"], "2", ""),
            (&["1 st a", "2 r b"], "2", "1"),
            (&["1 st a", "2 st b"], "1 2", "1"),
            (&["1 t a", "2 t b"], "", ""),
            (&["1 s a", "2 - b"], "", ""),
            (&["1 st a", "2 r a"], "2", "2"),
            (&["1 r a z=a", "2 r b z=b"], "1", "1"),
            (&["1 r b z=a", "2 r a z=b"], "1", "2"),
            (&["1 r a z=a", "2 r b"], "1 2", "1"),
            (&["1 r a z=c", "2 r b z=b"], "1 2", "1"),
            (&["1 r a z=a", "2 st b"], "1", "1"),
            (&["1 r a z=b n=a", "2 r b z=a n=b"], "1", "1"),
            (&["1 r b z=b n=b", "2 r b z=a n=c"], "2", ""),
            (&["1 st a z=b", "2 st b z=a"], "1 2", "1"),
        ];
        let from = Viewpoint { node: "a".into(), zone: Some("a".into()) };
        for (endpoints, cluster, local) in rows {
            let choice = choose(&entry(&[endpoints]), &port(), false, &from);
            assert_eq!(
                (octets(&choice.cluster), octets(&choice.local)),
                ((*cluster).into(), (*local).into()),
                "{endpoints:?}"
            );
        }
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once_and_lives() {
        let from = Viewpoint { node: "a".into(), zone: None };
        let choice = choose(&entry(&[&["1 st a"], &["1 r a", "2 r b"], &["2 st b"]]), &port(), false, &from);
        assert_eq!(octets(&choice.cluster), "1 2");
        assert_eq!((octets(&choice.local), choice.local_ready.len()), ("1".into(), 1));
    }

    #[test]
    fn other_port_names_protocols_and_families_do_not_count() {
        let from = Viewpoint::default();
        let all = entry(&[&["1 r a"]]);
        assert_eq!(choose(&all, &Port { name: "other".into(), ..port() }, false, &from), Choice::default());
        assert_eq!(choose(&all, &Port { protocol: Protocol::Udp, ..port() }, false, &from), Choice::default());
        assert_eq!(choose(&all, &port(), true, &from), Choice::default());
    }
}
