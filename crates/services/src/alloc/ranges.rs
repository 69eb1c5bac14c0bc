//! The cluster's ranges of service addresses, as its ServiceCIDR objects say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use skiff_api::json::{get, text, texts};

/// The range that every cluster has: its families are the cluster's own, the first one before the other.
pub const DEFAULT_RANGE: &str = "kubernetes";
/// A range that is to go stays until no Service needs it any more.
pub const RANGE_FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    cidrs: Vec<IpNet>,
    /// No new addresses out of it.
    terminating: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Ranges(BTreeMap<String, Range>);

impl Ranges {
    /// A ServiceCIDR was written.
    pub fn learn(&mut self, object: &Value) {
        let cidrs = texts(object, "spec.cidrs").into_iter().filter_map(|c| c.parse().ok()).collect();
        let terminating = get(object, "metadata.deletionTimestamp").is_some();
        self.0.insert(text(object, "metadata.name").to_owned(), Range { cidrs, terminating });
    }

    /// A ServiceCIDR is gone.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// What addresses may be given out of: the default range first, the others by name.
    pub fn usable(&self) -> Vec<IpNet> {
        let default = self.0.get_key_value(DEFAULT_RANGE);
        let others = self.0.iter().filter(|(name, _)| *name != DEFAULT_RANGE);
        let ready = default.into_iter().chain(others).filter(|(_, range)| !range.terminating);
        ready.flat_map(|(_, range)| range.cidrs.iter().copied()).collect()
    }

    /// Whether any range has the address, also one that is to go.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.values().flat_map(|range| &range.cidrs).any(|cidr| cidr.contains(&ip))
    }

    /// The ranges that are to go.
    pub fn terminating(&self) -> Vec<String> {
        self.0.iter().filter(|(_, range)| range.terminating).map(|(name, _)| name.clone()).collect()
    }

    /// Whether an address would be in no range any more without this one.
    pub fn is_needed(&self, name: &str, mut ips: impl Iterator<Item = IpAddr>) -> bool {
        let Some(range) = self.0.get(name) else { return false };
        let others = || self.0.iter().filter(|(other, _)| *other != name).flat_map(|(_, range)| &range.cidrs);
        let within = range.cidrs.iter().all(|cidr| others().any(|other| other.contains(cidr)));
        !within
            && ips
                .any(|ip| range.cidrs.iter().any(|cidr| cidr.contains(&ip)) && !others().any(|cidr| cidr.contains(&ip)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(name: &str, cidrs: &[&str], going: bool) -> Value {
        let mut range = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        if going {
            range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        range
    }

    fn ranges(all: &[Value]) -> Ranges {
        let mut ranges = Ranges::default();
        all.iter().for_each(|r| ranges.learn(r));
        ranges
    }

    fn shown(ranges: &Ranges) -> Vec<String> {
        ranges.usable().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_default_range_comes_first_and_those_that_go_give_nothing() {
        let mut all = ranges(&[
            range("a", &["10.0.0.0/24"], false),
            range("kubernetes", &["10.96.0.0/12", "fd00::/108"], false),
            range("b", &["10.1.0.0/24"], true),
        ]);
        assert_eq!(shown(&all), ["10.96.0.0/12", "fd00::/108", "10.0.0.0/24"]);
        assert_eq!(all.terminating(), ["b"]);
        assert!(all.contains("10.1.0.9".parse().unwrap()), "it is still a range");
        all.forget("b");
        assert!(!all.contains("10.1.0.9".parse().unwrap()));
    }

    #[test]
    fn a_range_is_needed_while_an_address_is_in_no_other() {
        let check = |others: &[Value], ips: &[&str], needed: bool| {
            let mut all = vec![range("x", &["10.1.0.0/24"], true)];
            all.extend_from_slice(others);
            let ips = ips.iter().map(|ip| ip.parse().unwrap());
            assert_eq!(ranges(&all).is_needed("x", ips), needed);
        };
        check(&[], &[], false);
        check(&[], &["10.2.0.1"], false);
        check(&[], &["10.2.0.1", "10.1.0.1"], true);
        check(&[range("y", &["10.1.0.0/16"], false)], &["10.1.0.1"], false);
        check(&[range("y", &["10.1.0.0/28"], false)], &["10.1.0.1"], false);
        check(&[range("y", &["10.1.0.0/28"], false)], &["10.1.0.200"], true);
    }
}
