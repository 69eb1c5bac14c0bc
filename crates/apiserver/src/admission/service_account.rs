//! Every pod runs as a ServiceAccount, and gets its token as a volume unless it does not want it.

use serde_json::{Value, json};
use skiff_api::resources;
use skiff_api::status::Status;
use tokio::time::{Duration, sleep};

use crate::Result;
use crate::call::Call;
use crate::object;

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) async fn admit(call: &Call, pod: &mut Value) -> Result<()> {
    let mirror = pod.pointer("/metadata/annotations").is_some_and(|a| a.get("kubernetes.io/config.mirror").is_some());
    if mirror {
        return Ok(());
    }
    let spec = object::child(pod, "spec");
    let given =
        ["serviceAccountName", "serviceAccount"].iter().find_map(|f| spec.get(*f)?.as_str().filter(|n| !n.is_empty()));
    let name = given.unwrap_or("default").to_string();
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.clone().into());
    let account = account(call, &name).await.map_err(|why| refused(call, pod, &name, &why))?;
    complete(pod, &account, &object::suffix());
    Ok(())
}

fn refused(call: &Call, pod: &Value, name: &str, why: &Status) -> Status {
    let account = format!("{}/{name}", call.namespace().unwrap_or_default());
    let why = format!(
        "error looking up service account {account}: {}",
        why.message().replacen("serviceaccounts", "serviceaccount", 1)
    );
    Status::forbidden(call.resource(), object::name(pod), why)
}

/// A new namespace gets its default account a moment after it was made: that moment is waited for.
async fn account(call: &Call, name: &str) -> Result<Value> {
    let resource = resources::find("", "v1", "serviceaccounts")
        .ok_or_else(|| Status::internal("serviceaccounts are not served"))?;
    let mut found = call.storage().get(resource, call.namespace(), name).await;
    for _ in 0..20 {
        if found.is_ok() || name != "default" {
            break;
        }
        sleep(Duration::from_millis(50)).await;
        found = call.storage().get(resource, call.namespace(), name).await;
    }
    found.map(|o| o.value)
}

/// The account's pull secrets and token, where the pod has none of its own.
fn complete(pod: &mut Value, account: &Value, suffix: &str) {
    let secrets = account["imagePullSecrets"].as_array().filter(|s| !s.is_empty());
    let own = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|s| !s.is_empty());
    if let (Some(secrets), false) = (secrets, own) {
        pod["spec"]["imagePullSecrets"] = json!(secrets);
    }
    let wants = |v: &Value| v["automountServiceAccountToken"].as_bool();
    if wants(&pod["spec"]).or_else(|| wants(account)).unwrap_or(true) {
        mount_token(&mut pod["spec"], suffix);
    }
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let volume = format!("kube-api-access-{suffix}");
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            used |= mount(container, &volume);
        }
    }
    if used {
        let volumes = spec.as_object_mut().map(|s| s.entry("volumes").or_insert_with(|| json!([])));
        if let Some(volumes) = volumes.and_then(Value::as_array_mut) {
            volumes.push(token_volume(&volume));
        }
    }
}

/// False when something of the pod's own is mounted there.
fn mount(container: &mut Value, volume: &str) -> bool {
    let Some(container) = container.as_object_mut() else { return false };
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    let Some(mounts) = mounts.as_array_mut() else { return false };
    let free = mounts.iter().all(|m| m["mountPath"] != MOUNT);
    if free {
        mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT}));
    }
    free
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]}]}})
    }

    #[test]
    fn tokens_are_mounted_where_nothing_is() {
        let mut p = pod();
        complete(&mut p, &json!({}), "abcde");
        assert_eq!(p["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(p["spec"]["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
        assert_eq!(p["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_pod_decides_before_the_account() {
        let mut p = pod();
        p["spec"]["automountServiceAccountToken"] = true.into();
        complete(&mut p, &json!({"automountServiceAccountToken": false}), "x");
        assert!(p["spec"]["volumes"].is_array());
        let mut p = pod();
        complete(&mut p, &json!({"automountServiceAccountToken": false, "imagePullSecrets": [{"name": "s"}]}), "x");
        assert!(p["spec"]["volumes"].is_null());
        assert_eq!(p["spec"]["imagePullSecrets"][0]["name"], "s");
    }
}
