//! StatefulSets, DaemonSets and Jobs.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, StatefulSet},
    batch::v1::Job,
    core::v1::{Endpoints, Event, Node, Pod},
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    service,
    support::{Cluster, ResultExt, object},
};

fn set(name: &str, replicas: i32, more: Value) -> StatefulSet {
    let mut all = json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
    });
    all["spec"].as_object_mut().expect("a spec").extend(more.as_object().expect("an object").clone());
    object(all)
}

async fn names(cluster: &Cluster) -> String {
    let mut all: Vec<_> = cluster.list::<Pod>("default").await.iter().filter_map(|p| p.metadata.name.clone()).collect();
    all.sort();
    all.join(" ")
}

fn image(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_grows_rolls_and_shrinks_in_order() {
    let cluster = Cluster::start(&["n1"]).await;
    let api = cluster.api::<StatefulSet>("default");
    cluster.create("default", service("web", json!({"selector": {"app": "web"}, "clusterIP": "None"}))).await;
    cluster.create("default", set("web", 3, json!({}))).await;
    cluster.until("three pods", async || names(&cluster).await == "web-0 web-1 web-2").await;
    let hostnames = async || {
        let found = cluster.api::<Endpoints>("default").get_opt("web").await.or_fail();
        let addresses =
            found.and_then(|e| e.subsets).unwrap_or_default().into_iter().flat_map(|s| s.addresses.unwrap_or_default());
        let mut all: Vec<_> = addresses.filter_map(|a| a.hostname).collect();
        all.sort();
        all.join(" ") == "web-0 web-1 web-2"
    };
    cluster.until("their names stand in the Endpoints", hostnames).await;

    let change = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "v2"}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(change).expect("a patch"));
    api.patch("web", &PatchParams::default(), &patch).await.or_fail();
    let rolled = async || {
        let pods = cluster.list::<Pod>("default").await;
        let status = api.get("web").await.or_fail().status.unwrap_or_default();
        pods.len() == 3
            && pods.iter().all(|p| image(p) == "v2")
            && status.current_revision == status.update_revision
            && status.ready_replicas == Some(3)
    };
    cluster.until("rolled to v2", rolled).await;
    assert_eq!(cluster.list::<ControllerRevision>("default").await.len(), 2);

    let patch = Patch::Merge(json!({"spec": {"replicas": 1}}));
    api.patch("web", &PatchParams::default(), &patch).await.or_fail();
    cluster.until("one pod is left", async || names(&cluster).await == "web-0").await;
    let said = async || {
        let events = cluster.list::<Event>("default").await;
        let words = "create Pod web-0 in StatefulSet web successful";
        events.iter().any(|e| e.message.as_deref() == Some(words))
    };
    cluster.until("its event", said).await;
    api.delete("web", &DeleteParams::default()).await.or_fail();
    cluster
        .until("all is gone", async || {
            names(&cluster).await.is_empty() && cluster.list::<ControllerRevision>("default").await.is_empty()
        })
        .await;

    cluster
        .create(
            "default",
            set(
                "data",
                1,
                json!({"volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}),
            ),
        )
        .await;
    let refused = async || {
        let events = cluster.list::<Event>("default").await;
        events.iter().any(|e| {
            e.reason.as_deref() == Some("FailedCreate")
                && e.message.as_deref().is_some_and(|m| m.contains("persistent volumes"))
        })
    };
    cluster.until("volume claims are refused with the reason", refused).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_has_a_pod_on_every_node_that_it_may_have() {
    let cluster = Cluster::start(&["n1", "n2"]).await;
    let api = cluster.api::<DaemonSet>("default");
    let daemons: DaemonSet = object(json!({
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
    }));
    cluster.create("default", daemons).await;
    let on = async || {
        let pods = cluster.list::<Pod>("default").await;
        let running = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none());
        let mut nodes: Vec<_> =
            running.filter_map(|p| p.spec.as_ref()?.node_name.clone().map(|n| format!("{n}:{}", image(p)))).collect();
        nodes.sort();
        nodes.join(" ")
    };
    cluster.until("one on each node", async || on().await == "n1:v1 n2:v1").await;
    cluster.node("n3").await;
    cluster.until("also on the new one", async || on().await == "n1:v1 n2:v1 n3:v1").await;
    let status = async || {
        let s = api.get("agent").await.or_fail().status.unwrap_or_default();
        (s.desired_number_scheduled, s.number_ready, s.updated_number_scheduled, s.number_available)
            == (3, 3, Some(3), Some(3))
    };
    cluster.until("its status says so", status).await;
    let change = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "v2"}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(change).expect("a patch"));
    api.patch("agent", &PatchParams::default(), &patch).await.or_fail();
    cluster.until("rolled to v2", async || on().await == "n1:v2 n2:v2 n3:v2").await;
    let label = Patch::Merge(json!({"metadata": {"labels": {"disk": "fast"}}}));
    cluster.all::<Node>().patch("n2", &PatchParams::default(), &label).await.or_fail();
    let only = Patch::Merge(json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "fast"}}}}}));
    api.patch("agent", &PatchParams::default(), &only).await.or_fail();
    cluster.until("only where the selector allows", async || on().await == "n2:v2").await;
    api.delete("agent", &DeleteParams::default()).await.or_fail();
    cluster.until("gone", async || on().await.is_empty()).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_when_its_pods_have_succeeded() {
    let cluster = Cluster::start(&["n1"]).await;
    let api = cluster.api::<Job>("default");
    let job: Job = object(json!({
        "metadata": {"name": "count"},
        "spec": {"completions": 2, "parallelism": 1,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}},
    }));
    cluster.create("default", job).await;
    for done in 1..=2 {
        let running = async || {
            let pods = cluster.list::<Pod>("default").await;
            pods.into_iter().find(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running"))
        };
        cluster.until("a pod runs", async || running().await.is_some()).await;
        let pod = running().await.and_then(|p| p.metadata.name).expect("a running pod");
        let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
        cluster.api::<Pod>("default").patch_status(&pod, &PatchParams::default(), &ended).await.or_fail();
        let counted = async || api.get("count").await.or_fail().status.is_some_and(|s| s.succeeded == Some(done));
        cluster.until("it is counted", counted).await;
    }
    let complete = async || {
        let status = api.get("count").await.or_fail().status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Complete" && c.status == "True") && status.completion_time.is_some()
    };
    cluster.until("the Job is complete", complete).await;
    assert_eq!(cluster.list::<Pod>("default").await.len(), 2, "ended pods stay to be looked at");
    api.delete("count", &DeleteParams::background()).await.or_fail();
    cluster.until("its pods go with it", async || cluster.list::<Pod>("default").await.is_empty()).await;
    cluster.end().await;
}
