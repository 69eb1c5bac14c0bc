//! ResourceQuotas: what an object uses of a namespace, and whether a quota has room for it. Amounts are in thousandths.

mod pod;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::json::{get, int, list, map, text, texts};
use crate::quantity;
use crate::resources::Resource;

pub use pod::{amount, must_specify};

pub type Amounts = BTreeMap<String, i128>;

const ONE: i128 = 1000;

/// What an object uses, under every name by which a quota may limit it.
pub fn usage(res: &Resource, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    let group = if res.group.is_empty() { String::new() } else { format!(".{}", res.group) };
    used.insert(format!("count/{}{group}", res.plural), ONE);
    match res.id() {
        ("", "pods") => used.extend(pod::usage(object)),
        ("", "services") => used.extend(service(object)),
        ("", "persistentvolumeclaims") => used.extend(claim(object)),
        ("", "replicationcontrollers" | "resourcequotas" | "secrets" | "configmaps") => {
            used.insert(res.plural.to_owned(), ONE);
        }
        _ => {}
    }
    used
}

fn service(service: &Value) -> Vec<(String, i128)> {
    let ports = list(service, "spec.ports");
    let kind = text(service, "spec.type");
    let allocates = get(service, "spec.allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false);
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => ports.iter().filter(|p| int(p, "nodePort") != 0).count(),
        _ => 0,
    };
    let balancers = usize::from(kind == "LoadBalancer");
    let counts = [("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)];
    counts.into_iter().map(|(name, n)| (name.to_owned(), n as i128 * ONE)).collect()
}

fn claim(claim: &Value) -> Vec<(String, i128)> {
    let storage = map(claim, "spec.resources.requests").and_then(|r| r.get("storage")).and_then(amount).unwrap_or(0);
    let mut used = vec![("persistentvolumeclaims".to_owned(), ONE), ("requests.storage".to_owned(), storage)];
    let class = text(claim, "spec.storageClassName");
    if !class.is_empty() {
        let of_class = |name: &str| format!("{class}.storageclass.storage.k8s.io/{name}");
        used.extend([(of_class("persistentvolumeclaims"), ONE), (of_class("requests.storage"), storage)]);
    }
    used
}

/// Whether a quota counts the object at all: quotas with scopes count pods only.
pub fn counts(quota: &Value, res: &Resource, object: &Value) -> bool {
    let scopes = texts(quota, "spec.scopes");
    let terms = list(quota, "spec.scopeSelector.matchExpressions");
    if scopes.is_empty() && terms.is_empty() {
        return true;
    }
    res.id() == ("", "pods")
        && scopes.iter().all(|scope| pod::in_scope(object, scope, "Exists", &[]))
        && terms.iter().all(|t| pod::in_scope(object, text(t, "scopeName"), text(t, "operator"), &texts(t, "values")))
}

/// `new` less `old`, without what stays the same.
pub fn difference(new: &Amounts, old: &Amounts) -> Amounts {
    let mut difference = new.clone();
    for (name, amount) in old {
        *difference.entry(name.clone()).or_default() -= amount;
    }
    difference.retain(|_, amount| *amount != 0);
    difference
}

/// A quota without room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}")]
pub struct Exceeded {
    quota: String,
    requested: String,
    used: String,
    limited: String,
}

/// The quota's `used` after a change; None if the change is none of its business. What only shrinks is always let through.
pub fn charge(quota: &Value, change: &Amounts) -> Result<Option<Map<String, Value>>, Exceeded> {
    let Some(hard) = map(quota, "spec.hard") else { return Ok(None) };
    let have = |name: &str| map(quota, "status.used").and_then(|used| used.get(name)).and_then(amount).unwrap_or(0);
    let changed: Vec<(&String, i128)> =
        hard.keys().filter_map(|name| Some((name, *change.get(name)?))).filter(|(_, amount)| *amount != 0).collect();
    if changed.is_empty() {
        return Ok(None);
    }
    let limit = |name: &str| hard.get(name).and_then(amount).unwrap_or(i128::MAX);
    let over: Vec<(&String, i128)> =
        changed.iter().filter(|(name, more)| *more > 0 && have(name) + more > limit(name)).copied().collect();
    if !over.is_empty() {
        let say = |of: &dyn Fn(&str, i128) -> i128| {
            let mut parts: Vec<String> = over
                .iter()
                .map(|(name, more)| format!("{name}={}", quantity::show(of(name, *more), is_binary(name))))
                .collect();
            parts.sort();
            parts.join(",")
        };
        return Err(Exceeded {
            quota: text(quota, "metadata.name").to_owned(),
            requested: say(&|_, more| more),
            used: say(&|name, _| have(name)),
            limited: say(&|name, _| limit(name)),
        });
    }
    let mut used = map(quota, "status.used").cloned().unwrap_or_default();
    for (name, more) in changed {
        let now = (have(name) + more).max(0);
        used.insert(name.clone(), quantity::show(now, is_binary(name)).into());
    }
    Ok(Some(used))
}

/// The status of a quota over everything that its namespace has.
pub fn status<'a>(quota: &Value, objects: impl Iterator<Item = (&'a Resource, &'a Value)>) -> Value {
    let mut total = Amounts::new();
    for (res, object) in objects.filter(|(res, object)| counts(quota, res, object)) {
        for (name, amount) in usage(res, object) {
            *total.entry(name).or_default() += amount;
        }
    }
    let hard = map(quota, "spec.hard").cloned().unwrap_or_default();
    let used: Map<String, Value> = hard
        .keys()
        .map(|name| (name.clone(), quantity::show(total.get(name).copied().unwrap_or(0), is_binary(name)).into()))
        .collect();
    serde_json::json!({"hard": hard, "used": used})
}

fn is_binary(name: &str) -> bool {
    ["memory", "storage", "hugepages"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::find;
    use serde_json::json;

    fn used(plural: &str, object: Value) -> Vec<String> {
        let show = |(name, amount): (String, i128)| format!("{name}={}", quantity::show(amount, is_binary(&name)));
        usage(find("", "v1", plural).unwrap(), &object).into_iter().filter(|(_, n)| *n != 0).map(show).collect()
    }

    #[test]
    fn what_services_use() {
        let service = |spec: Value| used("services", json!({ "spec": spec }));
        assert_eq!(service(json!({"type": "ClusterIP", "ports": [{}]})), ["count/services=1", "services=1"]);
        assert_eq!(
            service(json!({"type": "LoadBalancer", "ports": [{}, {}]})),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"]
        );
        assert_eq!(
            service(
                json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"nodePort": 30000}, {}]})
            ),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=1"]
        );
    }

    #[test]
    fn what_pods_use() {
        let containers = json!([{"resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "1"}}},
                                {"resources": {"requests": {"cpu": "500m"}}}]);
        let pod =
            json!({"spec": {"containers": containers, "initContainers": [{"resources": {"requests": {"cpu": "2"}}}]}});
        assert_eq!(
            used("pods", pod.clone()),
            [
                "count/pods=1",
                "cpu=2",
                "limits.cpu=1",
                "memory=64Mi",
                "pods=1",
                "requests.cpu=2",
                "requests.memory=64Mi"
            ]
        );
        let mut done = pod;
        done["status"] = json!({"phase": "Succeeded"});
        assert_eq!(used("pods", done), ["count/pods=1"]);
    }

    #[test]
    fn quotas_are_charged_or_refuse() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "requests.memory": "1Gi"}},
            "status": {"used": {"pods": "1", "requests.memory": "512Mi"}}});
        let change = |pods: i128, mib: i128| {
            Amounts::from([
                ("pods".to_owned(), pods * ONE),
                ("requests.memory".to_owned(), (mib << 20) * ONE),
                ("x".to_owned(), 1),
            ])
        };
        let charged = charge(&quota, &change(1, 256)).unwrap().unwrap();
        assert_eq!(Value::Object(charged), json!({"pods": "2", "requests.memory": "768Mi"}));
        assert_eq!(charge(&quota, &Amounts::from([("services".to_owned(), ONE)])), Ok(None));
        assert_eq!(
            charge(&quota, &change(2, 1024)).unwrap_err().to_string(),
            "exceeded quota: q, requested: pods=2,requests.memory=1Gi, used: pods=1,requests.memory=512Mi, limited: pods=2,requests.memory=1Gi"
        );
        let less = charge(&quota, &change(-1, -600)).unwrap().unwrap();
        assert_eq!(Value::Object(less), json!({"pods": "0", "requests.memory": "0"}));
    }

    #[test]
    fn scopes_count_some_pods() {
        let pods = find("", "v1", "pods").unwrap();
        let check = |spec: Value, pod: Value, expect: bool| {
            assert_eq!(counts(&json!({ "spec": spec }), pods, &json!({ "spec": pod })), expect, "{spec} {pod}");
        };
        check(json!({"scopes": ["Terminating"]}), json!({"activeDeadlineSeconds": 5}), true);
        check(json!({"scopes": ["Terminating"]}), json!({}), false);
        check(json!({"scopes": ["NotTerminating", "BestEffort"]}), json!({"containers": [{}]}), true);
        check(json!({"scopes": ["NotBestEffort"]}), json!({"containers": [{}]}), false);
        let class = |operator: &str| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}});
        check(class("In"), json!({"priorityClassName": "high"}), true);
        check(class("In"), json!({"priorityClassName": "low"}), false);
        check(class("NotIn"), json!({"priorityClassName": "low"}), true);
        check(class("Exists"), json!({}), false);
        assert!(!counts(&json!({"spec": {"scopes": ["BestEffort"]}}), find("", "v1", "services").unwrap(), &json!({})));
    }
}
