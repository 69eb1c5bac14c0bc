//! Endpoints and EndpointSlices.

use std::net::IpAddr;

use serde_json::Value;

use super::service::special_ip;
use super::{Errors, each, immutable, names, one_of};
use crate::field::{Error, Path};
use crate::json::{get, int, list, text, texts};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

pub(super) fn endpoints(object: &Value) -> Errors {
    let mut errors = Errors::new();
    for (i, subset) in list(object, "subsets").iter().enumerate() {
        let path = Path::new("subsets").index(i);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.push(Error::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (j, a) in list(subset, key).iter().enumerate() {
                errors.extend(address(a, &path.child(key).index(j)));
            }
        }
        let ports = list(subset, "ports");
        for (j, p) in ports.iter().enumerate() {
            errors.extend(port(p, ports.len() > 1, &path.child("ports").index(j)));
        }
    }
    errors
}

fn address(address: &Value, path: &Path) -> Errors {
    let (ip, hostname, node) = (text(address, "ip"), text(address, "hostname"), text(address, "nodeName"));
    let mut errors: Errors = each(&path.child("ip"), ip, names::ip(ip)).collect();
    if !hostname.is_empty() {
        errors.extend(each(&path.child("hostname"), hostname, names::label(hostname)));
    }
    if !node.is_empty() {
        errors.extend(each(&path.child("nodeName"), node, names::subdomain(node)));
    }
    if errors.is_empty() {
        errors.extend(special_ip(ip, &path.child("ip")));
    }
    errors
}

/// What ports of Services, Endpoints and slices have in common: name, number, protocol.
pub(super) fn port(port: &Value, name_required: bool, path: &Path) -> Errors {
    let mut errors = Errors::new();
    match text(port, "name") {
        "" if name_required => errors.push(Error::required(&path.child("name"), "")),
        "" => {}
        name => errors.extend(each(&path.child("name"), name, names::label(name))),
    }
    let number = int(port, "port");
    errors.extend(names::port_number(number).into_iter().map(|m| Error::invalid(&path.child("port"), number, m)));
    errors.extend(one_of(&path.child("protocol"), text(port, "protocol"), PROTOCOLS));
    errors
}

pub(super) fn slice(new: &Value, old: Option<&Value>) -> Errors {
    let kind = text(new, "addressType");
    let path = Path::new("addressType");
    let mut errors = Errors::new();
    if let Some(old) = old {
        errors.extend(immutable(&path, get(new, "addressType"), get(old, "addressType")));
    }
    errors.extend(one_of(&path, kind, &["FQDN", "IPv4", "IPv6"]));
    errors.extend(slice_endpoints(new, kind));
    errors.extend(slice_ports(new));
    errors
}

fn slice_endpoints(slice: &Value, kind: &str) -> Errors {
    let path = Path::new("endpoints");
    let endpoints = list(slice, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        return vec![Error::too_many(&path, endpoints.len(), MAX_ENDPOINTS)];
    }
    let mut errors = Errors::new();
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = path.index(i);
        errors.extend(slice_addresses(endpoint, kind, &at.child("addresses")));
        let (hostname, node) = (text(endpoint, "hostname"), text(endpoint, "nodeName"));
        if !hostname.is_empty() {
            errors.extend(each(&at.child("hostname"), hostname, names::label(hostname)));
        }
        if !node.is_empty() {
            errors.extend(each(&at.child("nodeName"), node, names::subdomain(node)));
        }
    }
    errors
}

fn slice_addresses(endpoint: &Value, kind: &str, path: &Path) -> Errors {
    let addresses = texts(endpoint, "addresses");
    if addresses.is_empty() {
        return vec![Error::required(path, "must contain at least 1 address")];
    }
    if addresses.len() > MAX_ADDRESSES {
        return vec![Error::too_many(path, addresses.len(), MAX_ADDRESSES)];
    }
    let mut errors = Errors::new();
    for (i, address) in addresses.into_iter().enumerate() {
        let at = path.index(i);
        let right_family = |v6: bool| address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == v6);
        match kind {
            "IPv4" if !right_family(false) => errors.push(Error::invalid(&at, address, "must be an IPv4 address")),
            "IPv6" if !right_family(true) => errors.push(Error::invalid(&at, address, "must be an IPv6 address")),
            "IPv4" | "IPv6" => errors.extend(special_ip(address, &at)),
            "FQDN" => errors.extend(each(&at, address, names::subdomain(address))),
            _ => {}
        }
    }
    errors
}

fn slice_ports(slice: &Value) -> Errors {
    let path = Path::new("ports");
    let ports = list(slice, "ports");
    if ports.len() > MAX_PORTS {
        return vec![Error::too_many(&path, ports.len(), MAX_PORTS)];
    }
    let mut errors = Errors::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            errors.extend(each(&at.child("name"), name, names::label(name)));
        }
        if ports[..i].iter().any(|p| text(p, "name") == name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        errors.extend(one_of(&at.child("protocol"), text(port, "protocol"), PROTOCOLS));
        let app = text(port, "appProtocol");
        if !app.is_empty() {
            errors.extend(each(&at.child("appProtocol"), app, names::label_key(app)));
        }
    }
    errors
}
