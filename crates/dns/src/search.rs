//! Search paths. A pod that asks for `example.org` first asks for `example.org.NAMESPACE.svc.DOMAIN`, and goes through its
//! whole search path before it asks for the name itself: five round trips, twice. Where the server knows the pod's search
//! path and that it is not the pod's own invention, it can take the rest of the walk in the pod's place and answer the
//! first question with an alias. Pure.
//!
//! The specification wants "no such name" for a name that does not exist, so this is an option. It is taken only for
//! addresses, for a pod that is known by its address and has the plain search path of its policy, for a name below that
//! pod's own namespace, and of at least two labels (a single label is meant for the cluster).

use std::net::IpAddr;

use crate::{
    wire::{Name, rtype},
    zone::Zone,
};

/// The rest of a walk, from its first step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What the pod's program asked for.
    meant: Name,
    /// The cluster's part of the search path, as far as it is not done.
    suffixes: [Name; 2],
    pub ttl: u32,
}

/// The walk that a question is the first step of.
pub fn walk(zone: &Zone, name: &Name, rtype: u16, from: IpAddr) -> Option<Walk> {
    let pod = zone.pods().asking(from).filter(|p| p.plain_search)?;
    let svc = zone.domain().child(b"svc")?;
    let labels = name.labels_below(&svc.child(pod.key.0.as_bytes())?)?;
    let is_plain = labels.len() >= 2 && labels.iter().all(|l| !l.starts_with(b"_"));
    if !is_plain || !matches!(rtype, rtype::A | rtype::AAAA) {
        return None;
    }
    let meant = Name::from_labels(labels)?;
    Some(Walk { meant, suffixes: [svc, zone.domain().clone()], ttl: zone.ttl() })
}

impl Walk {
    /// What the pod would ask next, in its order; `host` are the search domains that pods have from their node.
    pub fn candidates(&self, host: &[Name]) -> Vec<Name> {
        let below = |parent: &Name| Name::from_labels(self.meant.labels().into_iter().chain(parent.labels()));
        let mut names: Vec<Name> = self.suffixes.iter().chain(host).filter_map(below).collect();
        names.push(self.meant.clone());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Pod;

    fn pod(name: &str, ip: &str) -> Pod {
        let (key, ips) = (("shop".into(), name.into()), vec![ip.parse().unwrap()]);
        Pod { key, ips, host_network: false, plain_search: true }
    }

    #[test]
    fn whose_walks_are_known() {
        let mut zone = Zone::new(Name::parse("cluster.local").unwrap(), vec![]);
        zone.pods_mut().apply(pod("plain", "10.244.0.1"));
        zone.pods_mut().apply(Pod { plain_search: false, ..pod("own", "10.244.0.2") });
        zone.pods_mut().apply(Pod { host_network: true, ..pod("host", "172.30.0.11") });
        let at = |name: &str, rtype, from: &str| {
            let walk = walk(&zone, &Name::parse(name).unwrap(), rtype, from.parse().unwrap())?;
            let names = walk.candidates(&[Name::parse("corp.example").unwrap()]);
            Some(names.iter().map(Name::to_string).collect::<Vec<_>>().join(" "))
        };
        let first = "example.org.shop.svc.cluster.local";
        let rest = "example.org.svc.cluster.local. example.org.cluster.local. example.org.corp.example. example.org.";
        assert_eq!(at(first, rtype::A, "10.244.0.1").as_deref(), Some(rest));
        assert_eq!(at(first, rtype::AAAA, "10.244.0.1").as_deref(), Some(rest));
        for (name, rtype, from) in [
            (first, rtype::SRV, "10.244.0.1"),
            (first, rtype::A, "10.244.0.2"),
            (first, rtype::A, "172.30.0.11"),
            (first, rtype::A, "10.244.0.99"),
            ("web.shop.svc.cluster.local", rtype::A, "10.244.0.1"),
            ("example.org.default.svc.cluster.local", rtype::A, "10.244.0.1"),
            ("example.org.svc.cluster.local", rtype::A, "10.244.0.1"),
            ("_http._tcp.shop.svc.cluster.local", rtype::A, "10.244.0.1"),
            ("example.org", rtype::A, "10.244.0.1"),
        ] {
            assert_eq!(at(name, rtype, from), None, "{name} {from}");
        }
    }
}
