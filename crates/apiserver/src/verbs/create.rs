//! create.

use serde_json::Value;
use skiff_api::status::Status;

use super::write::{self, Written};
use crate::Result;
use crate::call::Call;
use crate::decode::{self, Media};
use crate::encode::Reply;
use crate::object;
use crate::validation;

/// How many names are tried for one generateName.
const NAMES: usize = 8;

pub(crate) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    if call.resource().namespaced() && call.namespace().is_none() {
        return Err(Status::method_not_allowed(Some(call.resource())));
    }
    let mut value = decode::value(Media::of(&call.headers, Media::OBJECTS)?, body)?;
    decode::check_kind(call.resource(), &mut value)?;
    validation::fields(call, call.resource(), &value)?;
    Ok(Reply::created(named(call, value).await?))
}

/// Creates the object; with generateName under the first free name.
pub(crate) async fn named(call: &Call, mut value: Value) -> Result<Value> {
    let base = object::text(&value, "/metadata/generateName").to_string();
    if !object::name(&value).is_empty() || base.is_empty() {
        return write::create(call, value).await.map(Written::value);
    }
    let mut tried = 0;
    loop {
        tried += 1;
        object::meta_mut(&mut value).insert("name".into(), generated(&base).into());
        match write::create(call, value.clone()).await {
            Err(e) if e.reason() == "AlreadyExists" && tried < NAMES => {}
            other => return other.map(Written::value),
        }
    }
}

/// Names are at most 63 long, so a long base is cut.
fn generated(base: &str) -> String {
    let cut: String = base.chars().take(58).collect();
    format!("{cut}{}", object::suffix())
}
