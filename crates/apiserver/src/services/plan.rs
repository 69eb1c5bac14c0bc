//! Which addresses and ports a Service needs, has, and is given. Pure but for the random number that picks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_api::field::{Error as FieldError, Path};

use super::{Taken, alloc};
use crate::{Config, Error, object};

/// Where addresses and ports come from.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    pub cidr: IpNet,
    pub ports: RangeInclusive<u16>,
}

impl Ranges {
    pub(crate) fn of(config: &Config) -> Result<Ranges, Error> {
        let cidr = *config.service_cidrs.first().ok_or(Error::NoServiceRange)?;
        Ok(Ranges { cidr, ports: config.node_port_range.clone() })
    }
}

/// What a Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub ips: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
}

impl Holdings {
    pub(crate) fn of(service: &Value) -> Holdings {
        let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let health = service["spec"]["healthCheckNodePort"].as_i64();
        let ports = node_ports(service).into_iter().chain(health);
        Holdings {
            ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
            ports: ports.filter_map(|p| u16::try_from(p).ok()).filter(|p| *p > 0).collect(),
        }
    }

    pub(crate) fn without(&self, other: &Holdings) -> Holdings {
        Holdings { ips: &self.ips - &other.ips, ports: &self.ports - &other.ports }
    }
}

/// What the type of a Service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub ip: bool,
    pub node_ports: bool,
    pub health_port: bool,
}

impl Needs {
    pub(super) fn of(service: &Value) -> Needs {
        let spec = &service["spec"];
        let kind = spec["type"].as_str().unwrap_or("ClusterIP");
        let load_balancer = kind == "LoadBalancer";
        let local = spec["externalTrafficPolicy"] == "Local";
        Needs {
            ip: kind != "ExternalName",
            node_ports: kind == "NodePort" || (load_balancer && spec["allocateLoadBalancerNodePorts"] != false),
            health_port: load_balancer && local,
        }
    }
}

pub(super) fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|n| *n != 0)
}

pub(super) fn node_ports(service: &Value) -> Vec<i64> {
    service["spec"]["ports"].as_array().into_iter().flatten().filter_map(node_port).collect()
}

pub(super) fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

/// Gives the Service what it needs and does not have; what it wishes for and cannot get is an error.
pub(super) fn complete(ranges: &Ranges, taken: &Taken, old: Option<&Value>, new: &mut Value) -> Vec<FieldError> {
    let needs = Needs::of(new);
    let have = old.map(Holdings::of).unwrap_or_default();
    let mut errors = Vec::new();
    if needs.ip {
        complete_families(ranges, new, &mut errors);
        complete_ip(ranges, taken, &have, new, &mut errors);
    }
    complete_ports(ranges, taken, &have, needs, new, &mut errors);
    errors
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A cluster has one family here; a headless Service without selector may name both.
fn complete_families(ranges: &Ranges, new: &mut Value, errors: &mut Vec<FieldError>) {
    let free = object::text(new, "/spec/clusterIP") == "None"
        && new["spec"]["selector"].as_object().is_none_or(|s| s.is_empty());
    let own = family(&ranges.cidr.addr());
    let path = Path::new("spec");
    let spec = object::child(new, "spec");
    let policy = spec.get("ipFamilyPolicy").and_then(Value::as_str).unwrap_or_default().to_string();
    if policy == "RequireDualStack" && !free {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), policy.as_str(), why));
    }
    let families: Vec<String> = spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect();
    for (i, given) in families.iter().enumerate().filter(|(_, f)| *f != own && !free) {
        let why = "not configured on this cluster";
        errors.push(FieldError::invalid(&path.child("ipFamilies").index(i), given.as_str(), why));
    }
    if policy.is_empty() {
        spec.insert("ipFamilyPolicy".into(), if free { "RequireDualStack" } else { "SingleStack" }.into());
    }
    if families.is_empty() {
        let other = if own == "IPv4" { "IPv6" } else { "IPv4" };
        let both = free && (policy.is_empty() || policy.ends_with("DualStack"));
        spec.insert("ipFamilies".into(), if both { json!([own, other]) } else { json!([own]) });
    }
}

fn complete_ip(ranges: &Ranges, taken: &Taken, have: &Holdings, new: &mut Value, errors: &mut Vec<FieldError>) {
    let first = object::text(new, "/spec/clusterIPs/0");
    let asked = Some(object::text(new, "/spec/clusterIP")).filter(|ip| !ip.is_empty()).unwrap_or(first).to_string();
    let chosen = match asked.as_str() {
        "None" => Ok("None".to_string()),
        "" => pick_ip(ranges, taken).map(|ip| ip.to_string()),
        given => wish_ip(ranges, taken, have, given),
    };
    match chosen {
        Ok(ip) => {
            let spec = object::child(new, "spec");
            spec.insert("clusterIP".into(), ip.as_str().into());
            if spec.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty) {
                spec.insert("clusterIPs".into(), json!([ip]));
            }
        }
        Err(why) => {
            let value = if asked.is_empty() { json!([]) } else { json!([asked]) };
            errors.push(FieldError::invalid(&Path::new("spec").child("clusterIPs"), value, why));
        }
    }
}

fn pick_ip(ranges: &Ranges, taken: &Taken) -> Result<IpAddr, String> {
    let free = alloc::cluster_ip(&ranges.cidr, |ip| taken.ips.contains_key(&ip), rand::random());
    free.map_err(|e| format!("failed to allocate a serviceIP: {e}"))
}

fn wish_ip(ranges: &Ranges, taken: &Taken, have: &Holdings, given: &str) -> Result<String, String> {
    let ip: IpAddr = given.parse().map_err(|_| format!("failed to allocate IP {given}: not a valid IP address"))?;
    if have.ips.contains(&ip) {
        return Ok(given.to_string());
    }
    let done = alloc::wish_cluster_ip(&ranges.cidr, |ip| taken.ips.contains_key(&ip), ip);
    done.map(|()| given.to_string()).map_err(|e| format!("failed to allocate IP {given}: {e}"))
}

fn complete_ports(
    ranges: &Ranges,
    taken: &Taken,
    have: &Holdings,
    needs: Needs,
    new: &mut Value,
    errors: &mut Vec<FieldError>,
) {
    let spec = object::child(new, "spec");
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    let mut own = BTreeSet::new();
    if let Some(ports) = ports {
        check_wishes(ranges, taken, have, ports, &mut own, errors);
        if needs.node_ports {
            give_ports(ranges, taken, ports, &mut own, errors);
        }
    }
    if needs.health_port && spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) == 0 {
        match pick_port(ranges, taken, &own) {
            Ok(number) => drop(spec.insert("healthCheckNodePort".into(), number.into())),
            Err(why) => errors.push(FieldError::invalid(&Path::new("spec").child("healthCheckNodePort"), 0, why)),
        }
    }
}

/// The numbers that the Service names itself.
fn check_wishes(
    ranges: &Ranges,
    taken: &Taken,
    have: &Holdings,
    ports: &[Value],
    own: &mut BTreeSet<u16>,
    errors: &mut Vec<FieldError>,
) {
    for (i, port) in ports.iter().enumerate() {
        let Some(asked) = node_port(port) else { continue };
        match wish_port(ranges, taken, have, asked) {
            Ok(number) => drop(own.insert(number)),
            Err(why) => errors.push(port_error(i, asked, why)),
        }
    }
}

/// A number for every port without one. The same port with another protocol shares its number.
fn give_ports(
    ranges: &Ranges,
    taken: &Taken,
    ports: &mut [Value],
    own: &mut BTreeSet<u16>,
    errors: &mut Vec<FieldError>,
) {
    let mut given: Vec<(i64, String, u16)> = Vec::new();
    for (i, port) in ports.iter_mut().enumerate() {
        let (service_port, protocol) = (port["port"].as_i64().unwrap_or(0), protocol(port).to_string());
        let shared =
            || given.iter().find(|(p, _, n)| *p == service_port && !used(&given, *n, &protocol)).map(|(_, _, n)| *n);
        let number = match node_port(port).and_then(|n| u16::try_from(n).ok()).or_else(shared) {
            Some(number) => Ok(number),
            None => pick_port(ranges, taken, own),
        };
        match number {
            Ok(number) => {
                own.insert(number);
                port["nodePort"] = number.into();
                given.push((service_port, protocol, number));
            }
            Err(why) => errors.push(port_error(i, 0, why)),
        }
    }
}

fn port_error(i: usize, asked: i64, why: String) -> FieldError {
    FieldError::invalid(&Path::new("spec").child("ports").index(i).child("nodePort"), asked, why)
}

fn used(given: &[(i64, String, u16)], number: u16, protocol: &str) -> bool {
    given.iter().any(|(_, proto, n)| *n == number && proto == protocol)
}

fn pick_port(ranges: &Ranges, taken: &Taken, own: &BTreeSet<u16>) -> Result<u16, String> {
    let busy = |p: u16| taken.ports.contains_key(&p) || own.contains(&p);
    alloc::node_port(&ranges.ports, busy, rand::random()).map_err(|e| format!("failed to allocate a nodePort: {e}"))
}

fn wish_port(ranges: &Ranges, taken: &Taken, have: &Holdings, asked: i64) -> Result<u16, String> {
    let (first, last) = (ranges.ports.start(), ranges.ports.end());
    let outside = || format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
    let number = u16::try_from(asked).map_err(|_| outside())?;
    if have.ports.contains(&number) {
        return Ok(number);
    }
    alloc::wish_node_port(&ranges.ports, |p| taken.ports.contains_key(&p), number)
        .map(|()| number)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        Ranges { cidr: "10.96.0.0/12".parse().unwrap(), ports: 30000..=32767 }
    }

    fn taken() -> Taken {
        let mut taken = Taken::default();
        taken.add(&Holdings { ips: [[10, 96, 0, 7].into()].into(), ports: [30007].into() }, &"d/other".into());
        taken
    }

    fn done(spec: Value) -> Result<Value, String> {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        let errors = complete(&ranges(), &taken(), None, &mut service);
        if errors.is_empty() {
            Ok(service["spec"].clone())
        } else {
            Err(errors.iter().map(|e| e.to_string()).collect::<Vec<_>>().join("; "))
        }
    }

    #[test]
    fn a_cluster_ip_is_given() {
        let spec = done(json!({"type": "ClusterIP", "ports": [{"port": 80}]})).unwrap();
        let ip: IpAddr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(ranges().cidr.contains(&ip));
        assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
        assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
        assert!(spec["ports"][0]["nodePort"].is_null());
    }

    #[test]
    fn headless_and_external_names_get_none() {
        assert_eq!(done(json!({"clusterIP": "None", "selector": {"a": "b"}})).unwrap()["clusterIPs"], json!(["None"]));
        assert_eq!(done(json!({"type": "ExternalName"})).unwrap(), json!({"type": "ExternalName"}));
    }

    #[test]
    fn wishes_are_checked() {
        let ip = |ip: &str| done(json!({"clusterIP": ip})).unwrap_err();
        assert!(ip("10.96.0.7").contains("provided IP is already allocated"), "{}", ip("10.96.0.7"));
        assert!(ip("192.168.0.1").contains("not in the valid range"), "{}", ip("192.168.0.1"));
        assert_eq!(done(json!({"clusterIP": "10.96.0.9"})).unwrap()["clusterIPs"], json!(["10.96.0.9"]));
        let port = |n: i64| done(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": n}]}));
        assert_eq!(
            port(30007).unwrap_err(),
            "spec.ports[0].nodePort: Invalid value: 30007: provided port is already allocated"
        );
        let outside = "spec.ports[0].nodePort: Invalid value: 99: provided port is not in the valid range. The range of valid ports is 30000-32767";
        assert_eq!(port(99).unwrap_err(), outside);
        assert_eq!(port(31000).unwrap()["ports"][0]["nodePort"], 31000);
    }

    #[test]
    fn protocols_share_a_number_ports_do_not() {
        let ports =
            json!([{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}, {"port": 81, "protocol": "TCP"}]);
        let spec = done(json!({"type": "NodePort", "ports": ports})).unwrap();
        let number = |i: usize| spec["ports"][i]["nodePort"].as_i64().unwrap();
        assert_eq!(number(0), number(1));
        assert_ne!(number(0), number(2));
    }

    #[test]
    fn families_this_cluster_does_not_have() {
        let error = done(json!({"ipFamilyPolicy": "RequireDualStack"})).unwrap_err();
        assert!(error.contains("this cluster is not configured for dual-stack services"), "{error}");
        assert!(done(json!({"ipFamilies": ["IPv6"]})).is_err());
    }
}
