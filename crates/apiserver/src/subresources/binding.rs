//! pods/binding: the scheduler's word on which node a pod runs.

use serde_json::{Value, json};
use skiff_api::status::Status;

use super::{read_body, success};
use crate::Result;
use crate::call::Call;
use crate::encode::Reply;
use crate::object;
use crate::verbs::write;

pub(super) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let binding = read_body(call, "v1", "Binding", body)?;
    let node = object::text(&binding, "/target/name");
    if node.is_empty() {
        return Err(Status::bad_request("Binding: target.name: Required value: the node's name"));
    }
    let name = call.name()?;
    let how = write::How { subresource: Some("binding"), ..write::How::SPEC };
    let now = object::time(call.now);
    write::update(call, name, &how, |current| bound(call, name, current.unwrap_or(&Value::Null), &binding, node, &now))
        .await?;
    Ok(success())
}

fn bound(call: &Call, name: &str, pod: &Value, binding: &Value, node: &str, now: &Value) -> Result<Value> {
    let uid = object::uid(binding);
    let assigned = object::text(pod, "/spec/nodeName");
    let refuse = |why: String| Err(Status::conflict(call.resource(), name, why));
    match () {
        () if !uid.is_empty() && uid != object::uid(pod) => {
            return refuse(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::uid(pod)
            ));
        }
        () if object::is_deleting(pod) => {
            return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        () if !assigned.is_empty() => return refuse(format!("pod {name} is already assigned to node {assigned:?}")),
        () => {}
    }
    let mut next = pod.clone();
    object::child(&mut next, "spec").insert("nodeName".into(), node.into());
    let conditions = object::child(&mut next, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions
            .push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}));
    }
    Ok(next)
}
