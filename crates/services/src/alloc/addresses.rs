//! IPAddress objects: one for each address that is taken, with a reference to what has it.

use std::net::IpAddr;

use serde_json::{Value, json};
use skiff_api::json::{map, text};

/// Who made an IPAddress.
pub(super) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "ipallocator.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The IPAddress of a Service's address, as far as the allocator says it: uid and time are the caller's.
pub fn ip_address(ip: IpAddr, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": ip.to_string(), "labels": {FAMILY: family(ip), MANAGED_BY: MANAGER}},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    })
}

fn label<'a>(address: &'a Value, key: &str) -> &'a str {
    map(address, "metadata.labels").and_then(|labels| labels.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// Whether the allocator made it: others' are none of its business, but taken all the same.
pub fn is_managed(address: &Value) -> bool {
    label(address, MANAGED_BY) == MANAGER
}

/// Whether its labels are those that the allocator gives.
pub(super) fn is_labelled(address: &Value) -> bool {
    let ip = text(address, "metadata.name").parse::<IpAddr>();
    is_managed(address) && ip.is_ok_and(|ip| label(address, FAMILY) == family(ip))
}

/// Namespace and name of the Service that it refers to; None if that is something else.
pub fn service_of(address: &Value) -> Option<(&str, &str)> {
    let field = |name: &str| text(address, &format!("spec.parentRef.{name}"));
    (field("group").is_empty() && field("resource") == "services").then(|| (field("namespace"), field("name")))
}
