//! Reading and writing the parts of an object that every kind has.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use skiff_api::convert;
use skiff_api::resources::Resource;
use skiff_store::{Entry, Rev};

use crate::Result;
use skiff_api::status::Status;

/// An object as the store holds it, decoded. The value carries the resourceVersion of its revision.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub value: Value,
    pub rev: Rev,
}

impl Object {
    /// The entry as an object of this resource.
    pub(crate) fn decode(resource: &Resource, entry: &Entry) -> Result<Object> {
        let mut value: Value = serde_json::from_slice(&entry.value)
            .map_err(|e| Status::internal(format!("the stored object at {} cannot be read: {e}", entry.key)))?;
        convert::show(resource, &mut value);
        set_resource_version(&mut value, entry.modified);
        Ok(Object { value, rev: entry.modified })
    }
}

/// The bytes for the store: without resourceVersion, which is the entry's revision.
pub(crate) fn encode(resource: &Resource, value: &Value) -> bytes::Bytes {
    let mut value = value.clone();
    convert::store(resource, &mut value);
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.shift_remove("resourceVersion");
        meta.shift_remove("selfLink");
    }
    serde_json::to_vec(&value).unwrap_or_default().into()
}

/// `/registry/GROUP/PLURAL/`, the same for all views of the same objects.
pub(crate) fn resource_prefix(resource: &Resource) -> String {
    let home = resource.storage();
    let group = if home.group.is_empty() { "core" } else { home.group };
    format!("/registry/{group}/{}/", resource.plural)
}

pub(crate) fn prefix(resource: &Resource, namespace: Option<&str>) -> String {
    match namespace {
        Some(ns) => format!("{}{ns}/", resource_prefix(resource)),
        None => resource_prefix(resource),
    }
}

pub(crate) fn key(resource: &Resource, namespace: Option<&str>, name: &str) -> String {
    format!("{}{name}", prefix(resource, namespace))
}

pub(crate) fn meta(value: &Value) -> &Value {
    value.get("metadata").unwrap_or(&Value::Null)
}

/// The metadata, made when missing.
pub(crate) fn meta_mut(value: &mut Value) -> &mut Map<String, Value> {
    child(value, "metadata")
}

/// The object under `name`, made (or put in place of something that is no object).
pub(crate) fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[name];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it was just made an object")
}

pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn name(value: &Value) -> &str {
    text(value, "/metadata/name")
}

pub(crate) fn namespace(value: &Value) -> &str {
    text(value, "/metadata/namespace")
}

pub(crate) fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

pub(crate) fn resource_version(value: &Value) -> &str {
    text(value, "/metadata/resourceVersion")
}

pub(crate) fn set_resource_version(value: &mut Value, rev: Rev) {
    meta_mut(value).insert("resourceVersion".into(), rev.to_string().into());
}

pub(crate) fn finalizers(value: &Value) -> Vec<&str> {
    let list = value.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) fn is_deleting(value: &Value) -> bool {
    value.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
}

pub(crate) fn grace(value: &Value) -> Option<i64> {
    value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64)
}

/// RFC 3339 in whole seconds, as metav1.Time prints.
pub(crate) fn time(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

pub(crate) fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(at)
}

/// Equal except for what every write changes.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    without_bookkeeping(a) == without_bookkeeping(b)
}

fn without_bookkeeping(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.shift_remove("resourceVersion");
        for field in meta.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(field) = field.as_object_mut() {
                field.shift_remove("time");
            }
        }
    }
    value
}

/// Five characters that can end a name and read as no word.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stored_bytes_carry_no_resource_version() {
        let value = json!({"metadata": {"name": "a", "resourceVersion": "7"}, "x": 1});
        let maps = skiff_api::resources::find("", "v1", "configmaps").unwrap();
        assert_eq!(encode(maps, &value), r#"{"metadata":{"name":"a"},"x":1}"#);
        let entry = Entry { key: "k".into(), value: encode(maps, &value), created: 3, modified: 9 };
        assert_eq!(resource_version(&Object::decode(maps, &entry).unwrap().value), "9");
    }

    #[test]
    fn sameness_ignores_bookkeeping_only() {
        let a = json!({"metadata": {"resourceVersion": "1", "managedFields": [{"time": "x", "manager": "m"}]}});
        let b = json!({"metadata": {"resourceVersion": "2", "managedFields": [{"time": "y", "manager": "m"}]}});
        assert!(same(&a, &b));
        assert!(!same(&a, &json!({"metadata": {"name": "n"}})));
    }

    #[test]
    fn time_has_whole_seconds() {
        assert_eq!(time("2024-01-02T03:04:05.678Z".parse().unwrap()), "2024-01-02T03:04:05Z");
    }
}
