//! Services and IPAddress objects that do not fit: what to do about them. A write of a Service and of its addresses is one,
//! so this is for what clients did to IPAddress objects by hand, for stores that were restored, and for Services from
//! before there were such objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
        let words = |step| match step {
            Step::Allocate { ip, name, replace, .. } => {
                format!("allocate {ip} {name}{}", if replace { " anew" } else { "" })
            }
            Step::Release { name } => format!("release {name}"),
            Step::Tell { reason, message, .. } => format!("{reason}: {message}"),
        };
        plan(&view).into_iter().map(words).collect()
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
