//! What makes pods: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs.

use serde_json::{Map, Value, json};

use super::pod::template;
use crate::json::{below, each_mut, fill, fill_text, get, get_mut, is_zero, set, text};
use crate::resources::Resource;

pub(super) fn apply(res: &Resource, object: &mut Value) {
    match res.plural {
        "controllerrevisions" => return,
        "replicationcontrollers" => labels_from_template(object),
        _ => {}
    }
    let Some(spec) = below(object, "spec") else { return };
    match res.plural {
        "deployments" => deployment(spec),
        "replicasets" | "replicationcontrollers" => fill(spec, "replicas", 1),
        "statefulsets" => stateful_set(spec),
        "daemonsets" => daemon_set(spec),
        "jobs" => return job(spec),
        "cronjobs" => return cron_job(spec),
        "horizontalpodautoscalers" if res.version == "v1" => return fill(spec, "minReplicas", 1),
        "horizontalpodautoscalers" => return autoscaler(spec),
        _ => {}
    }
    template(spec, "template");
}

fn deployment(spec: &mut Value) {
    fill(spec, "replicas", 1);
    if let Some(strategy) = below(spec, "strategy") {
        fill_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = below(strategy, "rollingUpdate")
        {
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
    }
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
}

fn stateful_set(spec: &mut Value) {
    fill_text(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = below(spec, "updateStrategy") {
        fill_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = below(strategy, "rollingUpdate")
        {
            fill(rolling, "partition", 0);
        }
    }
    if let Some(policy) = below(spec, "persistentVolumeClaimRetentionPolicy") {
        fill_text(policy, "whenDeleted", "Retain");
        fill_text(policy, "whenScaled", "Retain");
    }
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    for claim in each_mut(spec, "volumeClaimTemplates") {
        fill_text(claim, "apiVersion", "v1");
        fill_text(claim, "kind", "PersistentVolumeClaim");
        super::claim(claim);
    }
}

fn daemon_set(spec: &mut Value) {
    if let Some(strategy) = below(spec, "updateStrategy") {
        fill_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = below(strategy, "rollingUpdate")
        {
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
    }
    fill(spec, "revisionHistoryLimit", 10);
}

fn job(spec: &mut Value) {
    if get(spec, "completions").is_none() && get(spec, "parallelism").is_none() {
        set(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    fill(spec, "backoffLimit", 6);
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    let replace = if get(spec, "podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    fill(spec, "podReplacementPolicy", replace);
    template(spec, "template");
}

fn cron_job(spec: &mut Value) {
    fill_text(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = get_mut(spec, "jobTemplate.spec") {
        // A CronJob's job gets its counts only when the job is made.
        template(job, "template");
    }
}

fn autoscaler(spec: &mut Value) {
    fill(spec, "minReplicas", 1);
    if is_zero(get(spec, "metrics")) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
}

/// A ReplicationController without selector or labels takes its template's labels.
fn labels_from_template(object: &mut Value) {
    let labels: Map<String, Value> =
        get(object, "spec.template.metadata.labels").and_then(Value::as_object).cloned().unwrap_or_default();
    if labels.is_empty() {
        return;
    }
    if is_zero(get(object, "spec.selector"))
        && let Some(spec) = below(object, "spec")
    {
        set(spec, "selector", labels.clone());
    }
    if is_zero(get(object, "metadata.labels"))
        && let Some(metadata) = below(object, "metadata")
    {
        set(metadata, "labels", labels);
    }
}
