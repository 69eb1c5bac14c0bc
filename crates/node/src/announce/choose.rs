//! Which addresses a node answers for. Pure: every node that knows the same comes to the same answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sha2::{Digest, Sha256};

/// A load balancer as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balancer {
    pub ips: Vec<IpAddr>,
    /// Policy Local: the nodes with a ready endpoint.
    pub only: Option<BTreeSet<String>>,
}

/// What the choice depends on besides who is heard.
pub(super) trait Cluster {
    fn balancers(&self) -> Vec<Balancer>;
    /// Ready, and not kept from balancers by their label.
    fn nodes(&self) -> BTreeSet<&str>;
}

/// The addresses that `me` answers for. With policy Local, nodes without a ready endpoint would drop what they get.
pub(super) fn mine(cluster: &impl Cluster, alive: &BTreeSet<&str>, me: &str) -> BTreeSet<IpAddr> {
    let nodes = cluster.nodes();
    let mut candidates: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    let balancers = cluster.balancers();
    for balancer in &balancers {
        let able = nodes.iter().filter(|n| balancer.only.as_ref().is_none_or(|only| only.contains(**n)));
        let able: BTreeSet<&str> = able.filter(|n| alive.contains(**n)).copied().collect();
        for ip in &balancer.ips {
            candidates.entry(*ip).or_default().extend(&able);
        }
    }
    candidates.into_iter().filter(|(ip, nodes)| winner(*ip, nodes) == Some(me)).map(|(ip, _)| ip).collect()
}

/// The highest of the nodes' weights for this address: addresses spread over the nodes, and when one node comes or goes
/// only the addresses that it wins or had move.
fn winner<'a>(ip: IpAddr, nodes: &BTreeSet<&'a str>) -> Option<&'a str> {
    nodes.iter().copied().max_by_key(|node| weight(ip, node))
}

fn weight(ip: IpAddr, node: &str) -> [u8; 32] {
    Sha256::new().chain_update(ip.to_string()).chain_update([0]).chain_update(node).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct World {
        balancers: Vec<Balancer>,
        nodes: Vec<&'static str>,
    }

    impl Cluster for World {
        fn balancers(&self) -> Vec<Balancer> {
            self.balancers.clone()
        }

        fn nodes(&self) -> BTreeSet<&str> {
            self.nodes.iter().copied().collect()
        }
    }

    fn world(count: u8, only: Option<&[&str]>) -> World {
        let only = only.map(|all| all.iter().map(|n| (*n).to_owned()).collect());
        let balancer = |i| Balancer { ips: vec![[172, 31, 255, i].into()], only: only.clone() };
        World { balancers: (1..=count).map(balancer).collect(), nodes: vec!["a", "b", "c"] }
    }

    /// Who answers for each address when these are alive; panics when two do.
    fn owners(world: &World, alive: &[&'static str]) -> BTreeMap<IpAddr, &'static str> {
        let mut owners = BTreeMap::new();
        for me in alive {
            for ip in mine(world, &alive.iter().copied().collect(), me) {
                assert_eq!(owners.insert(ip, *me), None, "{ip} has two owners");
            }
        }
        owners
    }

    #[test]
    fn each_address_has_one_node_and_the_work_is_spread() {
        let owners = owners(&world(90, None), &["a", "b", "c"]);
        assert_eq!(owners.len(), 90);
        for node in ["a", "b", "c"] {
            let share = owners.values().filter(|n| **n == node).count();
            assert!((15..=45).contains(&share), "{node} has {share} of 90");
        }
    }

    #[test]
    fn only_the_dead_node_s_addresses_move() {
        let world = world(50, None);
        let (before, after) = (owners(&world, &["a", "b", "c"]), owners(&world, &["a", "c"]));
        assert_eq!(after.len(), 50);
        for (ip, node) in before {
            assert!(node == "b" || after[&ip] == node, "{ip} moved without need");
        }
    }

    #[test]
    fn local_policy_needs_an_endpoint_and_unready_nodes_do_not_count() {
        let local = world(10, Some(&["b", "x"]));
        assert!(owners(&local, &["a", "b", "c"]).values().all(|n| *n == "b"));
        assert!(owners(&local, &["a", "c"]).is_empty());
        assert!(owners(&World { nodes: vec!["a"], ..world(10, None) }, &["a", "b"]).values().all(|n| *n == "a"));
    }
}
