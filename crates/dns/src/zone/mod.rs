//! The cluster's zone: what the Services mean in DNS (Kubernetes DNS specification 1.1.0). Pure: questions against the
//! snapshot, with indexes beside it that change with it, so that a change is answered with the change.

mod book;
mod owners;
mod pods;
mod reverse;
mod service;

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use skiff_services::{
    model::ServiceKey,
    snapshot::{Entry, Snapshot},
};

pub(crate) use self::book::{A_LENGTH, AAAA_LENGTH, Page};
use self::{book::Book, owners::Owners, pods::dashed_address, service::ready};
pub use self::{
    pods::{Pod, PodKey, PodNames, Pods},
    reverse::reverse_address,
};
use crate::wire::{Data, Name, Rcode, Record, Response, rtype};

/// How long clients may keep an answer, in seconds.
pub const TTL: u32 = 5;
/// What more would mean in a cluster that changes all the time: nothing good.
pub const LONGEST_TTL: u32 = 3600;
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
    ttl: u32,
    pod_names: PodNames,
    snapshot: Snapshot,
    book: Book,
    pods: Pods,
    namespaces: HashSet<Arc<str>>,
    owners: Owners,
    /// Grows with each change.
    serial: u32,
}

impl Zone {
    pub fn new(domain: Name, nameservers: Vec<IpAddr>) -> Self {
        Zone {
            domain,
            nameservers,
            ttl: TTL,
            pod_names: PodNames::default(),
            snapshot: Snapshot::default(),
            book: Book::default(),
            pods: Pods::default(),
            namespaces: HashSet::new(),
            owners: Owners::default(),
            serial: 1,
        }
    }

    pub fn with_ttl(self, ttl: u32) -> Self {
        Zone { ttl: ttl.min(LONGEST_TTL), ..self }
    }

    pub fn with_pod_names(self, pod_names: PodNames) -> Self {
        Zone { pod_names, ..self }
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

    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How many Services (and slices that wait for one) there are.
    pub fn services(&self) -> usize {
        self.snapshot.len()
    }

    pub(crate) fn entry(&self, key: &ServiceKey) -> Option<&Entry> {
        self.snapshot.get(key)
    }

    pub(crate) fn knows(&self, ip: IpAddr) -> bool {
        self.owners.at(ip).is_some()
    }

    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// By the labels of a Service and its namespace.
    pub(crate) fn page(&self, labels: &[u8]) -> Option<&Page> {
        self.book.get(labels)
    }

    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    pub fn pods_mut(&mut self) -> &mut Pods {
        &mut self.pods
    }

    fn reindex(&mut self, key: &ServiceKey) {
        self.book.set(key, self.snapshot.get(key), self.ttl);
        let entry = self.snapshot.get(key);
        let ips = match entry.and_then(|e| Some((e, e.service.as_deref()?))) {
            Some((entry, service)) => {
                service.cluster_ips.iter().copied().chain(ready(entry).map(|(_, e)| e.ip)).collect()
            }
            None => vec![],
        };
        self.owners.set(key, ips);
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
            [b"ns", b"dns"] => self.found(name, self.nameservers().iter().copied().map(address).collect(), rtype),
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
            let glue = |ip: &IpAddr| Record { name: ns.clone(), ttl: self.ttl, data: address(*ip) };
            response.additional.extend(self.nameservers().iter().map(glue));
        }
        answer
    }

    /// Where this server is reached: where it listens, or by its Service when it listens everywhere.
    fn nameservers(&self) -> &[IpAddr] {
        let service = || self.snapshot.get(&ServiceKey::new("kube-system", "kube-dns"))?.service.as_deref();
        match service() {
            Some(service) if self.nameservers.is_empty() => &service.cluster_ips,
            _ => &self.nameservers,
        }
    }

    pub(crate) fn has_namespace(&self, ns: &[u8]) -> bool {
        std::str::from_utf8(ns).is_ok_and(|ns| self.namespaces.contains(ns))
    }

    fn pod(&self, name: &Name, host: &[u8], ns: &[u8], rtype: u16) -> Answer {
        let Some(ip) = dashed_address(host) else { return self.no_name() };
        let exists = match self.pod_names {
            PodNames::Disabled => false,
            PodNames::Insecure => self.has_namespace(ns),
            PodNames::Verified => self.pods.has(ip, ns),
        };
        if exists { self.found(name, vec![address(ip)], rtype) } else { self.no_name() }
    }

    fn service_name(&self, key: &ServiceKey) -> Name {
        self.below(&[key.name.as_bytes(), key.namespace.as_bytes(), b"svc"])
    }

    fn below(&self, labels: &[&[u8]]) -> Name {
        let all = labels.iter().copied().chain(self.domain.labels());
        // Service names and namespaces are DNS labels of at most 63 bytes; a domain too long for them has no names.
        Name::from_labels(all).unwrap_or_else(Name::root)
    }

    /// Serial, refresh, retry, expire, minimum.
    pub(crate) fn soa_numbers(&self) -> [u32; 5] {
        [self.serial, 7200, 1800, 86_400, self.ttl]
    }

    fn soa(&self) -> Data {
        let [serial, refresh, retry, expire, minimum] = self.soa_numbers();
        let (mname, rname) = (self.below(&[b"ns", b"dns"]), self.below(&[b"hostmaster"]));
        Data::Soa { mname, rname, serial, refresh, retry, expire, minimum }
    }

    /// A name of the domain that exists, with these records of any type.
    fn found(&self, name: &Name, data: Vec<Data>, rtype: u16) -> Answer {
        self.found_in(&self.domain, name, data, rtype)
    }

    /// The same, of any zone.
    fn found_in(&self, zone: &Name, name: &Name, data: Vec<Data>, rtype: u16) -> Answer {
        let matching = data.into_iter().filter(|d| rtype == rtype::ANY || d.rtype() == rtype);
        let answers: Vec<Record> = matching.map(|data| Record { name: name.clone(), ttl: self.ttl, data }).collect();
        if answers.is_empty() {
            return self.negative(zone, Rcode::NoError);
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
        self.negative(&self.domain, Rcode::NoError)
    }

    fn no_name(&self) -> Answer {
        self.negative(&self.domain, Rcode::NxDomain)
    }

    /// With the SOA, whose minimum says how long the "no" may be kept. Its owner is the zone that the name is in, or caches
    /// would not believe it (RFC 2308, 3).
    fn negative(&self, zone: &Name, rcode: Rcode) -> Answer {
        let soa = Record { name: zone.clone(), ttl: self.ttl, data: self.soa() };
        Answer::Here(Response { authoritative: true, authority: vec![soa], ..Response::empty(rcode) })
    }
}

fn address(ip: IpAddr) -> Data {
    match ip {
        IpAddr::V4(ip) => Data::A(ip),
        IpAddr::V6(ip) => Data::Aaaa(ip),
    }
}

#[cfg(test)]
mod tests;
