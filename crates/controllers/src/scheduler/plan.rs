//! Where a pod goes.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Pod};

use super::{
    affinity,
    filter::{Room, obstacles, requests, taints, tolerates},
    neighbours::{Namespaces, Neighbours, World},
    quantity::milli,
};
use crate::object::{controller_of, is_deleted, is_over, name, node_of};

/// No node can take the pod.
#[derive(Debug, PartialEq)]
pub(crate) struct Unfit {
    pub message: String,
}

/// True for a pod that waits for this scheduler.
pub(crate) fn is_waiting(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec.scheduler_name.as_deref().is_none_or(|n| n.is_empty() || n == "default-scheduler");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    ours && !gated && node_of(pod).is_none() && !is_deleted(&pod.metadata) && !is_over(pod)
}

/// `placed` holds every pod that takes room on a node, with the node's name.
pub(crate) fn choose(
    pod: &Pod,
    nodes: &[Arc<Node>],
    placed: &[(&str, &Pod)],
    namespaces: &Namespaces,
) -> Result<String, Unfit> {
    let live: Vec<(&str, &Pod)> = placed.iter().filter(|(_, p)| !is_over(p)).copied().collect();
    let by_name = nodes.iter().map(|n| (name(&n.metadata), &**n)).collect();
    let world = World { nodes: by_name, placed: &live, namespaces };
    let neighbours = Neighbours::new(pod, &world);
    let mut rooms: BTreeMap<&str, Room> = nodes.iter().map(|n| (name(&n.metadata), Room::new(n))).collect();
    let family = controller_of(&pod.metadata).map(|o| &o.uid);
    for (node, other) in &live {
        let Some(room) = rooms.get_mut(node) else { continue };
        room.add(other);
        let sibling = family.is_some() && controller_of(&other.metadata).map(|o| &o.uid) == family;
        room.siblings += usize::from(sibling && !is_deleted(&other.metadata));
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fit: Vec<&Room> = vec![];
    for room in rooms.values() {
        let mut found = obstacles(pod, room);
        if found.is_empty() {
            found.extend(neighbours.obstacle(room.node).map(String::from));
        }
        match found {
            none if none.is_empty() => fit.push(room),
            some => some.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
    }
    let best = fit.into_iter().min_by_key(|room| cost(pod, room, &neighbours));
    best.map(|room| name(&room.node.metadata).to_string()).ok_or_else(|| unfit(nodes.len(), &reasons))
}

/// Smaller is better: what the user asked for first, then spreading, then room.
fn cost(pod: &Pod, room: &Room, neighbours: &Neighbours) -> impl Ord + use<> {
    let shunned = taints(room.node).iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerates(pod, t)).count();
    let liked = i64::from(affinity::preference(pod, room.node)) + neighbours.preference(room.node);
    let crowd = neighbours.crowd(room.node);
    (
        shunned,
        std::cmp::Reverse(liked),
        crowd,
        room.siblings,
        load(pod, room),
        room.pods,
        name(&room.node.metadata).to_string(),
    )
}

/// How full the node would be, in thousandths of its scarcest resource.
fn load(pod: &Pod, room: &Room) -> i128 {
    let allocatable = room.node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let share = |resource: &str, wanted: &i128| {
        let all = allocatable.and_then(|a| a.get(resource)).and_then(|q| milli(&q.0)).filter(|a| *a > 0)?;
        Some((room.used.get(resource).copied().unwrap_or(0) + wanted).saturating_mul(1000) / all)
    };
    requests(pod).iter().filter_map(|(resource, wanted)| share(resource, wanted)).max().unwrap_or(0)
}

fn unfit(nodes: usize, reasons: &BTreeMap<String, usize>) -> Unfit {
    if nodes == 0 {
        return Unfit { message: "no nodes available to schedule pods".into() };
    }
    let mut list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    list.sort();
    Unfit { message: format!("0/{nodes} nodes are available: {}.", list.join(", ")) }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
