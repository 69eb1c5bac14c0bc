//! Follows the nodes of the cluster and keeps the routes to their pods.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use skiff_client::life::Stop;
use tracing::warn;

use crate::{
    network::routes::{Routes, plan},
    pod::context::Context,
};

pub(super) async fn run(ctx: Arc<Context>, stop: Stop) {
    let mut events =
        watcher(Api::<Node>::all(ctx.client.clone()), watcher::Config::default()).default_backoff().boxed();
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
            Some(Ok(watcher::Event::Init)) => fresh.clear(),
            Some(Ok(watcher::Event::InitApply(node))) => drop(fresh.insert(name(&node), node)),
            Some(Ok(watcher::Event::InitDone)) => nodes = std::mem::take(&mut fresh),
            Some(Ok(watcher::Event::Apply(node))) => drop(nodes.insert(name(&node), node)),
            Some(Ok(watcher::Event::Delete(node))) => drop(nodes.remove(&name(&node))),
            Some(Err(e)) => warn!("the watch of nodes failed, trying again: {e}"),
            None => return,
        }
        // While a list is being read the old picture stands.
        let want = plan(nodes.values(), &ctx.config.node_name);
        if let Err(e) = ctx.network.apply_routes(&mut have, &want) {
            warn!("{e}");
        }
    }
}
