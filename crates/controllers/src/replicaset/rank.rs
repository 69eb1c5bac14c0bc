//! Which of a ReplicaSet's pods go first when there are too many: those whose loss is felt least.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};

use crate::object::{annotation, is_ready, node_of, phase, ready_since, uid};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Smaller goes first.
type Rank = (bool, u8, bool, i32, Reverse<usize>, Reverse<u32>, Reverse<i32>, Reverse<u32>, String);

/// The `count` pods to delete. `related` are the pods of all ReplicaSets of the same owner: a node that holds more of
/// them gives one up before others do.
pub(crate) fn victims(pods: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for node in related.iter().filter_map(|p| node_of(p)) {
        *on_node.entry(node).or_default() += 1;
    }
    let mut sorted: Vec<(Rank, &Arc<Pod>)> = pods.iter().map(|p| (rank(p, &on_node, now), p)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted.into_iter().take(count).map(|(_, p)| p.clone()).collect()
}

fn rank(pod: &Pod, on_node: &HashMap<&str, usize>, now: Timestamp) -> Rank {
    let node = node_of(pod);
    let phase = match phase(pod) {
        "" | "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = annotation(&pod.metadata, DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0);
    let crowd = node.and_then(|n| on_node.get(n)).copied().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    (
        node.is_some(),
        phase,
        is_ready(pod),
        cost,
        Reverse(crowd),
        Reverse(youth(ready_since(pod), now)),
        Reverse(restarts(pod)),
        Reverse(youth(Some(created), now)),
        uid(&pod.metadata).to_string(),
    )
}

/// Ages count by their order of magnitude only, so that pods of about one age go in random (uid) order.
fn youth(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let seconds = since.map_or(0, |s| now.as_second().saturating_sub(s.as_second()).max(0));
    64 - (64 - (seconds as u64).leading_zeros())
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}
