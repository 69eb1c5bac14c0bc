//! Routes to the pod ranges of the other nodes, by way of their addresses. All nodes share one subnet.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use tracing::warn;

use super::{Error, Network, lock, messages};

/// Range to next hop.
pub type Routes = BTreeMap<IpNet, IpAddr>;

/// What the routing table should hold for pods elsewhere.
pub fn plan<'a>(nodes: impl IntoIterator<Item = &'a Node>, own_name: &str) -> Routes {
    let others = nodes.into_iter().filter(|n| n.metadata.name.as_deref() != Some(own_name));
    others.flat_map(|node| pairs(pod_ranges(node), internal_ips(node))).collect()
}

/// Each range by the node's address of its family.
fn pairs(ranges: Vec<IpNet>, ips: Vec<IpAddr>) -> impl Iterator<Item = (IpNet, IpAddr)> {
    let via = move |range: &IpNet| ips.iter().copied().find(|ip| ip.is_ipv4() == range.addr().is_ipv4());
    ranges.into_iter().filter_map(move |range| Some((range.trunc(), via(&range)?)))
}

/// spec.podCIDRs, or spec.podCIDR where only the old field is set.
pub fn pod_ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return vec![] };
    let all: Vec<_> = spec.pod_cidrs.iter().flatten().filter_map(|c| c.parse().ok()).collect();
    if all.is_empty() { spec.pod_cidr.iter().filter_map(|c| c.parse().ok()).collect() } else { all }
}

pub fn internal_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref()).into_iter().flatten();
    addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect()
}

pub fn diff(have: &Routes, want: &Routes) -> (Routes, Routes) {
    let add = want.iter().filter(|(k, v)| have.get(k) != Some(v)).map(|(k, v)| (*k, *v)).collect();
    let remove = have.iter().filter(|(k, _)| !want.contains_key(k)).map(|(k, v)| (*k, *v)).collect();
    (add, remove)
}

impl Network {
    /// Brings the routes in line; `have` is what the kernel accepted, afterwards as well.
    pub fn apply_routes(&self, have: &mut Routes, want: &Routes) -> Result<(), Error> {
        let (add, remove) = diff(have, want);
        let mut node = lock(&self.0.node);
        for (range, via) in remove {
            if let Err(e) = node.send(vec![messages::delete_remote_route(range, via)]) {
                warn!("{e}");
            }
            have.remove(&range);
        }
        for (range, via) in add {
            node.send(vec![messages::remote_route(range, via)])?;
            have.insert(range, via);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn node(name: &str, range: &str, ip: &str) -> Node {
        from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]}}))
        .unwrap()
    }

    #[test]
    fn routes_lead_to_the_other_nodes() {
        let nodes = [node("a", "10.244.0.0/24", "172.30.0.11"), node("b", "10.244.1.0/24", "172.30.0.12")];
        let want = plan(&nodes, "a");
        assert_eq!(format!("{want:?}"), "{10.244.1.0/24: 172.30.0.12}");
        let mut both = node("b", "10.244.1.0/24", "172.30.0.12");
        both.spec.get_or_insert_default().pod_cidrs.get_or_insert_default().push("fd00:1::/64".into());
        assert_eq!(format!("{:?}", plan([&both], "a")), "{10.244.1.0/24: 172.30.0.12}", "no IPv6 address to go by");
        let ip6 = from_value(json!({"type": "InternalIP", "address": "fd00::12"})).unwrap();
        both.status.get_or_insert_default().addresses.get_or_insert_default().push(ip6);
        let want = plan([&both], "a");
        assert_eq!(format!("{want:?}"), "{10.244.1.0/24: 172.30.0.12, fd00:1::/64: fd00::12}");
        let unready: Node = from_value(json!({"metadata": {"name": "c"}})).unwrap();
        assert_eq!(plan([&unready], "a"), Routes::new());
    }

    #[test]
    fn applying_the_difference_gives_what_is_wanted() {
        let routes = |list: &[(&str, &str)]| -> Routes {
            list.iter().map(|(r, v)| (r.parse().unwrap(), v.parse().unwrap())).collect()
        };
        let have = routes(&[("10.1.0.0/24", "172.30.0.2"), ("10.2.0.0/24", "172.30.0.3")]);
        let want = routes(&[("10.1.0.0/24", "172.30.0.9"), ("10.3.0.0/24", "172.30.0.4")]);
        let (add, remove) = diff(&have, &want);
        let mut result = have;
        result.retain(|k, _| !remove.contains_key(k));
        result.extend(add);
        assert_eq!(result, want);
    }
}
