//! Ingresses and their classes, network policies, service ranges and addresses.

use serde_json::Value;

use super::{Errors, each, immutable, names, one_of, service};
use crate::field::{Error, Path};
use crate::json::{get, list, text, texts};
use crate::resources::Resource;

pub(super) fn check(res: &Resource, new: &Value, old: Option<&Value>) -> Errors {
    match res.plural {
        "ingresses" => ingress(new),
        "ingressclasses" => class(new, old),
        "ipaddresses" => address(new, old),
        "servicecidrs" => range(new, old),
        "networkpolicies" => policy(new),
        _ => Errors::new(),
    }
}

fn ingress(new: &Value) -> Errors {
    let spec = Path::new("spec");
    let mut errors = Errors::new();
    let rules = list(new, "spec.rules");
    match get(new, "spec.defaultBackend") {
        Some(default) => errors.extend(backend(default, &spec.child("defaultBackend"))),
        None if rules.is_empty() => {
            let why = "either `defaultBackend` or `rules` must be specified";
            errors.push(Error::invalid(&spec, get(new, "spec.rules").cloned().unwrap_or_default(), why));
        }
        None => {}
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = spec.child("rules").index(i);
        let host = text(rule, "host");
        if !host.is_empty() {
            errors.extend(each(&path.child("host"), host, host_name(host)));
        }
        for (j, entry) in list(rule, "http.paths").iter().enumerate() {
            errors.extend(ingress_path(entry, &path.child("http.paths").index(j)));
        }
        if get(rule, "http").is_some() && list(rule, "http.paths").is_empty() {
            errors.push(Error::required(&path.child("http.paths"), ""));
        }
    }
    errors
}

fn host_name(host: &str) -> Vec<String> {
    match host.parse::<std::net::IpAddr>() {
        Ok(_) => vec!["must be a DNS name, not an IP address".to_owned()],
        Err(_) => names::subdomain(host.strip_prefix("*.").unwrap_or(host)),
    }
}

fn ingress_path(entry: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let (kind, value) = (text(entry, "pathType"), text(entry, "path"));
    if kind.is_empty() {
        errors.push(Error::required(&path.child("pathType"), "pathType must be specified"));
    } else {
        errors.extend(one_of(&path.child("pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]));
    }
    let absolute_needed = matches!(kind, "Exact" | "Prefix") || !value.is_empty();
    if absolute_needed && !value.starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), value, "must be an absolute path"));
    }
    let empty = Value::Null;
    errors.extend(backend(get(entry, "backend").unwrap_or(&empty), &path.child("backend")));
    errors
}

fn backend(backend: &Value, path: &Path) -> Errors {
    let (target, resource) = (get(backend, "service"), get(backend, "resource"));
    match (target, resource) {
        (Some(_), Some(_)) => {
            vec![Error::invalid(path, "", "cannot set both resource and service backends")]
        }
        (None, None) => vec![Error::required(path, "resource or service backend is required")],
        (None, Some(_)) => Errors::new(),
        (Some(target), None) => service_backend(target, &path.child("service")),
    }
}

fn service_backend(target: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    match text(target, "name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => errors.extend(each(&path.child("name"), name, names::label_1035(name))),
    }
    match (get(target, "port.name"), get(target, "port.number")) {
        (Some(_), Some(_)) => {
            errors.push(Error::invalid(path, "", "cannot set both port name & port number"));
        }
        (None, None) => errors.push(Error::required(path, "port name or number is required")),
        (name, number) => errors.extend(service::target_port(name.or(number), &path.child("port"))),
    }
    errors
}

fn class(new: &Value, old: Option<&Value>) -> Errors {
    let path = Path::new("spec.controller");
    let controller = text(new, "spec.controller");
    let mut errors = Errors::new();
    if controller.len() > 250 {
        errors.push(Error::too_long(&path, 250));
    }
    match controller.split_once('/') {
        _ if controller.is_empty() => errors.push(Error::required(&path, "")),
        Some((domain, rest)) if !rest.is_empty() => errors.extend(each(&path, domain, names::subdomain(domain))),
        _ => errors.push(Error::invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")")),
    }
    if let Some(old) = old {
        errors.extend(immutable(&path, get(new, "spec.controller"), get(old, "spec.controller")));
    }
    errors
}

fn address(new: &Value, old: Option<&Value>) -> Errors {
    let path = Path::new("spec.parentRef");
    let mut errors = Errors::new();
    match get(new, "spec.parentRef") {
        None => errors.push(Error::required(&path, "")),
        Some(parent) => errors.extend(reference(parent, &path)),
    }
    if let Some(old) = old {
        errors.extend(immutable(&path, get(new, "spec.parentRef"), get(old, "spec.parentRef")));
    }
    errors
}

/// What has the address: any object of any group.
fn reference(parent: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let group = text(parent, "group");
    if !group.is_empty() {
        errors.extend(each(&path.child("group"), group, names::subdomain(group)));
    }
    for key in ["resource", "name", "namespace"] {
        match text(parent, key) {
            "" if key == "namespace" => {}
            "" => errors.push(Error::required(&path.child(key), "")),
            value => errors.extend(each(&path.child(key), value, names::path_segment(value))),
        }
    }
    errors
}

/// The first range stays for life; one of the other family may be added.
fn range(new: &Value, old: Option<&Value>) -> Errors {
    let path = Path::new("spec.cidrs");
    let cidrs = texts(new, "spec.cidrs");
    let mut errors = Errors::new();
    if let Some(old) = old {
        errors.extend(changed_range(&cidrs, &texts(old, "spec.cidrs")));
    }
    let spec = || get(new, "spec").cloned().unwrap_or_default();
    match cidrs[..] {
        [] => errors.push(Error::required(&path, "at least one CIDR required")),
        [a, b] if a.contains(':') == b.contains(':') => {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.push(Error::invalid(&path, spec(), why));
        }
        [_] | [_, _] => {}
        _ => errors.push(Error::invalid(&path, spec(), "may only hold up to 2 values")),
    }
    for (i, cidr) in cidrs.into_iter().enumerate().take(2) {
        errors.extend(each(&path.index(i), cidr, canonical_cidr(cidr)));
    }
    errors
}

fn changed_range(now: &[&str], before: &[&str]) -> Errors {
    const WHY: &str = "field is immutable";
    let path = Path::new("spec.cidrs");
    let pairs = now.iter().zip(before).enumerate().filter(|(_, (now, before))| now != before);
    let mut errors: Errors = pairs.map(|(i, (now, _))| Error::invalid(&path.index(i), *now, WHY)).collect();
    let to_dual = before.len() == 1 && now.len() == 2;
    if now.len() != before.len() && !to_dual {
        errors.push(Error::invalid(&path, serde_json::json!(now), WHY));
    }
    errors
}

fn canonical_cidr(text: &str) -> Vec<String> {
    let Ok(cidr) = text.parse::<ipnet::IpNet>() else { return names::cidr(text) };
    match () {
        () if cidr.network() != cidr.addr() => vec!["must not have bits set beyond the prefix length".to_owned()],
        () if cidr.to_string() != text => vec![format!("must be in canonical form ({:?})", cidr.to_string())],
        () => Vec::new(),
    }
}

fn policy(new: &Value) -> Errors {
    let mut errors = Errors::new();
    for (i, kind) in texts(new, "spec.policyTypes").into_iter().enumerate() {
        errors.extend(one_of(&Path::new("spec.policyTypes").index(i), kind, &["Egress", "Ingress"]));
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(new, &format!("spec.{direction}")).iter().enumerate() {
            let path = Path::new("spec").child(direction).index(i);
            for (j, peer) in list(rule, peers).iter().enumerate() {
                let cidr = text(peer, "ipBlock.cidr");
                let at = path.child(peers).index(j);
                if get(peer, "ipBlock").is_some() {
                    errors.extend(each(&at.child("ipBlock.cidr"), cidr, names::cidr(cidr)));
                } else if get(peer, "podSelector").is_none() && get(peer, "namespaceSelector").is_none() {
                    errors.push(Error::required(&at, "must specify a peer"));
                }
            }
            for (j, port) in list(rule, "ports").iter().enumerate() {
                let at = path.child("ports").index(j);
                if let Some(number) = get(port, "port") {
                    errors.extend(service::target_port(Some(number), &at.child("port")));
                }
                errors.extend(one_of(&at.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]));
            }
        }
    }
    errors
}
