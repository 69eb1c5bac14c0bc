//! `rollout status`: what is still missing, said anew whenever it changes.

use std::time::{Duration, Instant};

use serde_json::Value;
use skiff_api::json;

use super::super::{
    error::{Error, Result, plain},
    flags::Args,
    kinds::Kind,
    session::{Session, duration},
    text::emit,
    wait::changes,
};

pub(in super::super) async fn status(session: &Session, args: &Args, kind: &Kind, object: &Value) -> Result<()> {
    let until = match args.get("timeout") {
        None | Some("0" | "0s") => None,
        Some(text) => Some(Instant::now() + duration(text)?),
    };
    let wanted = args.number("revision")?.unwrap_or(0);
    let mut object = object.clone();
    let mut told = String::new();
    loop {
        let (text, done) = judge(kind, &object, wanted)?;
        if text != told {
            emit(&text)?;
            told = text;
        }
        if done || args.off("watch") {
            return Ok(());
        }
        let left = match until {
            None => Duration::from_secs(60),
            Some(until) => until.saturating_duration_since(Instant::now()),
        };
        if left.is_zero() {
            return plain("timed out waiting for the condition");
        }
        let path =
            (json::text(&object, "metadata.namespace").to_owned(), json::text(&object, "metadata.name").to_owned());
        let version = json::text(&object, "metadata.resourceVersion").to_owned();
        match tokio::time::timeout(left, changes(session, kind, &path, &version)).await {
            Ok(Ok(Some(new))) => object = new,
            Ok(Ok(None)) => return Err(Error::Plain("object has been deleted".into())),
            Ok(Err(e)) => return Err(e),
            Err(_) => object = session.object(kind, &path.0, &path.1).await?,
        }
    }
}

/// What is to be said, and whether the rollout is over.
fn judge(kind: &Kind, object: &Value, wanted: i64) -> Result<(String, bool)> {
    match kind.kind.as_str() {
        "Deployment" => deployment(object, wanted),
        "StatefulSet" => Ok(stateful_set(object)),
        "DaemonSet" => Ok(daemon_set(object)),
        _ => plain(format!("no status viewer has been implemented for {}", kind.kind)),
    }
}

fn observed(object: &Value) -> bool {
    json::int(object, "metadata.generation") <= json::int(object, "status.observedGeneration")
}

fn deployment(object: &Value, wanted: i64) -> Result<(String, bool)> {
    let name = json::text(object, "metadata.name");
    if wanted > 0 {
        let revision = super::annotation(object, super::REVISION);
        if revision.parse() != Ok(wanted) {
            return plain(format!("desired revision ({wanted}) is different from the running revision ({revision})"));
        }
    }
    if !observed(object) {
        return Ok(("Waiting for deployment spec update to be observed...\n".into(), false));
    }
    let progressing = json::list(object, "status.conditions").iter().find(|c| json::text(c, "type") == "Progressing");
    if progressing.is_some_and(|c| json::text(c, "reason") == "ProgressDeadlineExceeded") {
        return plain(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let count = |field: &str| json::int(object, &format!("status.{field}"));
    let replicas = json::int(object, "spec.replicas");
    let (updated, all, available) = (count("updatedReplicas"), count("replicas"), count("availableReplicas"));
    let waiting = |why: String| Ok((format!("Waiting for deployment {name:?} rollout to finish: {why}...\n"), false));
    if updated < replicas {
        return waiting(format!("{updated} out of {replicas} new replicas have been updated"));
    }
    if all > updated {
        return waiting(format!("{} old replicas are pending termination", all - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok((format!("deployment {name:?} successfully rolled out\n"), true))
}

fn stateful_set(object: &Value) -> (String, bool) {
    let count = |field: &str| json::int(object, &format!("status.{field}"));
    let replicas = json::int(object, "spec.replicas");
    if !observed(object) {
        return ("Waiting for statefulset spec update to be observed...\n".into(), false);
    }
    if count("readyReplicas") < replicas {
        return (format!("Waiting for {} pods to be ready...\n", replicas - count("readyReplicas")), false);
    }
    let (current, update) = (json::text(object, "status.currentRevision"), json::text(object, "status.updateRevision"));
    if current != update {
        let updated = count("updatedReplicas");
        return (
            format!("waiting for statefulset rolling update to complete {updated} pods at revision {update}...\n"),
            false,
        );
    }
    (format!("statefulset rolling update complete {} pods at revision {current}...\n", count("currentReplicas")), true)
}

fn daemon_set(object: &Value) -> (String, bool) {
    let name = json::text(object, "metadata.name");
    let count = |field: &str| json::int(object, &format!("status.{field}"));
    let desired = count("desiredNumberScheduled");
    if !observed(object) {
        return ("Waiting for daemon set spec update to be observed...\n".into(), false);
    }
    if count("updatedNumberScheduled") < desired {
        let updated = count("updatedNumberScheduled");
        return (
            format!(
                "Waiting for daemon set {name:?} rollout to finish: {updated} out of {desired} new pods have been updated...\n"
            ),
            false,
        );
    }
    if count("numberAvailable") < desired {
        let available = count("numberAvailable");
        return (
            format!(
                "Waiting for daemon set {name:?} rollout to finish: {available} of {desired} updated pods are available...\n"
            ),
            false,
        );
    }
    (format!("daemon set {name:?} successfully rolled out\n"), true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn deployments() {
        let with = |status: Value| json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        let cases = [
            (json!({}), "Waiting for deployment spec update to be observed...\n", false),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 1}),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...\n",
                false,
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...\n",
                false,
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...\n",
                false,
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
                "deployment \"web\" successfully rolled out\n",
                true,
            ),
        ];
        for (status, text, done) in cases {
            assert_eq!(deployment(&with(status), 0).unwrap(), (text.to_owned(), done));
        }
    }
}
