//! patch: JSON, merge, strategic and server-side apply.

use serde_json::Value;
use skiff_api::field::{Error as FieldError, Path};
use skiff_api::status::Status;
use skiff_api::{apply, patch};

use super::update::{self, reply};
use super::write::{self, How};
use crate::Result;
use crate::call::Call;
use crate::decode::{self, Media};
use crate::encode::Reply;
use crate::object;
use crate::validation;

pub(crate) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    match media(call)? {
        Media::ApplyPatch => server_side(call, body).await,
        media => {
            let patch = decode::value(media, body)?;
            let how = How { subresource: call.subresource(), create: false, track: true };
            let change = |current: Option<&Value>| patched(call, media, &patch, current.unwrap_or(&Value::Null));
            Ok(reply(write::update(call, call.name()?, &how, change).await?))
        }
    }
}

/// A patch says what it is: there is no default.
pub(crate) fn media(call: &Call) -> Result<Media> {
    if !call.headers.contains_key(http::header::CONTENT_TYPE) {
        let names: Vec<&str> = Media::PATCHES.iter().map(|m| m.as_str()).collect();
        return Err(Status::unsupported_media(&names));
    }
    Media::of(&call.headers, Media::PATCHES)
}

fn patched(call: &Call, media: Media, patch: &Value, current: &Value) -> Result<Value> {
    let mut value = change(call, media, patch, current)?;
    decode::check_kind(call.resource(), &mut value)?;
    update::fit_name(call, &mut value)?;
    validation::fields(call, call.resource(), &value)?;
    Ok(value)
}

/// The patch on any value; the rules of strategic patches are those of the resource.
pub(crate) fn change(call: &Call, media: Media, patch: &Value, current: &Value) -> Result<Value> {
    let done = match media {
        Media::JsonPatch => patch::json(current, patch),
        Media::MergePatch => patch::merge(current, patch),
        _ => patch::strategic(call.resource(), current, patch),
    };
    done.map_err(|e| refused(call, &e))
}

fn refused(call: &Call, error: &patch::Error) -> Status {
    let name = call.name().unwrap_or_default();
    match error.code() == 400 {
        true => Status::bad_request(error.to_string()),
        false => {
            let error = FieldError::invalid(&Path::new("patch"), Value::Null, error.to_string());
            Status::invalid(call.resource(), name, vec![error])
        }
    }
}

/// Server-side apply: the body is what this manager wants, no more.
async fn server_side(call: &Call, body: &[u8]) -> Result<Reply> {
    let Some(manager) = call.query.text("fieldManager") else {
        let error = FieldError::required(&Path::new("fieldManager"), "is required for apply patch");
        return Err(Status::invalid_kind("meta.k8s.io", "PatchOptions", "", vec![error]));
    };
    let mut config = decode::value(Media::ApplyPatch, body)?;
    decode::check_kind(call.resource(), &mut config)?;
    update::fit_name(call, &mut config)?;
    validation::fields(call, call.resource(), &config)?;
    if config.pointer("/metadata/managedFields").is_some_and(|f| f.as_array().is_none_or(|a| !a.is_empty())) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let options =
        apply::Options { manager, force: call.query.flag("force"), subresource: call.subresource(), now: call.now };
    let how = How { subresource: call.subresource(), create: call.subresource().is_none(), track: false };
    let change = |current: Option<&Value>| {
        keep_version(&config, apply::apply(call.resource(), current, &config, &options).map_err(|e| conflict(&e))?)
    };
    Ok(reply(write::update(call, call.name()?, &how, change).await?))
}

/// A resourceVersion or uid in the configuration is a precondition.
fn keep_version(config: &Value, mut value: Value) -> Result<Value> {
    for field in ["resourceVersion", "uid"] {
        if let Some(given) = object::meta(config).get(field).filter(|v| !v.is_null()) {
            object::meta_mut(&mut value).insert(field.into(), given.clone());
        }
    }
    Ok(value)
}

fn conflict(error: &apply::Error) -> Status {
    match error {
        apply::Error::Conflicts(conflicts) => {
            let causes: Vec<(String, String)> =
                conflicts.iter().map(|c| (format!("conflict with {}", c.owner), c.path.clone())).collect();
            Status::apply_conflict(error.to_string(), &causes)
        }
        other => Status::bad_request(other.to_string()),
    }
}
