//! Why a question is answered as it is, in words that name the object and the reason. Pure.

use std::str::from_utf8;

use skiff_services::{
    model::{ServiceKey, ServiceType},
    snapshot::Entry,
};

use crate::{
    wire::{Name, rtype},
    zone::{Zone, reverse_address},
};

/// One sentence about a name, for who wonders about its answer.
pub fn explain(zone: &Zone, name: &Name, rtype: u16) -> String {
    let Some(labels) = name.labels_below(zone.domain()) else { return outside(zone, name) };
    let texts: Vec<&str> = labels.iter().map(|l| from_utf8(l).unwrap_or("?")).collect();
    match texts[..] {
        [] => "the cluster's zone itself".into(),
        ["dns-version"] => "the version of the DNS specification that the zone follows".into(),
        ["svc" | "pod" | "dns"] => "exists only because there are names below it".into(),
        [.., ns, "svc" | "pod"] if !zone.has_namespace(ns.as_bytes()) => format!("there is no namespace {ns:?}"),
        [ns, "svc" | "pod"] => format!("namespace {ns:?} has names below it, and no records of its own"),
        [host, ns, "pod"] => format!("the address that stands in {host:?}, if pods have names here (namespace {ns:?})"),
        [ref rest @ .., service, ns, "svc"] => about_service(zone, rest, &ServiceKey::new(ns, service), rtype),
        _ => "below the cluster's domain there are only svc, pod, dns and dns-version".into(),
    }
}

fn outside(zone: &Zone, name: &Name) -> String {
    match reverse_address(name) {
        Some(ip) if zone.knows(ip) => format!("{ip} is the address of a Service or of an endpoint"),
        Some(ip) => format!("{ip} belongs to nothing in the cluster, so the resolvers outside are asked"),
        None => format!("not below {}, so the resolvers outside are asked", zone.domain()),
    }
}

fn about_service(zone: &Zone, rest: &[&str], key: &ServiceKey, rtype: u16) -> String {
    let entry = zone.entry(key);
    let Some((entry, service)) = entry.and_then(|e| Some((e, e.service.as_deref()?))) else {
        return format!("there is no Service {:?} in namespace {:?}", &*key.name, &*key.namespace);
    };
    let (ready, all) = endpoints(entry);
    match rest {
        [] if service.kind == ServiceType::ExternalName => {
            format!("Service {key} is an alias of {:?}", service.external_name.as_deref().unwrap_or_default())
        }
        _ if service.kind == ServiceType::ExternalName => {
            format!("Service {key} is an alias: nothing is below its name")
        }
        [] if service.headless && ready == 0 => {
            format!(
                "Service {key} is headless and none of its {all} endpoints is ready: without one its name does not exist"
            )
        }
        [] if service.headless => format!("Service {key} is headless: the addresses of its {ready} ready endpoints"),
        [] => {
            let has = |ipv6| service.cluster_ips.iter().any(|ip| ip.is_ipv6() == ipv6);
            match rtype {
                rtype::AAAA if !has(true) => format!("Service {key} exists, but has no IPv6 address"),
                rtype::A if !has(false) => format!("Service {key} exists, but has no IPv4 address"),
                _ => format!("the ClusterIP of Service {key}, which has {ready} ready endpoints of {all}"),
            }
        }
        [host] => format!("the ready endpoint {host:?} of Service {key}, if there is one ({ready} are ready)"),
        [port, protocol] => {
            let names: Vec<String> = service
                .ports
                .iter()
                .filter(|p| !p.name.is_empty())
                .map(|p| format!("_{}._{}", p.name, p.protocol.to_string().to_lowercase()))
                .collect();
            format!("port {port}.{protocol} of Service {key}; its named ports: {}", list(&names))
        }
        _ => format!("no name has so many labels in front of Service {key}"),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// How many are ready, and how many there are.
fn endpoints(entry: &Entry) -> (usize, usize) {
    let all = || entry.slices.values().flat_map(|s| &s.endpoints);
    (all().filter(|e| e.ready).count(), all().count())
}
