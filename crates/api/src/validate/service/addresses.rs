//! clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{is_headless, spec};
use crate::field::Error;
use crate::json::{get, text, texts};
use crate::strategy::needs_cluster_ip;
use crate::validate::{Errors, each, names, one_of};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];

/// clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy, alone and together.
pub(super) fn check(service: &Value) -> Errors {
    if !needs_cluster_ip(service) {
        return Errors::new();
    }
    let mut errors = families(service);
    let path = spec().child("clusterIPs");
    let ips = texts(service, "spec.clusterIPs");
    let all = json!(ips);
    let mut broken = false;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if ips.len() > 1 {
                broken = true;
                errors.push(Error::invalid(&path, all.clone(), "'None' must be the first and only value"));
            }
            continue;
        }
        let wrong = names::ip(ip);
        broken |= !wrong.is_empty();
        errors.extend(each(&path.index(i), ip, wrong));
    }
    if ips.len() > 2 {
        errors.push(Error::invalid(&path, all.clone(), "may only hold up to 2 values"));
    }
    errors.extend(primary(service, &ips));
    if broken {
        return errors;
    }
    let sixes = ips.iter().filter(|ip| is_v6(ip)).count();
    if ips.len() > 1 && (sixes == 0 || sixes == ips.len()) {
        errors.push(Error::invalid(&path, all, "may specify no more than one IP for each IP family"));
    }
    errors.extend(families_of_ips(service, &ips));
    errors
}

fn families(service: &Value) -> Errors {
    let mut errors = Errors::new();
    let families = texts(service, "spec.ipFamilies");
    for (i, family) in families.iter().enumerate() {
        let path = spec().child("ipFamilies").index(i);
        errors.extend(one_of(&path, family, FAMILIES));
        if families[..i].contains(family) {
            errors.push(Error::duplicate(&path, *family));
        }
    }
    let policy = text(service, "spec.ipFamilyPolicy");
    if !policy.is_empty() {
        errors.extend(one_of(&spec().child("ipFamilyPolicy"), policy, FAMILY_POLICIES));
    }
    errors
}

/// The singular address is the first of the plural.
fn primary(service: &Value, ips: &[&str]) -> Option<Error> {
    let path = spec().child("clusterIPs");
    match (text(service, "spec.clusterIP"), ips.first()) {
        ("", Some(_)) => Some(Error::invalid(&path, json!(ips), "must be empty when `clusterIP` is not specified")),
        (one, Some(first)) if one != *first => {
            Some(Error::invalid(&path, json!(ips), "first value must match `clusterIP`"))
        }
        (one, None) if !one.is_empty() => Some(Error::required(&path, "")),
        _ => None,
    }
}

fn is_v6(ip: &str) -> bool {
    ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6())
}

fn families_of_ips(service: &Value, ips: &[&str]) -> Errors {
    if is_headless(service) {
        return Errors::new();
    }
    let pairs = ips.iter().zip(texts(service, "spec.ipFamilies")).enumerate();
    let wrong = pairs.filter(|(_, (ip, family))| is_v6(ip) != (*family == "IPv6"));
    let error = |(i, (ip, family)): (usize, (&&str, &str))| {
        let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
        Error::invalid(&spec().child("clusterIPs").index(i), *ip, why)
    };
    wrong.map(error).collect()
}

/// The primary address stays for life; the secondary may come, and go with a word.
pub(super) fn update(new: &Value, old: &Value) -> Errors {
    if !needs_cluster_ip(new) || !needs_cluster_ip(old) || (is_headless(new) && is_headless(old)) {
        return Errors::new();
    }
    let path = spec().child("clusterIPs");
    let (now, before) = (texts(new, "spec.clusterIPs"), texts(old, "spec.clusterIPs"));
    let mut errors = Errors::new();
    if now.is_empty() && !before.is_empty() {
        errors.push(Error::invalid(&path.index(0), json!(now), "primary clusterIP can not be unset"));
    }
    for (i, (ip, was)) in now.iter().zip(&before).enumerate() {
        if ip != was {
            errors.push(Error::invalid(&path.index(i), json!(now), "may not change once set"));
        }
    }
    errors.extend(families_update(new, old));
    let single = text(new, "spec.ipFamilyPolicy") == "SingleStack";
    for (key, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let count = |service: &Value| texts(service, &format!("spec.{key}")).len();
        if count(new) == 1 && count(old) == 2 && !single {
            let policy = get(new, "spec.ipFamilyPolicy").cloned().unwrap_or_default();
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            errors.push(Error::invalid(&spec().child("ipFamilyPolicy"), policy, why));
        }
    }
    errors
}

/// Families go with the addresses: those that are said stay.
fn families_update(new: &Value, old: &Value) -> Option<Error> {
    let (now, before) = (texts(new, "spec.ipFamilies"), texts(old, "spec.ipFamilies"));
    let changed = is_headless(new) == is_headless(old) && now.iter().zip(&before).any(|(now, before)| now != before);
    let path = spec().child("ipFamilies").index(0);
    changed.then(|| Error::invalid(&path, json!(now), "may not change once set"))
}
