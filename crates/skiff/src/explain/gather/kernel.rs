//! The rules of a node: as its kernel has them, and as they ought to be by the API's objects. Where a packet goes is asked
//! of both by the same simulator.

use std::{io, net::IpAddr};

use kube::runtime::watcher::Event;
use skiff_nft::{
    Data, Family, Kernel, Netlink, Ownership, Packed, State, Table, TableRef,
    trace::{Origin, Outcome, Packet, World, trace},
};
use skiff_proxy::{
    Surroundings, TABLE,
    ruleset::{Class, Ruleset},
};
use skiff_services::{
    model::{Service, Slice},
    snapshot::Snapshot,
};

use super::place::Local;
use crate::explain::{
    evidence::{Cluster, Kind, Seen, Way},
    objects::{name, node_ips},
};

/// The proxy's map of frontends.
const SERVICES: &str = "services";

pub(super) struct Rules {
    /// By family; a missing table is None.
    kernel: Seen<State>,
    wanted: State,
    world: World,
}

impl Rules {
    pub(super) fn of(node: &str, cluster: &Cluster, local: &Local) -> Self {
        let addresses = cluster.nodes.iter().find(|n| name(&n.metadata) == node).map_or_else(Vec::new, node_ips);
        let ip = addresses.first().copied().unwrap_or(local.config.host_ip().into());
        let mut all = addresses;
        all.push(local.config.dns_ip().into());
        Rules {
            kernel: local.on_node(node, || async { dump().map_err(io::Error::other) }),
            wanted: wanted(node, ip, cluster, local),
            world: World { local: all, ..World::default() },
        }
    }

    /// What becomes of the way's first packet, in the kernel and by right; and the element that decides it.
    pub(super) fn trace(&self, way: &Way) -> (Seen<Option<Outcome>>, Outcome, Option<String>) {
        let id = TableRef::new(Family::of(way.to.ip()), TABLE);
        let packet = packet(way);
        let ask = |table: &Table| trace(table, &self.world, packet);
        let kernel = self.kernel.as_ref().map(|state| state.get(&id).map(ask)).map_err(Clone::clone);
        let wanted = self.wanted.get(&id).map(ask).unwrap_or_default();
        let element = self.kernel.as_ref().ok().and_then(|state| element(state.get(&id)?, way));
        (kernel, wanted, element)
    }
}

fn dump() -> Result<State, skiff_nft::Error> {
    let mut kernel = Netlink::open(Ownership::Shared)?;
    let mut state = State::new();
    for family in [Family::Ip, Family::Ip6] {
        let id = TableRef::new(family, TABLE);
        if let Some(table) = kernel.dump(&id)? {
            state.insert(id, table);
        }
    }
    Ok(state)
}

/// The same rules as the node's proxy makes, from what the API says now.
fn wanted(node: &str, ip: IpAddr, cluster: &Cluster, local: &Local) -> State {
    let mut snapshot = Snapshot::default();
    cluster.services.iter().filter_map(Service::from_api).for_each(|s| {
        snapshot.apply_service(s);
    });
    cluster.slices.iter().filter_map(Slice::from_api).for_each(|s| {
        snapshot.apply_slice(s);
    });
    let mut around = Surroundings::default();
    if let Some(node) = cluster.nodes.iter().find(|n| name(&n.metadata) == node) {
        around.node(&Event::Apply(node.clone()));
    }
    cluster.service_cidrs.iter().for_each(|c| around.service_cidr(&Event::Apply(c.clone())));
    let config = local.proxy_config(node, ip);
    let mut rules = Ruleset::new(&config.table, around.networks(&config), around.node_view(&config));
    rules.rebuild(around.node_view(&config), around.networks(&config), &snapshot);
    rules.tables()
}

fn packet(way: &Way) -> Packet {
    let from_node = way.from.kind == Kind::Node || way.from.host_network;
    Packet {
        origin: if from_node { Origin::Node } else { Origin::Outside },
        saddr: way.from.ip,
        daddr: way.to.ip(),
        proto: way.protocol.number(),
        dport: way.to.port(),
    }
}

/// The frontend's element as a person can find it in `nft list`.
fn element(table: &Table, way: &Way) -> Option<String> {
    let key = Packed::new().addr(way.to.ip()).proto(way.protocol.number()).port(way.to.port());
    let value = table.sets.get(SERVICES)?.elements.get(&key)?;
    let Data::Packed(data) = &value.data else { return None };
    let (inside, outside) = (Class(data.number_at(4)?), Class(data.number_at(8)?));
    let classes = if inside == outside { inside.to_string() } else { format!("{inside} (from outside: {outside})") };
    let comment = value.comment.as_deref().map_or(String::new(), |c| format!(" {c:?}"));
    let protocol = way.protocol.to_string().to_lowercase();
    Some(format!("{SERVICES}[{} . {protocol} . {}] = {classes}{comment}", way.to.ip(), way.to.port()))
}
