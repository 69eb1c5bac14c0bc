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
    reconcile::{self, Done, Queue},
};

use super::plan;
use crate::{
    Job,
    context::{Context, on_self},
    object::name,
};

const IDENTITY: &str = "node-controller";

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let nodes: Arc<Cache<Node>> = cx.cache();
    on_self(&nodes, &queue);
    let events = cx.recorder(IDENTITY, IDENTITY);
    let (api, cx) = (Api::all(cx.client(IDENTITY)), cx.clone());
    Box::pin(async move {
        cx.synced().await;
        // One at a time: two choices at once could be the same.
        let (config, nodes, api, events) = (&cx.config, &nodes, &api, &events);
        reconcile::run("nodeipam", queue, 1, cx.stop.clone(), |key| async move {
            give(config.cluster_cidr, config.node_mask, nodes, api, events, key).await
        })
        .await;
    })
}

async fn give(
    cluster: IpNet,
    mask: u8,
    nodes: &Cache<Node>,
    api: &Api<Node>,
    events: &Recorder,
    key: Key,
) -> Result<Done, Error> {
    let Some(node) = nodes.get(&key).filter(|n| ranges(n).is_empty()) else { return Ok(Done::Settled) };
    let taken: Vec<IpNet> = nodes.all().iter().flat_map(|n| ranges(n)).collect();
    let Some(range) = plan::choose(cluster, mask, &taken) else {
        let words = format!("Node {} status is now: CIDRNotAvailable", name(&node.metadata));
        events.normal(&*node, "CIDRNotAvailable", words);
        return Ok(Done::Again(std::time::Duration::from_secs(60)));
    };
    let spec = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
    nodes.put(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(spec)).await?);
    Ok(Done::Settled)
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let all =
        spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().chain(spec.and_then(|s| s.pod_cidr.as_ref()));
    all.filter_map(|r| r.parse().ok()).collect()
}
