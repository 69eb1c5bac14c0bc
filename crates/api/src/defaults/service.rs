//! Service. Addresses, families and ports that depend on the cluster's ranges are allocated elsewhere.

use serde_json::Value;

use crate::json::{below, each_mut, fill, fill_text, get, get_mut, is_zero, list, set, text};

pub(super) fn apply(object: &mut Value) {
    if let Some(spec) = below(object, "spec") {
        fill_text(spec, "sessionAffinity", "None");
        fill_text(spec, "type", "ClusterIP");
        affinity(spec);
        each_mut(spec, "ports").for_each(port);
        policies(spec);
    }
    for ingress in get_mut(object, "status").into_iter().flat_map(|s| each_mut(s, "loadBalancer.ingress")) {
        if !text(ingress, "ip").is_empty() {
            fill(ingress, "ipMode", "VIP");
        }
    }
}

fn affinity(spec: &mut Value) {
    match text(spec, "sessionAffinity") {
        "None" => {
            crate::json::remove(spec, "sessionAffinityConfig");
        }
        "ClientIP" => {
            let client = below(spec, "sessionAffinityConfig").and_then(|c| below(c, "clientIP"));
            if let Some(client) = client {
                fill(client, "timeoutSeconds", 10800);
            }
        }
        _ => {}
    }
}

fn port(port: &mut Value) {
    fill_text(port, "protocol", "TCP");
    // Only an int or string counts: 0 and "" mean the service's own port.
    if is_zero(get(port, "targetPort")) {
        let own = get(port, "port").cloned().unwrap_or_else(|| 0.into());
        set(port, "targetPort", own);
    }
}

fn policies(spec: &mut Value) {
    let kind = text(spec, "type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    if external || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty()) {
        fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
}
