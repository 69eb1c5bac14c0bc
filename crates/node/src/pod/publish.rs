//! Writes a pod's status to the API, and deletes the object when the node is done with it. A task of its own: the pod's
//! work never waits for the API server, and only the newest status is ever written.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tracing::{debug, warn};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub status: PodStatus,
    /// Nothing of the pod is left here.
    pub delete: bool,
}

/// The strategic merge patch from one status to the next. Lists that merge by key are replaced where an entry went.
pub fn patch(uid: &str, before: &PodStatus, after: &PodStatus) -> serde_json::Result<Value> {
    let before = serde_json::to_value(before)?;
    let mut after = serde_json::to_value(after)?;
    let empty = Map::new();
    let old = before.as_object().unwrap_or(&empty);
    if let Value::Object(new) = &mut after {
        let kept: Vec<String> = new.keys().cloned().collect();
        for list in ["podIPs", "hostIPs"] {
            let replaced = old.get(list).is_some() && old.get(list) != new.get(list);
            if let Some(Value::Array(items)) = new.get_mut(list).filter(|_| replaced) {
                items.insert(0, json!({"$patch": "replace"}));
            }
        }
        new.retain(|key, value| old.get(key) != Some(value));
        if let Some(Value::Array(conditions)) = new.get_mut("conditions") {
            forget_fields(old.get("conditions"), conditions);
        }
        let gone: Vec<_> = old.keys().filter(|k| !kept.contains(k)).cloned().collect();
        new.extend(gone.into_iter().map(|key| (key, Value::Null)));
    }
    Ok(json!({"metadata": {"uid": uid}, "status": after}))
}

/// A condition is merged with the kept one of its type, so what it no longer has must be said.
fn forget_fields(before: Option<&Value>, after: &mut [Value]) {
    let before = before.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for condition in after {
        let Some(old) = before.iter().find(|b| b["type"] == condition["type"]).and_then(Value::as_object) else {
            continue;
        };
        let Some(new) = condition.as_object_mut() else { continue };
        let gone: Vec<_> = old.keys().filter(|k| !new.contains_key(*k)).cloned().collect();
        new.extend(gone.into_iter().map(|key| (key, Value::Null)));
    }
}

/// Runs until the object is gone or the sender is. `before` is what the API has.
pub async fn run(client: kube::Client, pod: Pod, mut wanted: watch::Receiver<Wanted>) {
    let meta = &pod.metadata;
    let (Some(namespace), Some(name), Some(uid)) = (&meta.namespace, &meta.name, &meta.uid) else { return };
    let api: Api<Pod> = Api::namespaced(client, namespace);
    let mut before = pod.status.clone().unwrap_or_default();
    let mut wait = Duration::from_millis(100);
    while wanted.changed().await.is_ok() {
        loop {
            let now = wanted.borrow_and_update().clone();
            match write(&api, name, uid, &before, &now).await {
                Ok(Written::Gone) => return,
                Ok(Written::Kept) => {
                    before = now.status;
                    wait = Duration::from_millis(100);
                    break;
                }
                Err(e) => {
                    warn!("pod {namespace}/{name}: the status could not be written, trying again: {e}");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(10));
                }
            }
        }
    }
}

enum Written {
    Kept,
    Gone,
}

async fn write(api: &Api<Pod>, name: &str, uid: &str, before: &PodStatus, now: &Wanted) -> kube::Result<Written> {
    if now.status != *before {
        let patch = patch(uid, before, &now.status).map_err(kube::Error::SerdeError)?;
        let changed = patch["status"].as_object().is_some_and(|s| !s.is_empty());
        let written = match changed {
            true => api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop),
            false => Ok(()),
        };
        match written {
            Ok(()) => {}
            // Another pod of the same name (409 for the uid) or none: this one is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(Written::Gone),
            Err(e) => return Err(e),
        }
    }
    if !now.delete {
        return Ok(Written::Kept);
    }
    let preconditions = Preconditions { uid: Some(uid.into()), ..Default::default() };
    let how = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
    match api.delete(name, &how).await {
        Ok(_) => Ok(Written::Gone),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            debug!("pod {name}: the object was gone already");
            Ok(Written::Gone)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    #[test]
    fn only_what_changed_is_written() {
        let status = |v: Value| -> PodStatus { from_value(v).unwrap() };
        let before =
            status(json!({"phase": "Pending", "message": "m", "hostIP": "1.1.1.1", "podIPs": [{"ip": "1.2.3.4"}]}));
        let after = status(json!({"phase": "Running", "hostIP": "1.1.1.1", "podIPs": [{"ip": "1.2.3.5"}]}));
        let want = json!({"phase": "Running", "message": null, "podIPs": [{"$patch": "replace"}, {"ip": "1.2.3.5"}]});
        assert_eq!(patch("u", &before, &after).unwrap(), json!({"metadata": {"uid": "u"}, "status": want}));
    }

    #[test]
    fn a_condition_loses_its_reason() {
        let status = |c: Value| -> PodStatus { from_value(json!({"conditions": [c]})).unwrap() };
        let before =
            status(json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"}));
        let after = status(json!({"type": "Ready", "status": "True"}));
        let want = json!([{"type": "Ready", "status": "True", "reason": null, "message": null}]);
        assert_eq!(patch("u", &before, &after).unwrap()["status"]["conditions"], want);
    }
}
