//! Which addresses a Service gets. The objects are all that is known: what stands in a Service's status is given out.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::pool::Pool;
use crate::object::{is_deleted, uid};

pub(crate) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Services without a class are ours, and those that ask for us by name.
pub(crate) const CLASS: &str = "skiff/pool";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It has what it should have, or is none of ours.
    Nothing,
    /// These addresses, and the finalizer that lets us take them back.
    Give(Vec<IpAddr>),
    /// The Service is going, or is no load balancer any more: addresses and finalizer come off.
    Take,
    /// It cannot be served; what it has of addresses comes off. The reason is for its owner to read.
    Refuse(String),
}

/// `all` are the Services of the cluster, this one among them or not.
pub(crate) fn plan(service: &Service, all: &[Arc<Service>], pool: &Pool) -> Plan {
    if !is_ours(service) || is_deleted(&service.metadata) {
        let mine = has_finalizer(&service.metadata);
        return if mine { Plan::Take } else { Plan::Nothing };
    }
    let taken = taken(service, all);
    match wanted(service, pool, &taken) {
        Err(why) => Plan::Refuse(why),
        Ok(ips) if has_finalizer(&service.metadata) && is_written(service, &ips) => Plan::Nothing,
        Ok(ips) => Plan::Give(ips),
    }
}

pub(crate) fn is_ours(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.as_deref().is_none_or(|c| c == CLASS)
    })
}

/// A load balancer of ours that waits for an address.
pub(crate) fn is_pending(service: &Service) -> bool {
    is_ours(service) && !is_deleted(&service.metadata) && addresses(service).is_empty()
}

pub(crate) fn has_finalizer(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default()
}

/// What stands in the status.
pub(crate) fn addresses(service: &Service) -> Vec<IpAddr> {
    ingress(service).iter().filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

/// What goes into the status.
pub(crate) fn status(ips: &[IpAddr]) -> Vec<LoadBalancerIngress> {
    let entry = |ip: &IpAddr| LoadBalancerIngress {
        ip: Some(ip.to_string()),
        ip_mode: Some("VIP".into()),
        ..Default::default()
    };
    ips.iter().map(entry).collect()
}

fn is_written(service: &Service, ips: &[IpAddr]) -> bool {
    ingress(service) == status(ips)
}

/// Addresses of others. Should two Services have one (somebody wrote a status by hand), it is the older one's.
fn taken(service: &Service, all: &[Arc<Service>]) -> BTreeSet<IpAddr> {
    let age = |s: &Service| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), uid(&s.metadata).to_owned());
    let others = all.iter().filter(|s| uid(&s.metadata) != uid(&service.metadata) && is_holder(s));
    let mine = addresses(service);
    others
        .flat_map(|other| {
            let older = age(other) < age(service);
            addresses(other).into_iter().filter(|ip| older || !mine.contains(ip)).collect::<Vec<_>>()
        })
        .collect()
}

/// A Service of another class keeps its addresses too, should they be of the pool.
fn is_holder(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"))
}

/// One address for each family. What the Service has and may have, it keeps.
fn wanted(service: &Service, pool: &Pool, taken: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, String> {
    let families = families(service, pool)?;
    let wish = wish(service)?;
    if let Some(ip) = wish {
        if !families.contains(&ip.is_ipv6()) {
            return Err(format!("spec.loadBalancerIP {ip} is not of the Service's IP families"));
        }
        if !pool.contains(ip) {
            return Err(format!("spec.loadBalancerIP {ip} is not in the pool {pool}"));
        }
        if taken.contains(&ip) {
            return Err(format!("spec.loadBalancerIP {ip} is already in use by another Service"));
        }
    }
    let have = addresses(service);
    let usable = |ip: &&IpAddr| pool.contains(**ip) && !taken.contains(*ip);
    families
        .into_iter()
        .map(|ipv6| {
            let kept = have.iter().filter(usable).find(|ip| ip.is_ipv6() == ipv6).copied();
            let wish = wish.filter(|ip| ip.is_ipv6() == ipv6);
            wish.or(kept).or_else(|| pool.free(ipv6, |ip| taken.contains(&ip))).ok_or_else(|| exhausted(pool, ipv6))
        })
        .collect()
}

fn exhausted(pool: &Pool, ipv6: bool) -> String {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    format!("no free {family} address is left in the pool {pool}: delete a LoadBalancer Service or enlarge --lb-pool")
}

/// True for IPv6; those that the pool can serve, all of them where the Service requires it.
fn families(service: &Service, pool: &Pool) -> Result<Vec<bool>, String> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let mut asked: Vec<bool> = named.iter().map(|f| f == "IPv6").collect();
    if asked.is_empty() {
        asked.push(false);
    }
    let required = spec.is_some_and(|s| s.ip_family_policy.as_deref() == Some("RequireDualStack"));
    let (served, missing): (Vec<bool>, Vec<bool>) = asked.iter().partition(|ipv6| pool.has_family(**ipv6));
    if served.is_empty() || (required && !missing.is_empty()) {
        let family = if missing.first() == Some(&true) { "IPv6" } else { "IPv4" };
        return Err(format!("the pool {pool} has no {family} addresses: add a range with --lb-pool"));
    }
    Ok(served)
}

fn wish(service: &Service) -> Result<Option<IpAddr>, String> {
    let text = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref()).filter(|t| !t.is_empty());
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("spec.loadBalancerIP {text:?} is not an IP address"))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
