//! Services and IPAddress objects or records of node ports that do not fit: what to do about them. A write of a Service and
//! of what it gets is one, so this is for what clients did to IPAddress objects by hand, for stores that were restored or
//! edited, for Services from before there were such objects, and for ranges that are others than before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::Value;
use skiff_api::json::{text, texts};
use skiff_api::strategy::needs_cluster_ip;

use super::addresses::{family, is_labelled, is_managed, service_of};
use super::ranges::Ranges;

/// An IPAddress without its Service is left alone for so long: a client may make the one after the other.
const ORPHAN_SECONDS: i64 = 60;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the IPAddress of a Service's address, in place of one that is wrong.
    Allocate { ip: IpAddr, namespace: String, name: String, replace: bool },
    /// Remove an IPAddress.
    Release { name: String },
    /// Write down who has a node port, whatever was written before.
    Record { port: u16, owner: String },
    /// Remove the record of a node port that nobody has.
    Forget { port: u16 },
    /// Tell whoever looks at the object.
    Tell { about: About, reason: &'static str, message: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Service { namespace: String, name: String },
    IpAddress { name: String },
}

/// What there is.
pub struct View<'a> {
    pub services: &'a [Value],
    pub addresses: &'a [Value],
    pub ranges: &'a Ranges,
    /// Seconds since the object was made.
    pub age: &'a dyn Fn(&Value) -> i64,
}

/// What there is of node ports.
pub struct PortView<'a> {
    pub services: &'a [Value],
    /// Who has a port, as `NAMESPACE/NAME`.
    pub records: &'a BTreeMap<u16, String>,
    pub range: &'a RangeInclusive<u16>,
}

/// Which of the reference's two loops says it.
pub fn teller(reason: &str) -> &'static str {
    if reason.starts_with("Port") { "portallocator-repair-controller" } else { "ipallocator-repair-controller" }
}

type Key<'a> = (&'a str, &'a str);

fn key(service: &Value) -> Key<'_> {
    (text(service, "metadata.namespace"), text(service, "metadata.name"))
}

pub fn plan(view: &View<'_>) -> Vec<Step> {
    let services: BTreeMap<Key<'_>, &Value> = view.services.iter().map(|s| (key(s), s)).collect();
    let addresses: BTreeMap<&str, &Value> = view.addresses.iter().map(|a| (text(a, "metadata.name"), a)).collect();
    let mut steps = Vec::new();
    for service in view.services.iter().filter(|s| needs_cluster_ip(s)) {
        for ip in texts(service, "spec.clusterIPs").into_iter().filter(|ip| *ip != "None") {
            steps.extend(of_service(service, ip, &services, &addresses, view.ranges));
        }
    }
    let replaced = |address: &Value| {
        let ip = text(address, "metadata.name").parse::<IpAddr>();
        steps
            .iter()
            .any(|step| matches!(step, Step::Allocate { ip: taken, replace: true, .. } if ip.as_ref() == Ok(taken)))
    };
    let others: Vec<&Value> = view.addresses.iter().filter(|a| is_managed(a) && !replaced(a)).collect();
    for address in others {
        steps.extend(of_address(address, &services, (view.age)(address)));
    }
    steps
}

fn has(service: &Value, address: &str) -> bool {
    let wanted = address.parse::<IpAddr>();
    needs_cluster_ip(service) && texts(service, "spec.clusterIPs").into_iter().any(|ip| ip.parse() == wanted)
}

fn of_service(
    service: &Value,
    ip: &str,
    services: &BTreeMap<Key<'_>, &Value>,
    addresses: &BTreeMap<&str, &Value>,
    ranges: &Ranges,
) -> Vec<Step> {
    let (namespace, name) = key(service);
    let tell = |reason, message| {
        let about = About::Service { namespace: namespace.to_owned(), name: name.to_owned() };
        Step::Tell { about, reason, message }
    };
    let Ok(ip) = ip.parse::<IpAddr>() else {
        return vec![tell("ClusterIPNotValid", format!("Cluster IP {ip} is not a valid IP; please recreate Service"))];
    };
    let family = family(ip);
    if !ranges.contains(ip) {
        let words =
            format!("Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service");
        return vec![tell("ClusterIPOutOfRange", words)];
    }
    let allocate = |replace| Step::Allocate { ip, namespace: namespace.to_owned(), name: name.to_owned(), replace };
    let Some(address) = addresses.get(ip.to_string().as_str()) else {
        let words = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
        return vec![tell("ClusterIPNotAllocated", words), allocate(false)];
    };
    let holder = service_of(address);
    if holder == Some((namespace, name)) {
        return if is_labelled(address) { Vec::new() } else { vec![allocate(true)] };
    }
    match holder.and_then(|key| services.get(&key)).filter(|other| has(other, &ip.to_string())) {
        Some(_) => {
            let words =
                format!("Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service");
            vec![tell("ClusterIPAlreadyAllocated", words)]
        }
        None => {
            let words = format!(
                "the ClusterIP [{family}]: {ip} for Service {namespace}/{name} has a wrong reference; repairing"
            );
            vec![tell("ClusterIPNotAllocated", words), allocate(true)]
        }
    }
}

fn of_address(address: &Value, services: &BTreeMap<Key<'_>, &Value>, age: i64) -> Vec<Step> {
    let name = text(address, "metadata.name").to_owned();
    let release = |reason, message| {
        let about = About::IpAddress { name: name.clone() };
        vec![Step::Tell { about, reason, message }, Step::Release { name: name.clone() }]
    };
    let Some((namespace, of)) = service_of(address) else {
        let words = format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up");
        return release("IPAddressNotAllocated", words);
    };
    match services.get(&(namespace, of)) {
        None if age <= ORPHAN_SECONDS => Vec::new(),
        None => {
            let words = format!("IPAddress: {name} for Service {namespace}/{of} appears to have leaked: cleaning up");
            release("IPAddressNotAllocated", words)
        }
        Some(service) if has(service, &name) => Vec::new(),
        Some(_) => {
            let words = format!("IPAddress: {name} for Service {namespace}/{of} has a wrong reference; cleaning up");
            release("IPAddressWrongReference", words)
        }
    }
}

/// Of two Services with one port it is the one's that the record names, else the first one's.
pub fn ports(view: &PortView<'_>) -> Vec<Step> {
    let held = |service: &Value| super::ports::held(service).into_iter().collect::<BTreeSet<u16>>();
    let owner = |service: &Value| key(service).0.to_owned() + "/" + key(service).1;
    let mut holders: BTreeMap<u16, Vec<&Value>> = BTreeMap::new();
    for service in view.services {
        held(service).into_iter().for_each(|port| holders.entry(port).or_default().push(service));
    }
    let mut steps = Vec::new();
    for (port, services) in &holders {
        let told = |service: &Value, reason, message| {
            let (namespace, name) = key(service);
            let about = About::Service { namespace: namespace.to_owned(), name: name.to_owned() };
            Step::Tell { about, reason, message }
        };
        if !view.range.contains(port) {
            let (first, last) = (view.range.start(), view.range.end());
            let words = || format!("Port {port} is not within the port range {first}-{last}; please recreate service");
            steps.extend(services.iter().map(|service| told(service, "PortOutOfRange", words())));
            continue;
        }
        let recorded = services.iter().position(|service| view.records.get(port) == Some(&owner(service)));
        let mine = recorded.unwrap_or(0);
        if recorded.is_none() {
            let words = format!("Port {port} is not allocated; repairing");
            steps.push(told(services[mine], "PortNotAllocated", words));
            steps.push(Step::Record { port: *port, owner: owner(services[mine]) });
        }
        for (_, service) in services.iter().enumerate().filter(|(i, _)| *i != mine) {
            let words = format!("Port {port} was assigned to multiple services; please recreate service");
            steps.push(told(service, "PortAlreadyAllocated", words));
        }
    }
    let leaked = view.records.keys().filter(|port| !holders.contains_key(port));
    steps.extend(leaked.map(|port| Step::Forget { port: *port }));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alloc::addresses::ip_address;
    use serde_json::json;

    fn service(name: &str, ips: &[&str]) -> Value {
        json!({"metadata": {"namespace": "d", "name": name}, "spec": {"type": "ClusterIP", "clusterIPs": ips}})
    }

    fn address(ip: &str, of: &str) -> Value {
        ip_address(ip.parse().unwrap(), "d", of)
    }

    fn run(services: &[Value], addresses: &[Value], age: i64) -> Vec<String> {
        let mut ranges = Ranges::default();
        ranges.learn(&json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00::/108"]}}));
        let view = View { services, addresses, ranges: &ranges, age: &|_| age };
        plan(&view).into_iter().map(words).collect()
    }

    fn words(step: Step) -> String {
        match step {
            Step::Allocate { ip, name, replace, .. } => {
                format!("allocate {ip} {name}{}", if replace { " anew" } else { "" })
            }
            Step::Release { name } => format!("release {name}"),
            Step::Record { port, owner } => format!("record {port} {owner}"),
            Step::Forget { port } => format!("forget {port}"),
            Step::Tell { reason, message, .. } => format!("{reason}: {message}"),
        }
    }

    #[test]
    fn node_ports_and_their_records() {
        let service = |name: &str, ports: &[u16], check: u16| {
            let ports: Vec<Value> = ports.iter().map(|p| json!({"nodePort": p})).collect();
            json!({"metadata": {"namespace": "d", "name": name}, "spec": {"ports": ports, "healthCheckNodePort": check}})
        };
        let check = |services: &[Value], records: &[(u16, &str)], expect: &[&str]| {
            let records = records.iter().map(|(port, owner)| (*port, (*owner).to_owned())).collect();
            let view = PortView { services, records: &records, range: &(30000..=30009) };
            assert_eq!(ports(&view).into_iter().map(words).collect::<Vec<_>>(), expect);
        };
        let a = || service("a", &[30001, 30001], 30002);
        check(&[a()], &[(30001, "d/a"), (30002, "d/a")], &[]);
        let repaired = ["PortNotAllocated: Port 30002 is not allocated; repairing", "record 30002 d/a"];
        check(&[a()], &[(30001, "d/a")], &repaired);
        check(&[a()], &[(30001, "d/a"), (30002, "d/gone")], &repaired);
        check(&[a()], &[(30001, "d/a"), (30002, "d/a"), (30003, "d/gone")], &["forget 30003"]);
        let twice = "PortAlreadyAllocated: Port 30001 was assigned to multiple services; please recreate service";
        check(&[service("a", &[30001], 0), service("b", &[30001], 0)], &[(30001, "d/b")], &[twice]);
        let out = "PortOutOfRange: Port 31000 is not within the port range 30000-30009; please recreate service";
        check(&[service("a", &[31000], 0)], &[(31000, "d/a")], &[out]);
        assert_eq!(teller("PortOutOfRange"), "portallocator-repair-controller");
    }

    #[test]
    fn what_fits_is_left_alone() {
        let services = [service("a", &["10.96.0.1", "fd00::1"]), service("b", &["None"])];
        assert_eq!(run(&services, &[address("10.96.0.1", "a"), address("fd00::1", "a")], 100), [""; 0]);
        // Addresses that others made are theirs.
        let foreign =
            json!({"metadata": {"name": "192.0.2.1"}, "spec": {"parentRef": {"resource": "gateways", "name": "g"}}});
        assert_eq!(run(&[], &[foreign], 100), [""; 0]);
        let external = json!({"metadata": {"namespace": "d", "name": "e"}, "spec": {"type": "ExternalName"}});
        assert_eq!(run(&[external], &[], 0), [""; 0]);
    }

    #[test]
    fn services_get_their_addresses_back() {
        let check = |addresses: &[Value], expect: &[&str]| {
            assert_eq!(run(&[service("a", &["10.96.0.1"]), service("b", &["10.96.0.2"])], addresses, 100), expect);
        };
        let b = || address("10.96.0.2", "b");
        check(
            &[b()],
            &[
                "ClusterIPNotAllocated: Cluster IP [IPv4]: 10.96.0.1 is not allocated; repairing",
                "allocate 10.96.0.1 a",
            ],
        );
        let wrong =
            "ClusterIPNotAllocated: the ClusterIP [IPv4]: 10.96.0.1 for Service d/a has a wrong reference; repairing";
        let mut gateway = address("10.96.0.1", "a");
        gateway["spec"]["parentRef"] = json!({"group": "g.io", "resource": "gateways", "name": "g"});
        gateway["metadata"]["labels"] = json!({});
        check(&[b(), gateway], &[wrong, "allocate 10.96.0.1 a anew"]);
        let mut unlabelled = address("10.96.0.1", "a");
        unlabelled["metadata"]["labels"] = json!({});
        check(&[b(), unlabelled], &["allocate 10.96.0.1 a anew"]);
        check(&[b(), address("10.96.0.1", "b")], &[wrong, "allocate 10.96.0.1 a anew"]);
        let third = "IPAddressWrongReference: IPAddress: 10.96.0.3 for Service d/b has a wrong reference; cleaning up";
        check(&[b(), address("10.96.0.1", "a"), address("10.96.0.3", "b")], &[third, "release 10.96.0.3"]);
    }

    #[test]
    fn what_cannot_be_repaired_is_told() {
        let both = [service("a", &["10.96.0.1"]), service("b", &["10.96.0.1"])];
        assert_eq!(
            run(&both, &[address("10.96.0.1", "a")], 100),
            [
                "ClusterIPAlreadyAllocated: Cluster IP [IPv4]:10.96.0.1 was assigned to multiple services; please recreate service"
            ]
        );
        assert_eq!(
            run(&[service("a", &["10.1.0.1"])], &[], 0),
            [
                "ClusterIPOutOfRange: Cluster IP [IPv4]: 10.1.0.1 is not within any configured Service CIDR; please recreate service"
            ]
        );
        assert_eq!(
            run(&[service("a", &["x"])], &[], 0),
            ["ClusterIPNotValid: Cluster IP x is not a valid IP; please recreate Service"]
        );
    }

    #[test]
    fn orphans_go_after_a_while() {
        assert_eq!(run(&[], &[address("10.96.0.1", "a")], 60), [""; 0]);
        assert_eq!(
            run(&[], &[address("10.96.0.1", "a")], 61),
            [
                "IPAddressNotAllocated: IPAddress: 10.96.0.1 for Service d/a appears to have leaked: cleaning up",
                "release 10.96.0.1"
            ]
        );
    }
}
