//! Strategic merge patch: a merge patch that knows which lists merge, and by which key, and obeys the directives
//! `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/FIELD` and `$setElementOrder/FIELD`.

use serde_json::{Map, Value};

use super::order::{Identity, weave};
use super::{Error, kind_of};
use crate::merge_keys::{self, Patch, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of the given type.
pub fn strategic_as(of: Type, object: &Value, patch: &Value) -> Result<Value, Error> {
    match (object, patch) {
        (Value::Object(have), Value::Object(want)) => merge_object(of, have.clone(), want).map(Value::Object),
        _ => Err(Error::Malformed(format!("a strategic merge patch must be a JSON object, not {}", kind_of(patch)))),
    }
}

/// What `$patch` says about the object or the list element that it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Object) -> Result<Directive, Error> {
    match patch.get(DIRECTIVE) {
        None => Ok(Directive::Merge),
        Some(value) => match value.as_str() {
            Some("merge") => Ok(Directive::Merge),
            Some("replace") => Ok(Directive::Replace),
            Some("delete") => Ok(Directive::Delete),
            _ => Err(Error::Malformed(format!(
                "unknown patch type: $patch is {value}; it can be merge, replace or delete"
            ))),
        },
    }
}

fn merge_object(of: Type, mut have: Object, patch: &Object) -> Result<Object, Error> {
    match directive(patch)? {
        Directive::Delete => return Ok(Object::new()),
        Directive::Replace => return Ok(plain_object(patch)),
        Directive::Merge => {}
    }
    retain_keys(&mut have, patch)?;
    let ordered = merge_ordered_lists(of, &mut have, patch)?;
    for (key, want) in patch {
        if let Some(name) = key.strip_prefix(DELETE_VALUES) {
            delete_values(&mut have, name, want)?;
        } else if !is_directive(key) && !ordered.contains(&key.as_str()) {
            merge_field(of, &mut have, key, want)?;
        }
    }
    Ok(have)
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_VALUES)
}

fn merge_field(of: Type, have: &mut Object, key: &str, want: &Value) -> Result<(), Error> {
    let field = merge_keys::field(of, key);
    let below = field.map_or(&[] as Type, |f| f.of);
    let merged = match (have.get_mut(key).map(Value::take), want) {
        (_, Value::Null) => {
            have.shift_remove(key);
            return Ok(());
        }
        (Some(Value::Object(old)), Value::Object(new)) => Value::Object(merge_object(below, old, new)?),
        (Some(Value::Array(old)), Value::Array(new)) => {
            Value::Array(merge_list(field.map_or(Patch::Plain, |f| f.patch), below, key, old, new)?)
        }
        _ => plain(want),
    };
    have.insert(key.to_string(), merged);
    Ok(())
}

fn merge_list(strategy: Patch, of: Type, name: &str, have: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, Error> {
    match strategy {
        Patch::Plain => Ok(patch.iter().map(plain).collect()),
        Patch::Values => {
            let mut merged = have.clone();
            merged.extend(patch.iter().filter(|value| !have.contains(value)).cloned());
            Ok(weave(merged, patch, &have, Identity(None)))
        }
        Patch::Key(key) => {
            check_elements(name, key, &have, patch)?;
            merge_elements(of, key, have, patch)
        }
    }
}

/// Every element of a list that merges by a key must be an object and have the key.
fn check_elements(name: &str, key: &str, have: &[Value], patch: &[Value]) -> Result<(), Error> {
    for item in have.iter().chain(patch) {
        let whole_list = item.get(DIRECTIVE).is_some_and(|d| d == "replace") && item.get(key).is_none();
        if !item.is_object() {
            return Err(Error::Malformed(format!("{name} must be a list of objects, but holds {}", kind_of(item))));
        }
        if item.get(key).is_none() && !whole_list {
            return Err(Error::Malformed(format!("map: {item} does not contain declared merge key: {key}")));
        }
    }
    Ok(())
}

fn merge_elements(of: Type, key: &'static str, have: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, Error> {
    let id = Identity(Some(key));
    let (mut merged, mut changes, mut replace) = (have.clone(), Vec::new(), false);
    for item in patch {
        match item.get(DIRECTIVE).map(|_| item.as_object().map_or(Ok(Directive::Merge), directive)).transpose()? {
            None => changes.push(item.clone()),
            Some(Directive::Delete) => merged.retain(|have| !id.same(have, item)),
            Some(Directive::Replace) => replace = true,
            Some(Directive::Merge) => {
                return Err(Error::Malformed("merging lists cannot yet be specified in the patch".into()));
            }
        }
    }
    if replace {
        return Ok(changes.iter().map(plain).collect());
    }
    for change in &changes {
        match id.position(&merged, change) {
            Some(at) => merged[at] = strategic_as(of, &merged[at], change)?,
            None => merged.push(plain(change)),
        }
    }
    Ok(weave(merged, &changes, &have, id))
}

/// Merges the lists that have a `$setElementOrder` and puts them into that order; returns their names.
fn merge_ordered_lists<'p>(of: Type, have: &mut Object, patch: &'p Object) -> Result<Vec<&'p str>, Error> {
    let mut done = Vec::new();
    for (key, order) in patch {
        let Some(name) = key.strip_prefix(SET_ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| must_be_list(key, order))?;
        let field = merge_keys::field(of, name);
        let id = Identity(match field.map(|f| f.patch) {
            Some(Patch::Key(key)) => Some(key),
            _ => None,
        });
        check_order(name, patch.get(name), order, id)?;
        let before = have.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(change) = patch.get(name) {
            merge_field(of, have, name, change)?;
            done.push(name);
        }
        if let Some(Value::Array(merged)) = have.get_mut(name) {
            *merged = weave(std::mem::take(merged), order, &before, id);
        }
    }
    Ok(done)
}

/// What the patch adds or changes must appear in the order list, in the same order.
fn check_order(name: &str, change: Option<&Value>, order: &[Value], id: Identity) -> Result<(), Error> {
    let items = change.and_then(Value::as_array).into_iter().flatten();
    let mut rest = order;
    let is_placed = |item: &&Value| match item.get(DIRECTIVE) {
        Some(directive) => directive != "delete" && id.0.is_some_and(|key| item.get(key).is_some()),
        None => true,
    };
    for item in items.filter(is_placed) {
        let at = id.position(rest, item).ok_or_else(|| {
            let order = Value::from(order.to_vec());
            Error::Malformed(format!(
                "The order in patch list: {item} of {name} doesn't match {SET_ORDER}{name} list: {order}"
            ))
        })?;
        rest = &rest[at + 1..];
    }
    Ok(())
}

fn delete_values(have: &mut Object, name: &str, values: &Value) -> Result<(), Error> {
    let gone = values.as_array().ok_or_else(|| must_be_list(name, values))?;
    if let Some(Value::Array(list)) = have.get_mut(name) {
        list.retain(|value| !gone.contains(value));
    }
    Ok(())
}

fn must_be_list(key: &str, found: &Value) -> Error {
    Error::Malformed(format!("{key} must be a list, not {}", kind_of(found)))
}

fn retain_keys(have: &mut Object, patch: &Object) -> Result<(), Error> {
    let Some(listed) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let retained = listed.as_array().ok_or_else(|| must_be_list(RETAIN_KEYS, listed))?;
    let is_retained = |key: &str| retained.iter().any(|name| name == key);
    let stray = patch.iter().find(|(key, value)| !is_directive(key) && !value.is_null() && !is_retained(key));
    if let Some((key, _)) = stray {
        return Err(Error::Malformed(format!(
            "invalid patch format of retainKeys: {key} is set but not in {RETAIN_KEYS}"
        )));
    }
    have.retain(|key, _| is_retained(key));
    Ok(())
}

/// The value that a patch stands for where there is nothing to merge it into: no directives, no nulls in objects.
fn plain(patch: &Value) -> Value {
    match patch {
        Value::Object(fields) if fields.get(DIRECTIVE).is_some_and(|d| d == "delete") => Value::Object(Object::new()),
        Value::Object(fields) => Value::Object(plain_object(fields)),
        Value::Array(items) => {
            Value::Array(items.iter().filter(|item| !is_directive_element(item)).map(plain).collect())
        }
        other => other.clone(),
    }
}

/// An element of a list that only says what becomes of others, or of the whole list.
fn is_directive_element(item: &Value) -> bool {
    match item.get(DIRECTIVE).and_then(Value::as_str) {
        Some("delete") => true,
        Some("replace") => item.as_object().is_some_and(|fields| fields.len() == 1),
        _ => false,
    }
}

fn plain_object(patch: &Object) -> Object {
    let kept = patch.iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
    kept.map(|(key, value)| (key.clone(), plain(value))).collect()
}
