//! How lists and maps merge, written into the schemas: kubectl reads it there to make its patches.

use serde_json::{Map, Value, json};

use crate::merge_keys::{Apply, Field, Patch, Type};

/// Annotates the definition `name` and those below it.
pub(super) fn annotate(definitions: &mut Map<String, Value>, name: &str, of: Type) {
    for field in of {
        let property =
            definitions.get_mut(name).and_then(|d| d.get_mut("properties")).and_then(|p| p.get_mut(field.name));
        let Some(property) = property.and_then(Value::as_object_mut) else { continue };
        write(property, field);
        if let Some(below) = target(property).filter(|_| !field.of.is_empty()) {
            annotate(definitions, &below, field.of);
        }
    }
}

fn write(property: &mut Map<String, Value>, field: &Field) {
    let mut set = |key: &str, value: Value| property.insert(format!("x-kubernetes-{key}"), value);
    let strategy = match (field.patch, field.retain_keys) {
        (Patch::Plain, false) => None,
        (Patch::Plain, true) => Some("retainKeys"),
        (_, false) => Some("merge"),
        (_, true) => Some("merge,retainKeys"),
    };
    if let Some(strategy) = strategy {
        set("patch-strategy", strategy.into());
    }
    if let Patch::Key(key) = field.patch {
        set("patch-merge-key", key.into());
    }
    match field.apply {
        Apply::Plain => {}
        Apply::Set => {
            set("list-type", "set".into());
        }
        Apply::Keys(keys) => {
            set("list-type", "map".into());
            set("list-map-keys", json!(keys.iter().map(|k| k.name).collect::<Vec<_>>()));
        }
        Apply::Atomic => {
            let kind = if property.get("type") == Some(&json!("array")) { "list" } else { "map" };
            property.insert(format!("x-kubernetes-{kind}-type"), "atomic".into());
        }
    }
}

/// The definition that a property, its elements or its values refer to.
fn target(property: &Map<String, Value>) -> Option<String> {
    let inner = ["items", "additionalProperties"].into_iter().find_map(|k| property.get(k)?.get("$ref"));
    let reference = property.get("$ref").or(inner)?.as_str()?;
    reference.rsplit('/').next().map(str::to_owned)
}
