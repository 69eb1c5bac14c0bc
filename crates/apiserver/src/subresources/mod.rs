//! Subresources: halves of an object (status, scale), and things that are done to it (binding, eviction, connections).

mod binding;
mod eviction;
mod finalize;
mod node;
pub(crate) mod proxy;
mod scale;
mod token;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skiff_api::status::Status;

use crate::Result;
use crate::call::Call;
use crate::decode::{self, Media};
use crate::encode::Reply;
use crate::route::Verb;
use crate::verbs::{patch, read, update};

pub(crate) async fn run(call: &Call, subresource: &str, body: Bytes) -> Result<Reply> {
    let known = call.resource().subresource(subresource).ok_or_else(Status::no_such_resource)?;
    if !known.verbs.contains(&call.verb.as_str()) {
        return Err(Status::method_not_allowed(Some(call.resource())));
    }
    match (subresource, call.verb) {
        ("scale", _) => scale::run(call, &body).await,
        ("finalize", Verb::Update) => finalize::run(call, &body).await,
        ("binding", Verb::Create) => binding::run(call, &body).await,
        ("eviction", Verb::Create) => eviction::run(call, &body).await,
        ("token", Verb::Create) => token::run(call, &body).await,
        ("log" | "exec" | "attach" | "portforward", _) => node::run(call, subresource, body).await,
        ("status" | "ephemeralcontainers" | "approval" | "resize", Verb::Get) => read::get(call).await,
        ("status" | "ephemeralcontainers" | "approval" | "resize", Verb::Update) => update::run(call, &body).await,
        ("status" | "ephemeralcontainers" | "approval" | "resize", Verb::Patch) => patch::run(call, &body).await,
        _ => Err(Status::new(501, "NotImplemented", format!("{}/{subresource} is not served", call.resource().plural))),
    }
}

/// The body as an object of the subresource's own kind.
fn read_body(call: &Call, api_version: &str, kind: &str, body: &[u8]) -> Result<Value> {
    let mut value = decode::value(Media::of(&call.headers, Media::OBJECTS)?, body)?;
    decode::expect_kind(api_version, kind, &mut value)?;
    Ok(value)
}

/// What things that are done answer.
fn success() -> Reply {
    let status =
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Reply::Plain(StatusCode::CREATED, status)
}
