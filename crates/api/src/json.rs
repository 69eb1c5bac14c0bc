//! Reading and filling JSON objects the way Go's zero values do: absent, null, `""`, `0` and `[]` are the same to a reader.

use serde_json::{Map, Value};

/// The value at a dotted path; None if absent or null.
pub fn get<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |v, key| v.get(key)).filter(|v| !v.is_null())
}

/// The string at a dotted path; empty if there is none.
pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    get(object, path).and_then(Value::as_str).unwrap_or_default()
}

pub fn int(object: &Value, path: &str) -> i64 {
    get(object, path).and_then(Value::as_i64).unwrap_or_default()
}

pub fn truth(object: &Value, path: &str) -> bool {
    get(object, path).and_then(Value::as_bool).unwrap_or_default()
}

pub fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    get(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub fn map<'a>(object: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    get(object, path).and_then(Value::as_object)
}

/// The strings of a list.
pub fn texts<'a>(object: &'a Value, path: &str) -> Vec<&'a str> {
    list(object, path).iter().filter_map(Value::as_str).collect()
}

pub fn get_mut<'a>(object: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.').try_fold(object, |v, key| v.get_mut(key)).filter(|v| !v.is_null())
}

/// The elements of a list, to change them.
pub fn each_mut<'a>(object: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> {
    get_mut(object, path).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field of an object, if `object` is one.
pub fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value.into());
    }
}

pub fn remove(object: &mut Value, key: &str) -> Option<Value> {
    object.as_object_mut().and_then(|map| map.shift_remove(key))
}

/// Sets `key` to what it is in `from`, or removes it if `from` has none.
pub fn restore(object: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) => set(object, key, value.clone()),
        None => {
            remove(object, key);
        }
    }
}

/// Fills a pointer-like field: only absence counts.
pub fn fill(object: &mut Value, key: &str, value: impl Into<Value>) {
    if get(object, key).is_none() {
        set(object, key, value);
    }
}

/// Fills a plain string field: empty counts as absent.
pub fn fill_text(object: &mut Value, key: &str, value: &str) {
    if text(object, key).is_empty() {
        set(object, key, value);
    }
}

/// Fills a plain number field: zero counts as absent.
pub fn fill_int(object: &mut Value, key: &str, value: i64) {
    if int(object, key) == 0 {
        set(object, key, value);
    }
}

/// The object below `key`, made if absent; None if something else stands there.
pub fn below<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    fill(object, key, Map::new());
    object.get_mut(key).filter(|v| v.is_object())
}

/// Absent, null, "", 0, false, [] and {}: what Go's encoder leaves out.
pub fn is_zero(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Bool(b)) => !b,
        Some(Value::Number(n)) => n.as_f64() == Some(0.0),
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(o)) => o.is_empty(),
    }
}

/// Equal as Go sees them: zero values and absence are the same at this level.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    (is_zero(a) && is_zero(b)) || a == b
}

/// Drops fields that are null: to a typed decoder they are not there.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
