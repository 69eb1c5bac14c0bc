//! Services: what an update takes over from the old object, and what a change of type wipes.
//!
//! A field is wiped only if it no longer applies *and* the client left it as it was; otherwise validation shall complain.

use serde_json::{Value, json};

use crate::json::{each_mut, get, get_mut, int, is_zero, list, remove, same, set, text};

/// Every type but ExternalName has one, "None" included.
pub fn needs_cluster_ip(service: &Value) -> bool {
    matches!(text(service, "spec.type"), "ClusterIP" | "NodePort" | "LoadBalancer" | "")
}

/// Whether its ports have node ports: a LoadBalancer may do without.
pub fn needs_node_port(service: &Value) -> bool {
    match text(service, "spec.type") {
        "NodePort" => true,
        "LoadBalancer" => get(service, "spec.allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true),
        _ => false,
    }
}

fn may_have_node_ports(service: &Value) -> bool {
    matches!(text(service, "spec.type"), "NodePort" | "LoadBalancer")
}

pub fn needs_health_check_port(service: &Value) -> bool {
    text(service, "spec.type") == "LoadBalancer" && text(service, "spec.externalTrafficPolicy") == "Local"
}

fn needs_external_policy(service: &Value) -> bool {
    match text(service, "spec.type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(service, "spec.externalIPs").is_empty(),
        _ => false,
    }
}

fn is_load_balancer(service: &Value) -> bool {
    text(service, "spec.type") == "LoadBalancer"
}

pub(super) fn before_update(new: &mut Value, old: &Value) {
    normalize_cluster_ips(new, Some(old));
    keep_allocated(new, old);
    drop_what_no_longer_applies(new, old);
    drop_foreign_status(new);
}

/// A client that knows only the singular `clusterIP` changes the plural with it.
pub(super) fn normalize_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let ip = text(new, "spec.clusterIP").to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && list(new, "spec.clusterIPs").is_empty() {
            set_spec(new, "clusterIPs", json!([ip]));
        }
        return;
    };
    let plural = get(new, "spec.clusterIPs");
    let left_alone = is_zero(plural) || same(plural, get(old, "spec.clusterIPs"));
    if ip == text(old, "spec.clusterIP") || !left_alone {
        return;
    }
    match ip.is_empty() {
        true => remove_spec(new, "clusterIPs"),
        false => set_spec(new, "clusterIPs", json!([ip])),
    }
}

/// What the server once chose and the client left out stays.
fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if text(new, "spec.clusterIP").is_empty() {
            copy(new, old, "clusterIP");
        }
        let same_ip = text(new, "spec.clusterIP") == text(old, "spec.clusterIP");
        if list(new, "spec.clusterIPs").is_empty() && same_ip {
            copy(new, old, "clusterIPs");
        }
    }
    if needs_node_port(old) && needs_node_port(new) {
        keep_node_ports(new, old);
    }
    if needs_health_check_port(old) && needs_health_check_port(new) && int(new, "spec.healthCheckNodePort") == 0 {
        copy(new, old, "healthCheckNodePort");
    }
}

/// Ports are recognised by name; a node port that the client gave to another port is not handed out again.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let before: Vec<(String, i64)> = list(old, "spec.ports").iter().map(named).collect();
    let asked: Vec<i64> = list(new, "spec.ports").iter().map(|p| int(p, "nodePort")).collect();
    let mut used: Vec<i64> = before.iter().map(|(_, p)| *p).filter(|p| asked.contains(p)).collect();
    for port in each_mut(new, "spec.ports") {
        let (name, node_port) = named(port);
        let known = before.iter().find(|(n, p)| *n == name && *p != 0 && !used.contains(p));
        if let (0, Some((_, kept))) = (node_port, known) {
            used.push(*kept);
            set(port, "nodePort", *kept);
        }
    }
}

fn named(port: &Value) -> (String, i64) {
    (text(port, "name").to_owned(), int(port, "nodePort"))
}

fn drop_what_no_longer_applies(new: &mut Value, old: &Value) {
    let lost = |needs: fn(&Value) -> bool, new: &Value| needs(old) && !needs(new);
    if lost(needs_cluster_ip, new) {
        let plural_left_alone = unchanged(new, old, "clusterIPs") || is_zero(spec_field(new, "clusterIPs"));
        if unchanged(new, old, "clusterIP") && plural_left_alone {
            remove_spec(new, "clusterIP");
            remove_spec(new, "clusterIPs");
        }
        drop_unchanged(new, old, "ipFamilies");
        drop_unchanged(new, old, "ipFamilyPolicy");
    }
    // Ports may go or change meanwhile, as long as no node port is new.
    let had = node_ports(old);
    if lost(may_have_node_ports, new) && node_ports(new).iter().all(|port| had.contains(port)) {
        each_mut(new, "spec.ports").for_each(|p| {
            remove(p, "nodePort");
        });
    }
    if lost(needs_health_check_port, new) {
        drop_unchanged(new, old, "healthCheckNodePort");
    }
    if lost(needs_external_policy, new) {
        drop_unchanged(new, old, "externalTrafficPolicy");
    }
    if lost(is_load_balancer, new) {
        drop_unchanged(new, old, "allocateLoadBalancerNodePorts");
        drop_unchanged(new, old, "loadBalancerClass");
    }
    if text(new, "spec.type") == "ExternalName" && text(old, "spec.type") != "ExternalName" {
        drop_unchanged(new, old, "internalTrafficPolicy");
    }
}

fn node_ports(service: &Value) -> Vec<i64> {
    list(service, "spec.ports").iter().map(|p| int(p, "nodePort")).filter(|p| *p != 0).collect()
}

/// Only a LoadBalancer has a load balancer's status.
pub(super) fn drop_foreign_status(service: &mut Value) {
    if !is_load_balancer(service)
        && let Some(status) = get_mut(service, "status").filter(|s| !is_zero(s.get("loadBalancer")))
    {
        set(status, "loadBalancer", json!({}));
    }
}

fn spec_field<'a>(service: &'a Value, key: &str) -> Option<&'a Value> {
    get(service, "spec").and_then(|s| s.get(key))
}

fn unchanged(new: &Value, old: &Value, key: &str) -> bool {
    same(spec_field(new, key), spec_field(old, key))
}

fn drop_unchanged(new: &mut Value, old: &Value, key: &str) {
    if unchanged(new, old, key) {
        remove_spec(new, key);
    }
}

fn copy(new: &mut Value, old: &Value, key: &str) {
    if let Some(value) = spec_field(old, key) {
        set_spec(new, key, value.clone());
    }
}

fn set_spec(service: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(spec) = get_mut(service, "spec") {
        set(spec, key, value);
    }
}

fn remove_spec(service: &mut Value, key: &str) {
    if let Some(spec) = get_mut(service, "spec") {
        remove(spec, key);
    }
}
