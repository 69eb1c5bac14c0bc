//! What the client should know although the request is served: `Warning` headers.

use serde_json::Value;

use crate::json::{get, int, list, text, texts};
use crate::resources::Resource;

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
    let spec = |key: &str| get(new, &format!("spec.{key}"));
    let mut out = Vec::new();
    if text(new, "spec.type") != "ExternalName" && !text(new, "spec.externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if !list(new, "spec.externalIPs").is_empty() {
        let fresh = old.is_none_or(|o| list(o, "spec.externalIPs").is_empty());
        if fresh {
            out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
        }
    }
    if text(new, "spec.clusterIP") == "None" {
        for (key, set) in [
            ("loadBalancerIP", !text(new, "spec.loadBalancerIP").is_empty()),
            ("externalIPs", !list(new, "spec.externalIPs").is_empty()),
            ("sessionAffinity", text(new, "spec.sessionAffinity") == "ClientIP"),
        ] {
            if set {
                out.push(format!("spec.{key} is ignored for headless services"));
            }
        }
    }
    if spec("trafficDistribution").and_then(Value::as_str) == Some("PreferClose") {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    for (i, ip) in texts(new, "spec.clusterIPs").into_iter().enumerate() {
        out.extend(canonical(&format!("spec.clusterIPs[{i}]"), ip));
    }
    for (i, ip) in texts(new, "spec.externalIPs").into_iter().enumerate() {
        out.extend(canonical(&format!("spec.externalIPs[{i}]"), ip));
    }
    out
}

/// IPv6 has many spellings and only one is compared everywhere.
fn canonical(path: &str, text: &str) -> Option<String> {
    let ip: std::net::Ipv6Addr = text.parse().ok()?;
    let right = ip.to_string();
    (right != text).then(|| format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({right:?})"))
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
            &["spec.sessionAffinity is ignored for headless services"],
        );
        check(
            "pods",
            json!({"spec": {"containers": [{"env": [{"name": "A"}, {"name": "A"}]}]}}),
            &["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"],
        );
    }
}
