//! The node's signs of life: its lease four times in its duration (every ten seconds), its status every five minutes.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, api::core::v1::Node, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use skiff_client::life::Stop;
use tokio::time::Instant;
use tracing::warn;

use super::{object::Facts, register};
use crate::pod::context::Context;

/// What the reference has.
pub const LEASE: Duration = Duration::from_secs(40);
/// Between two reports of the status.
const REPORT: Duration = Duration::from_secs(300);

pub(super) async fn run(ctx: Arc<Context>, facts: Facts, stop: Stop) {
    let leases: Api<Lease> = Api::namespaced(ctx.client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    let duration = ctx.config.lease;
    let mut reported = Instant::now();
    let mut ticks = tokio::time::interval((duration / 4).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(e) = renew(&leases, &facts.name, duration).await {
            warn!("the node's lease could not be renewed: {e}");
        }
        if reported.elapsed() >= REPORT {
            match register::report(&nodes, &facts).await {
                Ok(()) => reported = Instant::now(),
                Err(e) => warn!("the node's status could not be written: {e}"),
            }
        }
    }
}

async fn renew(api: &Api<Lease>, name: &str, duration: Duration) -> kube::Result<()> {
    // The API counts whole seconds.
    let seconds = duration.as_secs().max(1);
    let spec =
        json!({"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": MicroTime(Timestamp::now())});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec});
            let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
