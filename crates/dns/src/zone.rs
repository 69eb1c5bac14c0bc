//! The cluster's zone: what the Services mean in DNS (Kubernetes DNS specification 1.1.0). Pure: questions against the
//! snapshot, with one index beside it for addresses. Nothing is kept per name, so a change is answered with the change.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use skiff_services::{
    model::{Endpoint, Protocol, Service, ServiceKey, ServiceType, Slice},
    snapshot::{Entry, Snapshot},
};

use crate::wire::{Data, Name, Rcode, Record, Response, rtype};

/// How long clients may keep an answer, in seconds.
pub const TTL: u32 = 5;
pub const SPECIFICATION: &str = "1.1.0";

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Here(Response),
    /// A Service that is an alias: the CNAME, then whatever the target's addresses are.
    Alias {
        cname: Record,
        target: Name,
    },
    /// Not a name of this zone.
    Elsewhere,
}

pub struct Zone {
    domain: Name,
    /// The addresses of `ns.dns`: where this server answers.
    nameservers: Vec<IpAddr>,
    snapshot: Snapshot,
    namespaces: HashSet<Arc<str>>,
    /// Who has an address: Services by ClusterIP and by endpoint. Sets, so that order never depends on history.
    owners: HashMap<IpAddr, BTreeSet<ServiceKey>>,
    /// Which addresses each Service has in `owners`.
    owned: HashMap<ServiceKey, BTreeSet<IpAddr>>,
    /// Grows with each change.
    serial: u32,
}

impl Zone {
    pub fn new(domain: Name, nameservers: Vec<IpAddr>) -> Self {
        Zone {
            domain,
            nameservers,
            snapshot: Snapshot::default(),
            namespaces: HashSet::new(),
            owners: HashMap::new(),
            owned: HashMap::new(),
            serial: 1,
        }
    }

    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// Changes the snapshot; the closure gives back the Services it touched.
    pub fn update<I: IntoIterator<Item = ServiceKey>>(&mut self, change: impl FnOnce(&mut Snapshot) -> I) {
        for key in change(&mut self.snapshot) {
            self.serial = self.serial.wrapping_add(1);
            self.reindex(&key);
        }
    }

    pub fn set_namespaces(&mut self, names: HashSet<Arc<str>>) {
        self.namespaces = names;
    }

    pub fn add_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.into());
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    fn reindex(&mut self, key: &ServiceKey) {
        for ip in self.owned.remove(key).unwrap_or_default() {
            if let Some(owners) = self.owners.get_mut(&ip) {
                owners.remove(key);
                if owners.is_empty() {
                    self.owners.remove(&ip);
                }
            }
        }
        let Some(entry) = self.snapshot.get(key) else { return };
        let Some(service) = &entry.service else { return };
        let ips: BTreeSet<IpAddr> =
            service.cluster_ips.iter().copied().chain(ready(entry).map(|(_, e)| e.ip)).collect();
        for ip in &ips {
            self.owners.entry(*ip).or_default().insert(key.clone());
        }
        self.owned.insert(key.clone(), ips);
    }

    pub fn answer(&self, name: &Name, rtype: u16) -> Answer {
        if let Some(labels) = name.labels_below(&self.domain) {
            return self.inside(name, &labels, rtype);
        }
        match reverse_address(name) {
            Some(ip) => self.reverse(name, ip, rtype),
            None => Answer::Elsewhere,
        }
    }

    fn inside(&self, name: &Name, labels: &[&[u8]], rtype: u16) -> Answer {
        match labels {
            [] => self.apex(name, rtype),
            [b"dns-version"] => self.found(name, vec![Data::Txt(SPECIFICATION.into())], rtype),
            [b"ns", b"dns"] => self.found(name, self.nameservers.iter().copied().map(address).collect(), rtype),
            [b"svc" | b"pod" | b"dns"] => self.no_data(),
            [ns, b"svc" | b"pod"] => self.existing(self.has_namespace(ns)),
            [host, ns, b"pod"] => self.pod(name, host, ns, rtype),
            [rest @ .., service, ns, b"svc"] => self.service(name, rest, service, ns, rtype),
            _ => self.no_name(),
        }
    }

    fn apex(&self, name: &Name, rtype: u16) -> Answer {
        let ns = self.below(&[b"ns", b"dns"]);
        let mut answer = self.found(name, vec![Data::Ns(ns.clone()), self.soa()], rtype);
        if let (Answer::Here(response), rtype::NS | rtype::ANY) = (&mut answer, rtype) {
            let glue = self.nameservers.iter().map(|ip| Record { name: ns.clone(), ttl: TTL, data: address(*ip) });
            response.additional.extend(glue);
        }
        answer
    }

    fn has_namespace(&self, ns: &[u8]) -> bool {
        std::str::from_utf8(ns).is_ok_and(|ns| self.namespaces.contains(ns))
    }

    /// `a-b-c-d.NAMESPACE.pod`: the address is in the name (mode "insecure", as the usual manifests have it).
    fn pod(&self, name: &Name, host: &[u8], ns: &[u8], rtype: u16) -> Answer {
        match dashed_address(host) {
            Some(ip) if self.has_namespace(ns) => self.found(name, vec![address(ip)], rtype),
            _ => self.no_name(),
        }
    }

    fn service(&self, name: &Name, rest: &[&[u8]], service: &[u8], ns: &[u8], rtype: u16) -> Answer {
        let (Ok(ns), Ok(service)) = (std::str::from_utf8(ns), std::str::from_utf8(service)) else {
            return self.no_name();
        };
        let entry = self.snapshot.get(&ServiceKey::new(ns, service));
        let Some((entry, service)) = entry.and_then(|e| Some((e, e.service.as_deref()?))) else {
            return self.no_name();
        };
        match (service.kind, rest) {
            (ServiceType::ExternalName, []) => self.alias(name, service),
            (ServiceType::ExternalName, _) => self.no_name(),
            (_, []) => self.whole(name, entry, service, rtype),
            (_, [host]) => self.endpoint(name, entry, service, host, rtype),
            (_, [port, protocol]) => self.port(name, entry, service, [port, protocol], rtype),
            _ => self.no_name(),
        }
    }

    /// A headless Service's name exists only as long as it has endpoints. SRV without a port means all ports, named or
    /// not (as the reference server has it).
    fn whole(&self, name: &Name, entry: &Entry, service: &Service, rtype: u16) -> Answer {
        let ips = if service.headless { addresses(entry) } else { service.cluster_ips.clone() };
        if service.headless && ips.is_empty() {
            return self.no_name();
        }
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
        let cname = Record { name: name.clone(), ttl: TTL, data: Data::Cname(target.clone()) };
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
            let record = |(host, ip): (&Name, IpAddr)| Record { name: host.clone(), ttl: TTL, data: address(ip) };
            response.additional = glue.into_iter().map(record).collect();
        }
        answer
    }

    /// PTR of ClusterIPs, and of endpoints of every Service (as the reference server does). A ClusterIP wins.
    fn reverse(&self, name: &Name, ip: IpAddr, rtype: u16) -> Answer {
        let Some(owners) = self.owners.get(&ip) else { return Answer::Elsewhere };
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
        self.found(name, names.into_iter().map(Data::Ptr).collect(), rtype)
    }

    fn service_name(&self, key: &ServiceKey) -> Name {
        self.below(&[key.name.as_bytes(), key.namespace.as_bytes(), b"svc"])
    }

    fn below(&self, labels: &[&[u8]]) -> Name {
        let all = labels.iter().copied().chain(self.domain.labels());
        // Service names and namespaces are DNS labels of at most 63 bytes; a domain too long for them has no names.
        Name::from_labels(all).unwrap_or_else(Name::root)
    }

    fn soa(&self) -> Data {
        Data::Soa {
            mname: self.below(&[b"ns", b"dns"]),
            rname: self.below(&[b"hostmaster"]),
            serial: self.serial,
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: TTL,
        }
    }

    /// A name that exists, with these records of any type.
    fn found(&self, name: &Name, data: Vec<Data>, rtype: u16) -> Answer {
        let matching = data.into_iter().filter(|d| rtype == rtype::ANY || d.rtype() == rtype);
        let answers: Vec<Record> = matching.map(|data| Record { name: name.clone(), ttl: TTL, data }).collect();
        if answers.is_empty() {
            return self.no_data();
        }
        Answer::Here(Response { authoritative: true, answers, ..Response::empty(Rcode::NoError) })
    }

    /// A name that exists only as long as it has addresses.
    fn found_some(&self, name: &Name, ips: Vec<IpAddr>, rtype: u16) -> Answer {
        if ips.is_empty() {
            return self.no_name();
        }
        self.found(name, ips.into_iter().map(address).collect(), rtype)
    }

    fn existing(&self, exists: bool) -> Answer {
        if exists { self.no_data() } else { self.no_name() }
    }

    fn no_data(&self) -> Answer {
        self.negative(Rcode::NoError)
    }

    fn no_name(&self) -> Answer {
        self.negative(Rcode::NxDomain)
    }

    /// With the SOA, whose minimum says how long the "no" may be kept (RFC 2308).
    fn negative(&self, rcode: Rcode) -> Answer {
        let soa = Record { name: self.domain.clone(), ttl: TTL, data: self.soa() };
        Answer::Here(Response { authoritative: true, authority: vec![soa], ..Response::empty(rcode) })
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
fn ready(entry: &Entry) -> impl Iterator<Item = (&Slice, &Endpoint)> {
    entry.slices.values().flat_map(|s| s.endpoints.iter().filter(|e| e.ready).map(|e| (&**s, e)))
}

fn addresses(entry: &Entry) -> Vec<IpAddr> {
    unique(ready(entry).map(|(_, e)| e.ip))
}

/// Each once, in the order of the slices.
fn unique(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    ips.filter(|ip| seen.insert(*ip)).collect()
}

fn address(ip: IpAddr) -> Data {
    match ip {
        IpAddr::V4(ip) => Data::A(ip),
        IpAddr::V6(ip) => Data::Aaaa(ip),
    }
}

/// The hostname, or the address with dashes; a final dash gets a zero, since a label may not end with one.
fn endpoint_name(endpoint: &Endpoint) -> String {
    if let Some(hostname) = &endpoint.hostname {
        return hostname.to_ascii_lowercase();
    }
    let mut name = endpoint.ip.to_string().replace(['.', ':'], "-");
    if name.ends_with('-') {
        name.push('0');
    }
    name
}

/// `10-244-0-7` or an IPv6 address with dashes for colons.
fn dashed_address(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    text.replace('-', ".").parse().map(IpAddr::V4).or_else(|_| text.replace('-', ":").parse().map(IpAddr::V6)).ok()
}

/// The address that a name of in-addr.arpa or ip6.arpa stands for.
pub fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels = name.labels();
    let (host, zone) = labels.split_at(labels.len().checked_sub(2)?);
    let text = |label: &&[u8]| std::str::from_utf8(label).ok().map(str::to_owned);
    let parts: Vec<String> = host.iter().rev().map(text).collect::<Option<_>>()?;
    match zone {
        [b"in-addr", b"arpa"] if parts.len() == 4 => parts.join(".").parse().map(IpAddr::V4).ok(),
        [b"ip6", b"arpa"] if parts.len() == 32 && parts.iter().all(|p| p.len() == 1) => {
            let groups: Vec<String> = parts.chunks(4).map(|c| c.concat()).collect();
            groups.join(":").parse().map(IpAddr::V6).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
