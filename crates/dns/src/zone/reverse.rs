//! Names of addresses: in-addr.arpa and ip6.arpa.

use std::net::IpAddr;

use skiff_services::{model::ServiceKey, snapshot::Entry};

use super::{
    Answer, Zone,
    service::{endpoint_name, ready},
};
use crate::wire::{Data, Name};

const IN_ADDR_ARPA: [&[u8]; 2] = [b"in-addr", b"arpa"];
const IP6_ARPA: [&[u8]; 2] = [b"ip6", b"arpa"];

impl Zone {
    /// PTR of ClusterIPs, and of endpoints of every Service (as the reference server does). A ClusterIP wins.
    pub(super) fn reverse(&self, name: &Name, ip: IpAddr, rtype: u16) -> Answer {
        let Some(owners) = self.owners.at(ip) else { return Answer::Elsewhere };
        let entries = || owners.iter().filter_map(|k| Some((self.snapshot.get(k)?, k)));
        let by_ip = |e: &Entry| e.service.as_ref().is_some_and(|s| s.cluster_ips.contains(&ip));
        let mut names: Vec<Name> = entries().filter(|(e, _)| by_ip(e)).map(|(_, k)| self.service_name(k)).collect();
        if names.is_empty() {
            let hosts = |(e, k): (&'_ Entry, &ServiceKey)| -> Vec<Name> {
                let mine = ready(e).map(|(_, e)| e).filter(|e| e.ip == ip);
                mine.filter_map(|e| self.service_name(k).child(endpoint_name(e).as_bytes())).collect()
            };
            names = entries().flat_map(hosts).collect();
        }
        names.sort();
        names.dedup();
        let zone = if ip.is_ipv6() { IP6_ARPA } else { IN_ADDR_ARPA };
        let zone = Name::from_labels(zone).unwrap_or_else(Name::root);
        self.found_in(&zone, name, names.into_iter().map(Data::Ptr).collect(), rtype)
    }
}

/// The address that a name of in-addr.arpa or ip6.arpa stands for.
pub fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels = name.labels();
    let (host, zone) = labels.split_at(labels.len().checked_sub(2)?);
    let text = |label: &&[u8]| std::str::from_utf8(label).ok().map(str::to_owned);
    let parts: Vec<String> = host.iter().rev().map(text).collect::<Option<_>>()?;
    match parts.len() {
        4 if zone == IN_ADDR_ARPA => parts.join(".").parse().map(IpAddr::V4).ok(),
        32 if zone == IP6_ARPA && parts.iter().all(|p| p.len() == 1) => {
            let groups: Vec<String> = parts.chunks(4).map(|c| c.concat()).collect();
            groups.join(":").parse().map(IpAddr::V6).ok()
        }
        _ => None,
    }
}
