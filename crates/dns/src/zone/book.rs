//! The addresses of each Service as finished records, to be copied behind a question. What most questions ask is answered
//! from here; it says nothing that the snapshot does not say.

use std::{collections::HashMap, net::IpAddr};

use skiff_services::{model::ServiceKey, model::ServiceType, snapshot::Entry};

use super::service::addresses;
use crate::wire::{CLASS_IN, HEADER, rtype};

/// A Service's place in the zone, for who asks for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Records of the question's own name.
    Addresses { a: Box<[u8]>, aaaa: Box<[u8]> },
    /// A headless Service without endpoints: there is no such name, nor any below it.
    Nobody,
    /// Another name.
    Alias,
}

/// By the Service's and the namespace's labels, as they stand in a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Book(HashMap<Box<[u8]>, Page>);

/// The lengths of an address record with a compressed name.
pub(crate) const A_LENGTH: usize = 16;
pub(crate) const AAAA_LENGTH: usize = 28;

impl Book {
    pub(crate) fn get(&self, labels: &[u8]) -> Option<&Page> {
        self.0.get(labels)
    }

    pub(super) fn set(&mut self, key: &ServiceKey, entry: Option<&Entry>, ttl: u32) {
        let Some(labels) = labels(key) else { return };
        match entry.and_then(|e| page(e, ttl)) {
            Some(page) => self.0.insert(labels, page),
            None => self.0.remove(&labels),
        };
    }
}

/// None for what is not a name in DNS.
fn labels(key: &ServiceKey) -> Option<Box<[u8]>> {
    let mut labels = vec![];
    for label in [&key.name, &key.namespace] {
        labels.push(u8::try_from(label.len()).ok().filter(|l| (1..=63).contains(l))?);
        labels.extend(label.as_bytes());
    }
    Some(labels.into())
}

fn page(entry: &Entry, ttl: u32) -> Option<Page> {
    let service = entry.service.as_deref()?;
    let ips = match service.kind {
        ServiceType::ExternalName => return Some(Page::Alias),
        _ if service.headless => addresses(entry),
        _ => service.cluster_ips.clone(),
    };
    if service.headless && ips.is_empty() {
        return Some(Page::Nobody);
    }
    let records = |ipv6| -> Box<[u8]> {
        let mut out = vec![];
        ips.iter().filter(|ip| ip.is_ipv6() == ipv6).for_each(|ip| record(&mut out, *ip, ttl));
        out.into()
    };
    Some(Page::Addresses { a: records(false), aaaa: records(true) })
}

fn record(out: &mut Vec<u8>, ip: IpAddr, ttl: u32) {
    out.extend([0xc0, HEADER as u8]);
    let (rtype, length) = if ip.is_ipv6() { (rtype::AAAA, 16u16) } else { (rtype::A, 4) };
    out.extend(rtype.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend(length.to_be_bytes());
    match ip {
        IpAddr::V4(ip) => out.extend(ip.octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
}
