//! Removes garbage pods, every now and then.

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::plan::{self, Missing};
use crate::{
    Job,
    context::Context,
    object::{is_not_found, is_over, name, namespace},
};

const IDENTITY: &str = "pod-garbage-collector";
const PERIOD: Duration = Duration::from_secs(20);

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let (pods, nodes) = (cx.cache::<Pod>(), cx.cache::<Node>());
    let (client, cx) = (cx.client(IDENTITY), cx.clone());
    Box::pin(async move {
        cx.synced().await;
        let mut missing = Missing::default();
        let mut round = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                () = cx.stop.cancelled() => return,
                _ = round.tick() => {}
            }
            let all = pods.all();
            let known: HashSet<String> = nodes.all().iter().map(|n| name(&n.metadata).into()).collect();
            let gone = really_gone(&client, missing.look(&all, &known, Timestamp::now())).await;
            let garbage = plan::plan(&all, &gone);
            for pod in &garbage.orphans {
                report(fail(&client, pod).await, pod);
            }
            for pod in garbage.orphans.iter().chain(&garbage.leftovers) {
                report(delete(&client, pod).await, pod);
            }
        }
    })
}

/// A missing node in a cache is not proof; the server's answer is.
async fn really_gone(client: &Client, nodes: HashSet<String>) -> HashSet<String> {
    let api: Api<Node> = Api::all(client.clone());
    let mut gone = HashSet::new();
    for node in nodes {
        if let Ok(None) = api.get_metadata_opt(&node).await {
            gone.insert(node);
        }
    }
    gone
}

fn report(outcome: Result<(), Error>, pod: &Pod) {
    match outcome {
        Err(error) if !is_not_found(&error) => {
            tracing::warn!(namespace = namespace(&pod.metadata), pod = name(&pod.metadata), %error, "garbage pod stays");
        }
        _ => {}
    }
}

async fn fail(client: &Client, pod: &Pod) -> Result<(), Error> {
    if is_over(pod) {
        return Ok(());
    }
    let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists", "lastTransitionTime": Timestamp::now().to_string()});
    let patch = Patch::Strategic(json!({"status": {"phase": "Failed", "conditions": [target]}}));
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace(&pod.metadata));
    api.patch_status(name(&pod.metadata), &PatchParams::default(), &patch).await.map(drop)
}

async fn delete(client: &Client, pod: &Pod) -> Result<(), Error> {
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(same), ..Default::default() };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace(&pod.metadata));
    api.delete(name(&pod.metadata), &params).await.map(drop)
}
