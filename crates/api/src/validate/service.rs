//! Services.

mod addresses;

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Errors, each, meta, names, one_of};
use crate::field::{Error, Path};
use crate::json::{get, int, list, map, same, text, texts};
use crate::strategy::needs_health_check_port;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const AFFINITY_MAX: i64 = 86400;

fn spec() -> Path {
    Path::new("spec")
}

fn kind(service: &Value) -> &str {
    text(service, "spec.type")
}

fn is_headless(service: &Value) -> bool {
    texts(service, "spec.clusterIPs") == ["None"] || text(service, "spec.clusterIP") == "None"
}

pub(super) fn check(new: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Errors::new();
    if let Some(old) = old {
        errors.extend(addresses::update(new, old));
        errors.extend(class_update(new, old));
    }
    errors.extend(topology(new));
    errors.extend(of_type(new));
    errors.extend(each_port(new));
    errors.extend(meta::labels(new, "spec.selector", &spec().child("selector")));
    errors.extend(affinity(new));
    errors.extend(addresses::check(new));
    errors.extend(external_ips(new));
    errors.extend(one_of(&spec().child("type"), kind(new), TYPES));
    errors.extend(ports_together(new));
    errors.extend(source_ranges(new));
    errors.extend(load_balancer_only(new));
    errors.extend(traffic_policies(new));
    errors
}

/// The old and the new name of one annotation.
fn topology(service: &Value) -> Option<Error> {
    let annotations = map(service, "metadata.annotations")?;
    let said = |key: &str| annotations.get(key).and_then(Value::as_str);
    let (hints, mode) = (said(TOPOLOGY_HINTS)?, said(TOPOLOGY_MODE)?);
    let path = Path::new("metadata.annotations").key(TOPOLOGY_MODE);
    let why = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
    (hints != mode).then(|| Error::invalid(&path, mode, why))
}

/// What each type requires or forbids.
fn of_type(service: &Value) -> Errors {
    let mut errors = Errors::new();
    let no_ports = list(service, "spec.ports").is_empty();
    if no_ports && !is_headless(service) && kind(service) != "ExternalName" {
        errors.push(Error::required(&spec().child("ports"), ""));
    }
    match kind(service) {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(service) => {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(&spec().child("clusterIPs").index(0), "None", why));
        }
        "ExternalName" => errors.extend(external_name(service)),
        _ => {}
    }
    errors
}

fn external_name(service: &Value) -> Errors {
    let mut errors = Errors::new();
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let single = key == "clusterIPs" && !text(service, "spec.clusterIP").is_empty();
        if single || !crate::json::is_zero(get(service, &format!("spec.{key}"))) {
            errors.push(Error::forbidden(&spec().child(key), "may not be set for ExternalName services"));
        }
    }
    let path = spec().child("externalName");
    match text(service, "spec.externalName") {
        "" => errors.push(Error::required(&path, "")),
        // A trailing dot only says that the name is complete.
        name => errors.extend(each(&path, name, names::subdomain(name.strip_suffix('.').unwrap_or(name)))),
    }
    errors
}

fn each_port(service: &Value) -> Errors {
    let mut errors = Errors::new();
    let all = list(service, "spec.ports");
    for (i, port) in all.iter().enumerate() {
        let path = spec().child("ports").index(i);
        errors.extend(one_port(port, all.len() > 1, &path));
        let earlier = &all[..i];
        let name = text(port, "name");
        if !name.is_empty() && earlier.iter().any(|p| text(p, "name") == name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
    }
    errors
}

/// Ports beside the Service's type and each other.
fn ports_together(service: &Value) -> Errors {
    let mut errors = Errors::new();
    let all = list(service, "spec.ports");
    let foreign = all.iter().enumerate().filter(|(_, p)| kind(service) == "ClusterIP" && int(p, "nodePort") != 0);
    errors.extend(foreign.map(|(i, _)| {
        let path = spec().child("ports").index(i).child("nodePort");
        Error::forbidden(&path, "may not be used when `type` is 'ClusterIP'")
    }));
    errors.extend(duplicates(all, "nodePort", |path, port| {
        Error::duplicate(&path.child("nodePort"), int(port, "nodePort"))
    }));
    errors.extend(duplicates(all, "port", |path, port| {
        let (protocol, number) = (text(port, "protocol"), int(port, "port"));
        let same = json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number, "TargetPort": 0, "NodePort": 0});
        Error::duplicate(path, same)
    }));
    errors
}

/// Ports that repeat an earlier one's protocol and number in `key`.
fn duplicates(all: &[Value], key: &str, error: impl Fn(&Path, &Value) -> Error) -> Errors {
    let identity = |p: &Value| (text(p, "protocol").to_owned(), int(p, key));
    let repeated = all
        .iter()
        .enumerate()
        .filter(|(i, p)| int(p, key) != 0 && all[..*i].iter().any(|earlier| identity(earlier) == identity(p)));
    repeated.map(|(i, p)| error(&spec().child("ports").index(i), p)).collect()
}

fn one_port(port: &Value, name_required: bool, path: &Path) -> Errors {
    let mut errors = super::endpoints::port(port, name_required, path);
    errors.extend(target_port(get(port, "targetPort"), &path.child("targetPort")));
    if let Some(app) = get(port, "appProtocol").and_then(Value::as_str) {
        errors.extend(each(&path.child("appProtocol"), app, names::label_key(app)));
    }
    errors
}

/// A port's number or name.
pub(super) fn target_port(port: Option<&Value>, path: &Path) -> Errors {
    match port {
        Some(Value::String(name)) => each(path, name, names::port_name(name)).collect(),
        number => {
            let number = number.and_then(Value::as_i64).unwrap_or_default();
            names::port_number(number).into_iter().map(|m| Error::invalid(path, number, m)).collect()
        }
    }
}

fn affinity(service: &Value) -> Errors {
    let (path, config) = (spec().child("sessionAffinity"), spec().child("sessionAffinityConfig"));
    let value = text(service, "spec.sessionAffinity");
    let mut errors: Errors = one_of(&path, value, &["ClientIP", "None"]).into_iter().collect();
    let given = get(service, "spec.sessionAffinityConfig");
    if value == "None" && given.is_some() {
        errors.push(Error::forbidden(&config, "must not be set when session affinity is None"));
    }
    if value == "ClientIP" {
        let timeout = config.child("clientIP.timeoutSeconds");
        match given.and_then(|c| get(c, "clientIP.timeoutSeconds")).and_then(Value::as_i64) {
            None => errors.push(Error::required(&timeout, "when session affinity type is ClientIP")),
            Some(seconds) if !(1..=AFFINITY_MAX).contains(&seconds) => {
                let why = format!("must be greater than 0 and less than {AFFINITY_MAX}");
                errors.push(Error::invalid(&timeout, seconds, why));
            }
            Some(_) => {}
        }
    }
    errors
}

fn external_ips(service: &Value) -> Errors {
    let mut errors = Errors::new();
    for (i, ip) in texts(service, "spec.externalIPs").into_iter().enumerate() {
        let path = spec().child("externalIPs").index(i);
        match names::ip(ip) {
            wrong if wrong.is_empty() => errors.extend(special_ip(ip, &path)),
            wrong => errors.extend(each(&path, ip, wrong)),
        }
    }
    errors
}

/// Addresses that cannot be an endpoint's or an external one.
pub(super) fn special_ip(text: &str, path: &Path) -> Errors {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return vec![Error::invalid(path, text, "must be a valid IP address")];
    };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let unspecified = format!("may not be unspecified ({text})");
    let rules = [
        (ip.is_unspecified(), unspecified.as_str()),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ];
    rules.into_iter().filter(|(hit, _)| *hit).map(|(_, why)| Error::invalid(path, text, why)).collect()
}

/// The field, or the annotation of the same meaning from before there was one.
fn source_ranges(service: &Value) -> Errors {
    let ranges = texts(service, "spec.loadBalancerSourceRanges");
    let annotation = map(service, "metadata.annotations").and_then(|a| a.get(SOURCE_RANGES)).and_then(Value::as_str);
    let (path, ranges): (Path, Vec<&str>) = match (ranges.is_empty(), annotation) {
        (true, None) => return Errors::new(),
        (true, Some(text)) => (Path::new("metadata.annotations").key(SOURCE_RANGES), text.split(',').collect()),
        // Spelled as in the reference.
        (false, _) => (spec().child("LoadBalancerSourceRanges"), ranges),
    };
    let mut errors = Errors::new();
    if kind(service) != "LoadBalancer" {
        errors.push(Error::forbidden(&path, "may only be used when `type` is 'LoadBalancer'"));
    }
    let in_annotation = path.as_str().starts_with("metadata");
    if in_annotation && annotation.is_some_and(|text| text.trim().is_empty()) {
        return errors;
    }
    for (i, range) in ranges.into_iter().map(str::trim).enumerate() {
        let at = if in_annotation { path.clone() } else { path.index(i) };
        errors.extend(each(&at, range, names::cidr(range)));
    }
    errors
}

fn load_balancer_only(new: &Value) -> Errors {
    let mut errors = Errors::new();
    let balancer = kind(new) == "LoadBalancer";
    let (allocate, class) = (spec().child("allocateLoadBalancerNodePorts"), spec().child("loadBalancerClass"));
    match (balancer, get(new, "spec.allocateLoadBalancerNodePorts")) {
        (true, None) => errors.push(Error::required(&allocate, "")),
        (false, Some(_)) => {
            errors.push(Error::forbidden(&allocate, "may only be used when `type` is 'LoadBalancer'"));
        }
        _ => {}
    }
    let name = text(new, "spec.loadBalancerClass");
    if !name.is_empty() {
        match balancer {
            true => errors.extend(each(&class, name, names::label_key(name))),
            false => errors.push(Error::forbidden(&class, "may only be used when `type` is 'LoadBalancer'")),
        }
    }
    errors
}

fn class_update(new: &Value, old: &Value) -> Errors {
    let both = kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer";
    let (now, before) = (get(new, "spec.loadBalancerClass"), get(old, "spec.loadBalancerClass"));
    if !both || same(now, before) {
        return Errors::new();
    }
    let path = spec().child("loadBalancerClass");
    vec![Error::invalid(&path, now.cloned().unwrap_or_default(), "may not change once set")]
}

fn traffic_policies(service: &Value) -> Errors {
    let mut errors = Errors::new();
    let external = text(service, "spec.externalTrafficPolicy");
    let reachable = matches!(kind(service), "NodePort" | "LoadBalancer")
        || (kind(service) == "ClusterIP" && !list(service, "spec.externalIPs").is_empty());
    let path = spec().child("externalTrafficPolicy");
    match (reachable, external) {
        (false, "") => {}
        (false, policy) => {
            errors.push(Error::invalid(&path, policy, "may only be set for externally-accessible services"));
        }
        (true, "") => errors.push(Error::required(&path, "")),
        (true, policy) => errors.extend(one_of(&path, policy, &["Cluster", "Local"])),
    }
    errors.extend(health_check_port(service));
    let internal = text(service, "spec.internalTrafficPolicy");
    let path = spec().child("internalTrafficPolicy");
    match kind(service) {
        kind if internal.is_empty() && !matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") => {}
        _ => errors.extend(one_of(&path, internal, &["Cluster", "Local"])),
    }
    let distribution = text(service, "spec.trafficDistribution");
    if !distribution.is_empty() {
        let supported = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        errors.extend(one_of(&spec().child("trafficDistribution"), distribution, &supported));
    }
    errors
}

fn health_check_port(service: &Value) -> Errors {
    let port = int(service, "spec.healthCheckNodePort");
    let path = spec().child("healthCheckNodePort");
    if port != 0 && !needs_health_check_port(service) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        return vec![Error::invalid(&path, port, why)];
    }
    let wrong = if port == 0 { Vec::new() } else { names::port_number(port) };
    wrong.into_iter().map(|m| Error::invalid(&path, port, m)).collect()
}

/// A change of the status: the load balancer's addresses.
pub(super) fn status(new: &Value) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("status.loadBalancer");
    let ingress = list(new, "status.loadBalancer.ingress");
    if !ingress.is_empty() && kind(new) != "LoadBalancer" {
        let why = "may only be used when `spec.type` is \"LoadBalancer\"";
        errors.push(Error::forbidden(&path.child("ingress"), why));
    }
    for (i, entry) in ingress.iter().enumerate() {
        let at = path.child("ingress").index(i);
        let (ip, hostname) = (text(entry, "ip"), text(entry, "hostname"));
        if !ip.is_empty() {
            errors.extend(each(&at.child("ip"), ip, names::ip(ip)));
        }
        match (text(entry, "ipMode"), ip.is_empty()) {
            ("", _) | ("VIP" | "Proxy", false) => {}
            (_, true) => {
                errors.push(Error::forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set"));
            }
            (mode, false) => errors.push(Error::not_supported(&at.child("ipMode"), mode, &["Proxy", "VIP"])),
        }
        if !hostname.is_empty() {
            errors.extend(each(&at.child("hostname"), hostname, names::subdomain(hostname)));
            if hostname.parse::<IpAddr>().is_ok() {
                let why = "must be a DNS name, not an IP address";
                errors.push(Error::invalid(&at.child("hostname"), hostname, why));
            }
        }
    }
    errors
}
