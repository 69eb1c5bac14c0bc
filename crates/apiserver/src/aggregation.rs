//! ClusterRoles that are made of others by their labels also show the rules of those. Whoever is bound to them has the
//! rights either way; this is for who reads them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use skiff_api::apply;
use skiff_api::resources::{self, Resource};
use skiff_store::Expect;

use crate::access::RBAC;
use crate::call::Call;
use crate::storage::{ATTEMPTS, Miss};
use crate::{Server, object};

const MANAGER: &str = "clusterrole-aggregation-controller";

/// After a write or removal: when it was a ClusterRole, others may be made of it. A failure is repaired by the next.
pub(crate) async fn follow(call: &Call) {
    if call.resource().id() == (RBAC, "clusterroles") && call.server.access.aggregates() {
        show_all(&call.server).await;
    }
}

/// From now on; the objects of the start come with their rules filled in.
pub(crate) async fn begin(server: &Arc<Server>) {
    server.access.begin_aggregation();
    show_all(server).await;
}

async fn show_all(server: &Arc<Server>) {
    let Some(resource) = resources::find(RBAC, "v1", "clusterroles") else { return };
    for _ in 0..ATTEMPTS {
        let outdated = server.access.authorizer().outdated();
        if outdated.is_empty() {
            return;
        }
        for name in outdated {
            match show(server, resource, &name).await {
                Ok(()) | Err(Miss::Lost | Miss::Companion(_)) => {}
                Err(Miss::Failed(status)) => {
                    tracing::warn!(name, "the rules that this ClusterRole shows are not up to date: {status}");
                    return;
                }
            }
        }
    }
}

async fn show(server: &Server, resource: &Resource, name: &str) -> Result<(), Miss> {
    let Some(have) = server.storage.find(resource, None, name).await.map_err(Miss::Failed)? else { return Ok(()) };
    let mut next = have.value.clone();
    next["rules"] = json!(server.access.authorizer().cluster_role_rules(name));
    if next != have.value {
        apply::track_update(resource, Some(&have.value), &mut next, MANAGER, None, Timestamp::now());
        let key = object::key(resource, None, name);
        next = server.storage.put(resource, &key, next, Expect::Rev(have.rev)).await?.value;
    }
    server.access.learn(resource, &next);
    Ok(())
}
