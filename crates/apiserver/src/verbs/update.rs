//! update: the whole object is replaced.

use http::StatusCode;
use serde_json::Value;
use skiff_api::status::Status;

use super::write::{self, How, Written};
use crate::Result;
use crate::call::Call;
use crate::decode::{self, Media};
use crate::encode::Reply;
use crate::object;
use crate::validation;

pub(crate) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let mut value = decode::value(Media::of(&call.headers, Media::OBJECTS)?, body)?;
    decode::check_kind(call.resource(), &mut value)?;
    validation::fields(call, call.resource(), &value)?;
    fit_name(call, &mut value)?;
    let how = How { subresource: call.subresource(), create: creates(call), track: true };
    let written = write::update(call, call.name()?, &how, |_| Ok(value.clone())).await?;
    Ok(reply(written))
}

pub(crate) fn reply(written: Written) -> Reply {
    match written {
        Written::Created(value) => Reply::Object(StatusCode::CREATED, value),
        Written::Updated(value) => Reply::ok(value),
    }
}

/// The name in the object is the name in the path, or left out.
pub(crate) fn fit_name(call: &Call, value: &mut Value) -> Result<()> {
    let want = call.name()?;
    let got = object::name(value).to_string();
    if got.is_empty() {
        object::meta_mut(value).insert("name".into(), want.into());
    } else if got != want {
        return Err(Status::bad_request(format!(
            "the name of the object ({got}) does not match the name on the URL ({want})"
        )));
    }
    Ok(())
}

/// Kinds that a PUT may create, as in the reference's strategies.
fn creates(call: &Call) -> bool {
    const KINDS: &[(&str, &str)] = &[
        ("", "services"),
        ("", "endpoints"),
        ("", "events"),
        ("", "limitranges"),
        ("events.k8s.io", "events"),
        ("coordination.k8s.io", "leases"),
        ("rbac.authorization.k8s.io", "roles"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ];
    call.subresource().is_none() && KINDS.contains(&call.resource().id())
}
