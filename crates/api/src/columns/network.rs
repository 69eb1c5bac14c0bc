//! Services, endpoints, ingresses.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Row;
use super::format::{or, shortened, texts};

pub(super) fn external_ip(row: &Row<'_>) -> Value {
    let given = texts(row.at("spec.externalIPs")).join(",");
    match row.text("spec.type") {
        "ClusterIP" | "NodePort" => or(&given, "<none>").into(),
        "LoadBalancer" => {
            let all = [load_balancer(row), given].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
            or(&all.join(","), "<pending>").into()
        }
        "ExternalName" => row.text("spec.externalName").into(),
        _ => "<unknown>".into(),
    }
}

/// The addresses or names that a load balancer gave, sorted.
pub(super) fn load_balancer(row: &Row<'_>) -> String {
    let address =
        |ingress: &'_ Value| ["ip", "hostname"].iter().find_map(|key| ingress[key].as_str().map(str::to_string));
    let addresses = row.list("status.loadBalancer.ingress").iter().filter_map(address);
    addresses.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",")
}

pub(super) fn ports(row: &Row<'_>) -> Value {
    let port = |port: &Value| {
        let (number, protocol) = (&port["port"], port["protocol"].as_str().unwrap_or("TCP"));
        match port["nodePort"].as_i64() {
            Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    };
    or(&row.list("spec.ports").iter().map(port).collect::<Vec<_>>().join(","), "<none>").into()
}

pub(super) fn endpoints(row: &Row<'_>) -> Value {
    let subsets = row.list("subsets");
    if subsets.is_empty() {
        return "<none>".into();
    }
    shortened(subsets.iter().flat_map(subset_endpoints).collect(), 3, ",").into()
}

fn subset_endpoints(subset: &Value) -> Vec<String> {
    let items = |name: &str| subset[name].as_array().into_iter().flatten();
    let mut found = Vec::new();
    for port in items("ports") {
        found.extend(items("addresses").filter_map(|a| a["ip"].as_str()).map(|ip| host_port(ip, &port["port"])));
    }
    found
}

fn host_port(ip: &str, port: &Value) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn slice_ports(row: &Row<'_>) -> Value {
    let port = |port: &Value| match (port["port"].as_i64(), port["name"].as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) if !name.is_empty() => name.to_string(),
        _ => "*".to_string(),
    };
    let list = row.list("ports").iter().map(port).collect();
    or(&shortened(list, 3, ","), "<unset>").into()
}

pub(super) fn slice_endpoints(row: &Row<'_>) -> Value {
    let addresses = row.list("endpoints").iter().flat_map(|endpoint| texts(&endpoint["addresses"]));
    or(&shortened(addresses.map(str::to_string).collect(), 3, ","), "<unset>").into()
}

pub(super) fn hosts(row: &Row<'_>) -> Value {
    let hosts = row.list("spec.rules").iter().filter_map(|rule| rule["host"].as_str());
    let hosts: Vec<String> = hosts.filter(|host| !host.is_empty()).map(str::to_string).collect();
    or(&shortened(hosts, 3, ","), "*").into()
}

pub(super) fn class_parameters(row: &Row<'_>) -> Value {
    let (kind, name) = (row.text("spec.parameters.kind"), row.text("spec.parameters.name"));
    match row.text("spec.parameters.apiGroup") {
        _ if !row.has("spec.parameters") => "<none>".into(),
        "" => format!("{kind}/{name}").into(),
        group => format!("{kind}.{group}/{name}").into(),
    }
}

/// `services/default/kubernetes`
pub(super) fn parent(row: &Row<'_>) -> Value {
    let resource = match row.text("spec.parentRef.group") {
        _ if !row.has("spec.parentRef") => return "<none>".into(),
        "" => row.text("spec.parentRef.resource").to_lowercase(),
        group => format!("{}.{group}", row.text("spec.parentRef.resource")).to_lowercase(),
    };
    let rest = [row.text("spec.parentRef.namespace"), row.text("spec.parentRef.name")];
    rest.iter().filter(|part| !part.is_empty()).fold(resource, |path, part| format!("{path}/{part}")).into()
}
