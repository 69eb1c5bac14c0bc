//! Follows the nodes of the cluster and keeps the routes to their pods.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Node;
use skiff_client::{
    life::Stop,
    watch::{Config, Event, Watch},
};
use tracing::warn;

use crate::{
    network::routes::{Routes, plan},
    pod::context::Context,
};

pub(super) async fn run(ctx: Arc<Context>, stop: Stop) {
    let mut events = Watch::<Node>::all(&ctx.client, Config::default());
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    let mut fresh: BTreeMap<String, Node> = BTreeMap::new();
    let mut have = Routes::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
        match event {
            Event::Init => fresh.clear(),
            Event::InitApply(node) => drop(fresh.insert(name(&node), node)),
            Event::InitDone => nodes = std::mem::take(&mut fresh),
            Event::Apply(node) => drop(nodes.insert(name(&node), node)),
            Event::Delete(node) => drop(nodes.remove(&name(&node))),
        }
        // While a list is being read the old picture stands.
        let want = plan(nodes.values(), &ctx.config.node_name);
        if let Err(e) = ctx.network.apply_routes(&mut have, &want) {
            warn!("{e}");
        }
    }
}
