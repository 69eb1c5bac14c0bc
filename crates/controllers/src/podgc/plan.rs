//! Which pods are garbage.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};

use crate::object::{is_deleted, is_over, node_of};

/// A node may be made again under its name; its pods wait so long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// So many ended pods are kept for people to look at.
const KEPT: usize = 12_500;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Garbage {
    /// On a node that is gone: nobody will report that they ended.
    pub orphans: Vec<Arc<Pod>>,
    /// Ended or ending, and nobody else deletes them.
    pub leftovers: Vec<Arc<Pod>>,
}

/// Since when each node that pods name is missing.
#[derive(Debug, Default)]
pub(crate) struct Missing(HashMap<String, Timestamp>);

impl Missing {
    /// Nodes that are missing for long enough.
    pub(crate) fn look(&mut self, pods: &[Arc<Pod>], nodes: &HashSet<String>, now: Timestamp) -> HashSet<String> {
        let named: HashSet<&str> = pods.iter().filter_map(|p| node_of(p)).filter(|n| !nodes.contains(*n)).collect();
        self.0.retain(|node, _| named.contains(node.as_str()));
        for node in named {
            self.0.entry(node.into()).or_insert(now);
        }
        let long = |since: &Timestamp| now.as_second() - since.as_second() >= QUARANTINE.as_secs() as i64;
        self.0.iter().filter(|(_, since)| long(since)).map(|(node, _)| node.clone()).collect()
    }
}

pub(crate) fn plan(pods: &[Arc<Pod>], missing: &HashSet<String>) -> Garbage {
    let mut garbage = Garbage::default();
    let mut ended = vec![];
    for pod in pods {
        match node_of(pod) {
            Some(node) if missing.contains(node) => garbage.orphans.push(pod.clone()),
            None if is_deleted(&pod.metadata) => garbage.leftovers.push(pod.clone()),
            _ if is_over(pod) && !is_deleted(&pod.metadata) => ended.push(pod.clone()),
            _ => {}
        }
    }
    ended.sort_by_key(|p| (p.metadata.creation_timestamp.clone(), p.metadata.name.clone()));
    ended.truncate(ended.len().saturating_sub(KEPT));
    garbage.leftovers.extend(ended);
    garbage
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::fixture::{at, changed, now, pod_of, set};

    #[test]
    fn table() {
        let base = pod_of(&set("web", 1), "a");
        let unscheduled = |p: &mut Pod| p.spec.as_mut().unwrap().node_name = None;
        let waiting = changed(&base, unscheduled);
        let dying = changed(&base, |p| {
            unscheduled(p);
            p.metadata.deletion_timestamp = Some(Time(now()));
        });
        let here = Arc::new(base);
        let nobody = HashSet::new();
        assert_eq!(plan(&[here.clone(), waiting.clone()], &nobody), Garbage::default());
        assert_eq!(plan(std::slice::from_ref(&dying), &nobody).leftovers, [dying]);
        assert_eq!(plan(&[here.clone(), waiting], &["n1".to_string()].into()).orphans, [here]);
    }

    #[test]
    fn a_node_is_missing_only_after_a_while() {
        let pods = [Arc::new(pod_of(&set("web", 1), "a"))];
        let (nobody, there) = (HashSet::new(), HashSet::from(["n1".to_string()]));
        let mut missing = Missing::default();
        assert!(missing.look(&pods, &nobody, at(0)).is_empty());
        assert!(missing.look(&pods, &nobody, at(39)).is_empty());
        assert_eq!(missing.look(&pods, &nobody, at(40)), there);
        assert!(missing.look(&pods, &there, at(41)).is_empty());
        assert!(missing.look(&pods, &nobody, at(42)).is_empty(), "it came back: the time starts anew");
    }
}
