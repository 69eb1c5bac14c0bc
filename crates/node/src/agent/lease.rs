//! The node's signs of life: its lease every ten seconds, its status every five minutes.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, api::core::v1::Node, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use skiff_client::life::Stop;
use tracing::warn;

use super::{object::Facts, register};
use crate::pod::context::Context;

const PERIOD: Duration = Duration::from_secs(10);
const SECONDS: i32 = 40;
/// Renewals between two reports of the status.
const REPORT: u32 = 30;

pub(super) async fn run(ctx: Arc<Context>, facts: Facts, stop: Stop) {
    let leases: Api<Lease> = Api::namespaced(ctx.client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0_u32.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(e) = renew(&leases, &facts.name).await {
            warn!("the node's lease could not be renewed: {e}");
        }
        if round % REPORT == REPORT - 1
            && let Err(e) = register::report(&nodes, &facts).await
        {
            warn!("the node's status could not be written: {e}");
        }
    }
}

async fn renew(api: &Api<Lease>, name: &str) -> kube::Result<()> {
    let spec =
        json!({"holderIdentity": name, "leaseDurationSeconds": SECONDS, "renewTime": MicroTime(Timestamp::now())});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec});
            let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
