//! LimitRanges of the namespace: defaults for pods, bounds for pods and claims.

use serde_json::Value;
use skiff_api::resources;
use skiff_api::status::Status;
use skiff_api::{defaults, limits};

use crate::Result;
use crate::call::Call;
use crate::object;

pub(super) async fn admit(call: &Call, value: &mut Value) -> Result<()> {
    let resource = call.resource();
    if !matches!(resource.id(), ("", "pods" | "persistentvolumeclaims")) {
        return Ok(());
    }
    let ranges =
        resources::find("", "v1", "limitranges").ok_or_else(|| Status::internal("limitranges are not served"))?;
    let (ranges, _) = call.storage().all(ranges, call.namespace()).await?;
    if ranges.is_empty() {
        return Ok(());
    }
    let ranges: Vec<Value> = ranges.into_iter().map(|r| r.value).collect();
    if resource.plural == "pods" {
        limits::defaults(&ranges, value);
        // A limit asks for as much.
        defaults::apply(resource, value);
    }
    let wrong = limits::violations(&ranges, resource, value);
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(Status::forbidden(resource, object::name(value), one)),
        several => Err(Status::forbidden(resource, object::name(value), format!("[{}]", several.join(", ")))),
    }
}
