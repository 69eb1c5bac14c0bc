//! Names of Services, of their endpoints and of their ports.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use skiff_services::{
    model::{Endpoint, Protocol, Service, ServiceKey, ServiceType, Slice},
    snapshot::Entry,
};

use super::{Answer, Zone, address};
use crate::wire::{Data, Name, Record, rtype};

impl Zone {
    pub(super) fn service(&self, name: &Name, rest: &[&[u8]], service: &[u8], ns: &[u8], rtype: u16) -> Answer {
        let (Ok(ns), Ok(service)) = (std::str::from_utf8(ns), std::str::from_utf8(service)) else {
            return self.no_name();
        };
        let entry = self.snapshot.get(&ServiceKey::new(ns, service));
        let Some((entry, service)) = entry.and_then(|e| Some((e, e.service.as_deref()?))) else {
            return self.no_name();
        };
        let nobody = service.headless && ready(entry).next().is_none();
        match (service.kind, rest) {
            (ServiceType::ExternalName, []) => self.alias(name, service),
            (ServiceType::ExternalName, _) => self.no_name(),
            // A headless Service's name, and all below it, exists only as long as it has endpoints.
            _ if nobody => self.no_name(),
            (_, []) => self.whole(name, entry, service, rtype),
            (_, [host]) => self.endpoint(name, entry, service, host, rtype),
            (_, [port, protocol]) => self.port(name, entry, service, [port, protocol], rtype),
            _ => self.no_name(),
        }
    }

    /// SRV without a port means all ports, named or not (as the reference server has it).
    fn whole(&self, name: &Name, entry: &Entry, service: &Service, rtype: u16) -> Answer {
        let ips = if service.headless { addresses(entry) } else { service.cluster_ips.clone() };
        if rtype == rtype::SRV {
            return self.srv(name, &targets(entry, &self.service_name(&service.key), |_, _| true), rtype);
        }
        self.found(name, ips.into_iter().map(address).collect(), rtype)
    }

    fn alias(&self, name: &Name, service: &Service) -> Answer {
        // An address is no name that anybody could resolve.
        let is_name = |n: &&str| !n.is_empty() && n.parse::<IpAddr>().is_err();
        let target = service.external_name.as_deref().filter(is_name).and_then(Name::parse);
        let Some(target) = target else { return self.no_name() };
        let cname = Record { name: name.clone(), ttl: self.ttl, data: Data::Cname(target.clone()) };
        Answer::Alias { cname, target }
    }

    /// `HOST.SERVICE`: one endpoint by its hostname, or by its address with dashes.
    fn endpoint(&self, name: &Name, entry: &Entry, service: &Service, host: &[u8], rtype: u16) -> Answer {
        // `_tcp.SERVICE` holds SRV names below it, so it exists without data.
        if matches!(host, b"_tcp" | b"_udp" | b"_sctp") {
            let protocol = std::str::from_utf8(&host[1..]).unwrap_or_default();
            let below = service.ports.iter().any(|p| !p.name.is_empty() && is_protocol(p.protocol, protocol));
            return self.existing(below);
        }
        let of_host = ready(entry).map(|(_, e)| e).filter(|e| endpoint_name(e).as_bytes() == host);
        self.found_some(name, unique(of_host.map(|e| e.ip)), rtype)
    }

    /// `_PORT._PROTOCOL.SERVICE` (RFC 2782). Asked for addresses, it has those of its targets.
    fn port(&self, name: &Name, entry: &Entry, service: &Service, labels: [&[u8]; 2], rtype: u16) -> Answer {
        let text = |label| std::str::from_utf8(label).ok().and_then(|l: &str| l.strip_prefix('_'));
        let [Some(port), Some(protocol)] = labels.map(text) else { return self.no_name() };
        let base = self.service_name(&service.key);
        let targets = targets(entry, &base, |name, of| {
            !name.is_empty() && name.eq_ignore_ascii_case(port) && is_protocol(of, protocol)
        });
        match rtype {
            _ if targets.is_empty() => self.no_name(),
            rtype::SRV | rtype::ANY => self.srv(name, &targets, rtype),
            _ => self.found_some(name, unique(targets.iter().map(|t| t.ip)), rtype),
        }
    }

    fn srv(&self, name: &Name, targets: &[Target], rtype: u16) -> Answer {
        let mut records: Vec<(&Name, u16)> = vec![];
        let mut seen = HashSet::new();
        records.extend(targets.iter().map(|t| (&t.host, t.port)).filter(|r| seen.insert(*r)));
        let weight = (100 / records.len().max(1)).max(1) as u16;
        let srv = |(host, port): (&Name, u16)| Data::Srv { priority: 0, weight, port, target: host.clone() };
        let mut answer = self.found(name, records.into_iter().map(srv).collect(), rtype);
        if let Answer::Here(response) = &mut answer {
            let glue: BTreeSet<(&Name, IpAddr)> = targets.iter().map(|t| (&t.host, t.ip)).collect();
            let record = |(host, ip): (&Name, IpAddr)| Record { name: host.clone(), ttl: self.ttl, data: address(ip) };
            response.additional = glue.into_iter().map(record).collect();
        }
        answer
    }
}

struct Target {
    host: Name,
    port: u16,
    ip: IpAddr,
}

fn is_protocol(protocol: Protocol, text: &str) -> bool {
    protocol.to_string().eq_ignore_ascii_case(text)
}

/// What SRV records lead to: the Service itself at each of its ports, or each endpoint of a headless one.
fn targets(entry: &Entry, base: &Name, wanted: impl Fn(&str, Protocol) -> bool) -> Vec<Target> {
    let Some(service) = entry.service.as_deref() else { return vec![] };
    if !service.headless {
        let ports = service.ports.iter().filter(|p| wanted(&p.name, p.protocol));
        let at = |port| service.cluster_ips.iter().map(move |ip| Target { host: base.clone(), port, ip: *ip });
        return ports.flat_map(|p| at(p.port)).collect();
    }
    let mut targets = vec![];
    for (slice, endpoint) in ready(entry) {
        let Some(host) = base.child(endpoint_name(endpoint).as_bytes()) else { continue };
        let ports = slice.ports.iter().filter(|p| wanted(&p.name, p.protocol));
        targets.extend(ports.map(|p| Target { host: host.clone(), port: p.port, ip: endpoint.ip }));
    }
    targets
}

/// The endpoints that have names: ready ones (a slice says ready for unready ones where the Service publishes them).
pub(super) fn ready(entry: &Entry) -> impl Iterator<Item = (&Slice, &Endpoint)> {
    entry.slices.values().flat_map(|s| s.endpoints.iter().filter(|e| e.ready).map(|e| (&**s, e)))
}

pub(super) fn addresses(entry: &Entry) -> Vec<IpAddr> {
    unique(ready(entry).map(|(_, e)| e.ip))
}

/// Each once, in the order of the slices.
fn unique(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    ips.filter(|ip| seen.insert(*ip)).collect()
}

/// The hostname, or the address with dashes; a final dash gets a zero, since a label may not end with one.
pub(super) fn endpoint_name(endpoint: &Endpoint) -> String {
    if let Some(hostname) = &endpoint.hostname {
        return hostname.to_ascii_lowercase();
    }
    let mut name = endpoint.ip.to_string().replace(['.', ':'], "-");
    if name.ends_with('-') {
        name.push('0');
    }
    name
}
