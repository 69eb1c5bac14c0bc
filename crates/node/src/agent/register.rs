//! Makes or renews the Node object, and waits for the range of addresses that the cluster gives the node.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use skiff_client::life::Stop;
use tracing::warn;

use super::{
    Error,
    object::{self, Facts},
};
use crate::network::routes::pod_ranges;

/// The node's pod range; `None` when told to stop first.
pub(super) async fn register(client: &kube::Client, facts: &Facts, stop: &Stop) -> Result<Option<IpNet>, Error> {
    let api: Api<Node> = Api::all(client.clone());
    let mut wait = Duration::from_millis(50);
    loop {
        let failed = match announce(&api, facts).await {
            Ok(()) => break,
            Err(e) => e,
        };
        if let kube::Error::Api(status) = &failed
            && matches!(status.code, 400..=403 | 422)
        {
            return Err(Error::Register { name: facts.name.clone(), cause: failed });
        }
        warn!("the node could not be registered yet, trying again: {failed}");
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(5)),
        }
    }
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        range = range(&api, &facts.name) => Ok(range),
    }
}

async fn announce(api: &Api<Node>, facts: &Facts) -> kube::Result<()> {
    match api.create(&PostParams::default(), &object::node(facts)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let labels = json!({"metadata": {"labels": object::labels(facts)}});
            api.patch(&facts.name, &PatchParams::default(), &Patch::Merge(labels)).await?;
        }
        Err(e) => return Err(e),
    }
    report(api, facts).await
}

/// Writes the node's status.
pub(super) async fn report(api: &Api<Node>, facts: &Facts) -> kube::Result<()> {
    let before = api.get(&facts.name).await?.status.unwrap_or_default();
    let status = object::status(facts, before.conditions.as_deref().unwrap_or_default(), Timestamp::now());
    let patch = Patch::Strategic(json!({"status": status}));
    api.patch_status(&facts.name, &PatchParams::default(), &patch).await.map(drop)
}

async fn range(api: &Api<Node>, name: &str) -> Option<IpNet> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let nodes = watcher(api.clone(), config).default_backoff().applied_objects();
    let given = nodes.inspect_err(|e| warn!("the watch of the node failed, trying again: {e}"));
    let mut given =
        given.filter_map(|n| async move { pod_ranges(&n.ok()?).into_iter().find(|r| r.addr().is_ipv4()) }).boxed();
    given.next().await
}
