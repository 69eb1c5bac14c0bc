//! Writes the ranges into the nodes, one node at a time.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Error,
    api::{Patch, PatchParams},
};
use serde_json::json;
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};

use super::plan;
use crate::{
    Job, PodRange,
    context::{Context, Reconcile, on_self},
    object::name,
};

const IDENTITY: &str = "node-controller";

struct Controller {
    ranges: Vec<PodRange>,
    nodes: Arc<Cache<Node>>,
    api: Api<Node>,
    events: Recorder,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        ranges: cx.config.pod_ranges.clone(),
        nodes: cx.cache(),
        api: Api::all(cx.client(IDENTITY)),
        events: cx.recorder(IDENTITY, IDENTITY),
    };
    on_self(&me.nodes, &queue);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "nodeipam";
    /// Two choices at once could be the same.
    const PARALLEL: usize = 1;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(node) = self.nodes.get(&key).filter(|n| ranges(n).is_empty()) else { return Ok(Done::Settled) };
        let taken: Vec<IpNet> = self.nodes.all().iter().flat_map(|n| ranges(n)).collect();
        let chosen = self.ranges.iter().map(|r| plan::choose(r.cluster, r.node_mask, &taken));
        let Some(chosen) = chosen.collect::<Option<Vec<_>>>() else {
            let words = format!("Node {} status is now: CIDRNotAvailable", name(&node.metadata));
            self.events.normal(&*node, "CIDRNotAvailable", words);
            return Ok(Done::Again(std::time::Duration::from_secs(60)));
        };
        let spec = json!({"spec": {"podCIDR": chosen.first(), "podCIDRs": chosen}});
        self.nodes.put(self.api.patch(&key.name, &PatchParams::default(), &Patch::Merge(spec)).await?);
        Ok(Done::Settled)
    }
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let all =
        spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().chain(spec.and_then(|s| s.pod_cidr.as_ref()));
    all.filter_map(|r| r.parse().ok()).collect()
}
