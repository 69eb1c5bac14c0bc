//! A pod's priority follows from its class.

use serde_json::{Value, json};
use skiff_api::resources;
use skiff_api::status::Status;

use crate::Result;
use crate::call::Call;
use crate::object;

const BUILT_IN: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) async fn admit(call: &Call, pod: &mut Value) -> Result<()> {
    let asked = object::text(pod, "/spec/priorityClassName").to_string();
    let class = class(call, &asked).await?;
    let spec = object::child(pod, "spec");
    if let Some(name) = class["metadata"]["name"].as_str() {
        spec.insert("priorityClassName".into(), name.into());
    }
    spec.insert("priority".into(), class["value"].as_i64().unwrap_or(0).into());
    let policy = class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority");
    spec.entry("preemptionPolicy").or_insert_with(|| policy.into());
    Ok(())
}

/// The class of that name, or the global default without one.
async fn class(call: &Call, name: &str) -> Result<Value> {
    let resource = resources::find("scheduling.k8s.io", "v1", "priorityclasses");
    let resource = resource.ok_or_else(|| Status::internal("priorityclasses are not served"))?;
    if name.is_empty() {
        let (classes, _) = call.storage().all(resource, None).await?;
        let default = classes.into_iter().map(|c| c.value).find(|c| c["globalDefault"] == true);
        return Ok(default.unwrap_or(Value::Null));
    }
    if let Some((name, value)) = BUILT_IN.iter().find(|(n, _)| *n == name) {
        return Ok(json!({"metadata": {"name": name}, "value": value}));
    }
    let found = call.storage().find(resource, None, name).await?;
    let missing = || Status::forbidden(call.resource(), "", format!("no PriorityClass with name {name} was found"));
    found.map(|o| o.value).ok_or_else(missing)
}
