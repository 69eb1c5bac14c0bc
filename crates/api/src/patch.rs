//! The three patches that a client can send for an existing object: JSON patch (RFC 6902), merge patch (RFC 7386) and
//! strategic merge patch. Server-side apply is a room of its own: [`crate::apply`].

mod json;
mod order;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::merge_keys;
use crate::resources::Resource;
use crate::status::Status;
pub use json::json;

pub use strategic::strategic_as;

/// The most operations that one JSON patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// Why a patch did not apply. The object is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The patch itself cannot be read. HTTP 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed, but the object does not have what it asks for. HTTP 422.
    #[error("{0}")]
    Rejected(String),
    /// HTTP 413.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
}

impl Error {
    /// The HTTP status that says so.
    pub fn code(&self) -> u16 {
        match self {
            Error::Malformed(_) => 400,
            Error::Rejected(_) => 422,
            Error::TooManyOperations(_) => 413,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let message = error.to_string();
        match error {
            Error::Malformed(_) => Status::bad_request(message),
            Error::Rejected(_) => Status::new(422, "Invalid", message),
            Error::TooManyOperations(_) => Status::new(413, "RequestEntityTooLarge", message),
        }
    }
}

/// Applies a strategic merge patch to an object of a built-in kind.
pub fn strategic(resource: &Resource, object: &Value, patch: &Value) -> Result<Value, Error> {
    strategic_as(merge_keys::root(resource.group, resource.kind), object, patch)
}

/// Applies a merge patch: `null` removes, objects merge, everything else replaces.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, Error> {
    match (object, patch) {
        (Value::Object(have), Value::Object(want)) => Ok(Value::Object(merge_maps(have, want))),
        _ => Err(Error::Malformed(format!("a merge patch must be a JSON object, not {}", kind_of(patch)))),
    }
}

fn merge_maps(have: &Map<String, Value>, want: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = have.clone();
    for (key, value) in want {
        match value {
            Value::Null => {
                merged.shift_remove(key);
            }
            Value::Object(inner) => {
                let empty = Map::new();
                let below = have.get(key).and_then(Value::as_object).unwrap_or(&empty);
                merged.insert(key.clone(), Value::Object(merge_maps(below, inner)));
            }
            other => {
                merged.insert(key.clone(), other.clone());
            }
        }
    }
    merged
}

/// What a value is, for messages.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
