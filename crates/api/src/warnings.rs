//! What the client should know although the request is served: `Warning` headers.

use serde_json::Value;

use crate::json::{get, int, list, map, text, texts};
use crate::resources::Resource;

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// Warnings on a create (`old` is None) or an update.
pub fn of(res: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
    match res.id() {
        ("", "services") => service(new, old),
        ("", "endpoints") => {
            vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
        }
        ("", "pods") => pod_spec(new, "spec"),
        ("apps" | "batch", _) | ("", "replicationcontrollers") => pod_spec(new, "spec.template.spec"),
        _ => Vec::new(),
    }
}

fn service(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if map(new, "metadata.annotations").is_some_and(|a| a.contains_key(TOPOLOGY_HINTS)) {
        out.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let headless = text(new, "spec.clusterIP") == "None";
    if headless {
        out.extend(headless_service(new));
    } else {
        out.extend(addresses(new, "clusterIPs"));
    }
    out.extend(addresses(new, "externalIPs"));
    out.extend(canonical("spec.loadBalancerIP", text(new, "spec.loadBalancerIP")));
    for (i, cidr) in texts(new, "spec.loadBalancerSourceRanges").into_iter().enumerate() {
        out.extend(canonical_cidr(&format!("spec.loadBalancerSourceRanges[{i}]"), cidr.trim()));
    }
    let (external_name, ips) = (text(new, "spec.type") == "ExternalName", !list(new, "spec.externalIPs").is_empty());
    if external_name && ips {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && !text(new, "spec.externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if ips && old.is_none_or(|o| list(o, "spec.externalIPs").is_empty()) {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if text(new, "spec.trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    out
}

fn headless_service(service: &Value) -> impl Iterator<Item = String> {
    let ignored = [
        ("loadBalancerIP", !text(service, "spec.loadBalancerIP").is_empty()),
        ("externalIPs", !list(service, "spec.externalIPs").is_empty()),
        ("SessionAffinity", text(service, "spec.sessionAffinity") == "ClientIP"),
    ];
    ignored.into_iter().filter(|(_, set)| *set).map(|(key, _)| format!("spec.{key} is ignored for headless services"))
}

fn addresses(service: &Value, key: &str) -> Vec<String> {
    let all = texts(service, &format!("spec.{key}"));
    all.into_iter().enumerate().filter_map(|(i, ip)| canonical(&format!("spec.{key}[{i}]"), ip)).collect()
}

/// IPv6 has many spellings and only one is compared everywhere.
fn canonical(path: &str, text: &str) -> Option<String> {
    let ip: std::net::Ipv6Addr = text.parse().ok()?;
    let right = ip.to_string();
    (right != text).then(|| format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({right:?})"))
}

fn canonical_cidr(path: &str, text: &str) -> Option<String> {
    let cidr: ipnet::IpNet = text.parse().ok()?;
    let (whole, one) = (cidr.trunc(), cidr.addr());
    if whole != cidr {
        let host = format!("{one}/{}", cidr.max_prefix_len());
        let which = format!("{:?} or {host:?}", whole.to_string());
        return Some(format!("{path}: CIDR value {text:?} is ambiguous in this context (should be {which}?)"));
    }
    let right = cidr.to_string();
    let words = || format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({right:?})");
    (right != text).then(words)
}

fn pod_spec(object: &Value, path: &str) -> Vec<String> {
    let Some(spec) = get(object, path) else { return Vec::new() };
    let mut out = Vec::new();
    for key in ["initContainers", "containers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            let at = format!("{path}.{key}[{i}]");
            out.extend(repeated_env(container, &at));
            out.extend(repeated_ports(container, &at));
        }
    }
    if get(spec, "terminationGracePeriodSeconds").is_some() && int(spec, "terminationGracePeriodSeconds") < 0 {
        out.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    out
}

fn repeated_env(container: &Value, at: &str) -> Vec<String> {
    let names: Vec<&str> = list(container, "env").iter().map(|v| text(v, "name")).collect();
    let hidden = names.iter().enumerate().filter(|(i, n)| !n.is_empty() && names[..*i].contains(n));
    hidden
        .map(|(i, n)| {
            format!("{at}.env[{i}]: hides previous definition of {n:?}, which may be dropped when using apply")
        })
        .collect()
}

fn repeated_ports(container: &Value, at: &str) -> Vec<String> {
    let ports: Vec<(i64, &str)> =
        list(container, "ports").iter().map(|p| (int(p, "containerPort"), text(p, "protocol"))).collect();
    let again = |i: usize| ports[..i].iter().position(|p| *p == ports[i]);
    (0..ports.len())
        .filter_map(|i| {
            again(i).map(|first| format!("{at}.ports[{i}]: duplicate port definition with {at}.ports[{first}]"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::find;
    use serde_json::json;

    #[test]
    fn services_and_pods() {
        let check = |plural: &str, object: Value, expect: &[&str]| {
            assert_eq!(of(find("", "v1", plural).unwrap(), &object, None), expect);
        };
        check("services", json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1"}}), &[]);
        check(
            "services",
            json!({"spec": {"type": "ClusterIP", "externalName": "a.b", "externalIPs": ["1.2.3.4"]}}),
            &[
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            ],
        );
        check(
            "services",
            json!({"spec": {"clusterIP": "None", "sessionAffinity": "ClientIP"}}),
            &["spec.SessionAffinity is ignored for headless services"],
        );
        check(
            "services",
            json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}},
                   "spec": {"type": "ExternalName", "externalName": "a.b", "externalIPs": ["2001:DB8::1"],
                            "loadBalancerSourceRanges": ["10.0.0.1/8", "2001:0db8::/32"], "trafficDistribution": "PreferClose"}}),
            &[
                "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
                "spec.externalIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
                "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
                "spec.loadBalancerSourceRanges[1]: IPv6 CIDR value \"2001:0db8::/32\" should be in RFC 5952 canonical format (\"2001:db8::/32\")",
                "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
            ],
        );
        check(
            "pods",
            json!({"spec": {"containers": [{"env": [{"name": "A"}, {"name": "A"}]}]}}),
            &["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"],
        );
    }
}
