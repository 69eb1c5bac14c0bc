//! What follows from a write or a removal, at once and not by a controller.

use serde_json::Value;
use skiff_api::resources;
use skiff_store::{Error, Expect};

use crate::call::Call;
use crate::{aggregation, object};

/// Rights work from the moment their write is answered.
pub(crate) async fn write(call: &Call, value: &Value) {
    call.server.access.learn(call.resource(), value);
    call.server.services.learn(call.resource(), value);
    aggregation::follow(call).await;
}

/// A Service takes its Endpoints along. A failure is the controller's to repair, so it is only logged.
pub(crate) async fn delete(call: &Call, value: &Value) {
    call.server.access.forget(call.resource(), value);
    call.server.services.forget(call.resource(), value);
    aggregation::follow(call).await;
    if call.resource().id() != ("", "services") {
        return;
    }
    let Some(endpoints) = resources::find("", "v1", "endpoints") else { return };
    let key = object::key(endpoints, call.namespace(), object::name(value));
    match call.storage().0.delete(&key, Expect::Any).await {
        Ok(_) | Err(Error::NotFound { .. }) => {}
        Err(e) => tracing::warn!(key, "the Endpoints of a deleted Service stay: {e}"),
    }
}
