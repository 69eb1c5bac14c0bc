//! The schemas of a set of resources, in the dialect of one OpenAPI version.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value, json};

use super::{gvk, merge};
use crate::merge_keys;
use crate::resources::{Resource, Type};
use crate::schema::embedded;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn path(self) -> &'static str {
        match self {
            Dialect::V2 => "/definitions",
            Dialect::V3 => "/components/schemas",
        }
    }

    pub(super) fn reference(self, name: &str) -> Value {
        json!({"$ref": format!("#{}/{name}", self.path())})
    }
}

/// All definitions that `rows` need, with lists and what every request may carry or answer.
pub(super) fn of(rows: &[&Resource], dialect: Dialect) -> Map<String, Value> {
    let mut known = embedded::definitions();
    let mut all = Map::new();
    for r in rows {
        add(&mut all, &mut known, &r.schema, Some((r.group, r.version, r.kind)), dialect);
        for sub in r.subresources {
            if let (Some(schema), Some((group, version)), Some(kind)) = (&sub.schema, sub.group_version, sub.kind) {
                add(&mut all, &mut known, schema, Some((group, version, kind)), dialect);
            }
        }
    }
    for common in [Type::of::<meta::ListMeta>(), Type::of::<meta::Status>(), Type::of::<meta::DeleteOptions>()] {
        add(&mut all, &mut known, &common, None, dialect);
    }
    all.extend(rows.iter().filter(|r| r.stored).map(|r| (list_name(r), list(r, dialect))));
    for r in rows {
        merge::annotate(&mut all, &r.schema.name(), merge_keys::root(r.group, r.kind));
    }
    all.iter_mut().for_each(|(name, schema)| adapt_definition(name, schema, dialect));
    all.sort_keys();
    all
}

/// Moves a definition and those that it refers to from `known` to `all`.
fn add(
    all: &mut Map<String, Value>,
    known: &mut Map<String, Value>,
    root: &Type,
    kind: Option<(&str, &str, &str)>,
    dialect: Dialect,
) {
    let mut wanted = vec![root.name()];
    while let Some(name) = wanted.pop() {
        let Some(mut schema) = known.shift_remove(&name) else { continue };
        refer(&mut schema, dialect, &mut wanted);
        all.insert(name, schema);
    }
    if let (Some((group, version, kind)), Some(schema)) = (kind, all.get_mut(&root.name())) {
        schema["x-kubernetes-group-version-kind"] = json!([gvk(group, version, kind)]);
    }
}

/// Turns references into the dialect's and collects the names that they lead to.
fn refer(schema: &mut Value, dialect: Dialect, wanted: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().filter(|_| key == "$ref").and_then(|text| text.strip_prefix("#/$defs/")) {
                    Some(name) => {
                        wanted.push(name.to_owned());
                        *value = format!("#{}/{name}", dialect.path()).into();
                    }
                    None => refer(value, dialect, wanted),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| refer(value, dialect, wanted)),
        _ => {}
    }
}

/// `io.k8s.api.core.v1.PodList`.
pub(super) fn list_name(r: &Resource) -> String {
    format!("{}List", r.schema.name())
}

fn list(r: &Resource, dialect: Dialect) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "description": format!("{}List is a list of {}.", r.kind, r.plural),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("The version of this representation of the list."),
            "items": {"type": "array", "items": dialect.reference(&r.schema.name()), "description": "The objects."},
            "kind": text("The kind of this list."),
            "metadata": dialect.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
        },
        "x-kubernetes-group-version-kind": [gvk(r.group, r.version, &format!("{}List", r.kind))],
    })
}

fn adapt_definition(name: &str, schema: &mut Value, dialect: Dialect) {
    let form = match name.rsplit('.').next() {
        Some("IntOrString") => Some("int-or-string"),
        Some("Quantity") => Some(""),
        _ => None,
    };
    if let (Some(form), Some(map)) = (form, schema.as_object_mut()) {
        scalar(map, form, dialect);
        return;
    }
    adapt(schema, dialect);
}

/// A string that may also be written as a number.
fn scalar(map: &mut Map<String, Value>, form: &str, dialect: Dialect) {
    map.shift_remove("x-kubernetes-int-or-string");
    if dialect == Dialect::V2 {
        map.insert("type".into(), "string".into());
    } else {
        let number = if form.is_empty() { "number" } else { "integer" };
        map.insert("oneOf".into(), json!([{"type": "string"}, {"type": number}]));
    }
    if !form.is_empty() {
        map.insert("format".into(), form.into());
    }
}

/// In v3 a reference stands alone, so one with a description is wrapped; in v2 both may stand side by side.
fn adapt(schema: &mut Value, dialect: Dialect) {
    let Some(map) = schema.as_object_mut() else { return };
    if dialect == Dialect::V3
        && map.len() > 1
        && let Some(reference) = map.shift_remove("$ref")
    {
        map.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|p| adapt(p, dialect));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(key) {
            adapt(below, dialect);
        }
    }
}
