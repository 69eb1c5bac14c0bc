//! What the server adds to or refuses of a write by looking at other objects. Each step is one file; the order is here.

mod certificates;
mod limits;
mod namespace;
pub(crate) mod node;
mod pod;
mod priority;
mod rbac;
mod service_account;

use serde_json::Value;

use crate::Result;
use crate::call::Call;

pub(crate) async fn create(call: &Call, value: &mut Value) -> Result<()> {
    namespace::create(call, value).await?;
    rbac::no_more_than_own(call, value)?;
    node::create(call, value)?;
    certificates::create(call, value)?;
    if call.resource().id() == ("", "pods") {
        service_account::admit(call, value).await?;
        priority::admit(call, value).await?;
        pod::tolerate_node_trouble(value, &call.server.config);
    }
    limits::admit(call, value).await
}

pub(crate) fn update(call: &Call, old: &Value, next: &mut Value, subresource: Option<&str>) -> Result<()> {
    node::update(call, old, next, subresource)?;
    certificates::update(call, old, next, subresource)?;
    if next["kind"] == "Namespace" && subresource.is_none() {
        namespace::label(next);
    }
    if next["kind"] == "Pod" && subresource.is_none() {
        pod::tolerate_node_trouble(next, &call.server.config);
    }
    rbac::no_more_than_own(call, next)?;
    Ok(())
}

pub(crate) async fn delete(call: &Call, value: &Value) -> Result<()> {
    node::delete(call, value)?;
    namespace::delete(call, value)
}
