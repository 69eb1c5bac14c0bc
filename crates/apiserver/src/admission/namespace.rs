//! Namespaces: things are made only in those that exist and stay; some never go.

use serde_json::{Value, json};
use skiff_api::resources;
use skiff_api::status::Status;

use crate::Result;
use crate::call::Call;
use crate::object;

const LABEL: &str = "kubernetes.io/metadata.name";
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) async fn create(call: &Call, value: &mut Value) -> Result<()> {
    if call.resource().id() == ("", "namespaces") {
        label(value);
        return Ok(());
    }
    let Some(namespace) = call.namespace() else { return Ok(()) };
    let resource =
        resources::find("", "v1", "namespaces").ok_or_else(|| Status::internal("namespaces are not served"))?;
    let found = call.storage().get(resource, None, namespace).await?;
    match object::is_deleting(&found.value) {
        true => Err(Status::namespace_terminating(call.resource(), object::name(value), namespace)),
        false => Ok(()),
    }
}

/// A namespace carries its name as a label, so that selectors can name it.
pub(super) fn label(value: &mut Value) {
    let name = object::name(value).to_string();
    if !object::meta(value)["labels"].is_object() {
        object::meta_mut(value).insert("labels".into(), json!({}));
    }
    value["metadata"]["labels"][LABEL] = name.into();
}

pub(super) fn delete(call: &Call, value: &Value) -> Result<()> {
    let name = object::name(value);
    match call.resource().id() == ("", "namespaces") && IMMORTAL.contains(&name) {
        true => Err(Status::forbidden(call.resource(), name, "this namespace may not be deleted")),
        false => Ok(()),
    }
}
