//! `explain`: what a field means, from the server's own schemas.

use serde_json::Value;
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    session::{Call, Session},
    text::emit,
};

pub(super) const FLAGS: &[Flag] = &[
    switch("recursive", "the names of all fields below"),
    value("api-version", "the version of the kind that is meant"),
    value("output", "plaintext").short('o'),
];

/// Text is broken at this column.
const WIDTH: usize = 76;
/// Schemas that refer to themselves end here.
const MAX_DEPTH: usize = 16;

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let [word] = args.words.as_slice() else {
        return plain(match args.words.len() {
            0 => "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.".to_owned(),
            _ => "We accept only this format: explain RESOURCE".to_owned(),
        });
    };
    let mut path = word.split('.');
    let kind = session.kind_called(path.next().unwrap_or_default()).await.map_err(|e| Error::Bare(e.to_string()))?;
    let document = session.json(&Call::get(format!("/openapi/v3{}", kind.base()))).await?;
    let schemas = Schemas { document: &document };
    let Some(root) = schemas.of_kind(&kind.group, &kind.version, &kind.kind) else {
        return plain(format!("Couldn't find resource for {:?}", kind.qualified()));
    };
    let mut text = String::new();
    if !kind.group.is_empty() {
        text.push_str(&format!("GROUP:      {}\n", kind.group));
    }
    text.push_str(&format!("KIND:       {}\nVERSION:    {}\n\n", kind.kind, kind.version));
    let mut field = Field { name: "", schema: root };
    for name in path {
        let below = schemas.object(field.schema);
        let Some(schema) = below.get("properties").and_then(|p| p.get(name)) else {
            emit(&text)?;
            return plain(format!("field {name:?} does not exist"));
        };
        field = Field { name, schema };
    }
    if !field.name.is_empty() {
        text.push_str(&format!("FIELD: {} <{}>\n\n", field.name, schemas.type_of(field.schema)));
    }
    text.push_str(&schemas.told(&field, args.on("recursive")));
    emit(&text)
}

struct Field<'a> {
    name: &'a str,
    schema: &'a Value,
}

struct Schemas<'a> {
    document: &'a Value,
}

impl<'a> Schemas<'a> {
    fn all(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        json::map(self.document, "components.schemas").into_iter().flatten()
    }

    fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&'a Value> {
        let is = |schema: &Value| {
            let marks = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
            marks.into_iter().flatten().any(|m| {
                (json::text(m, "group"), json::text(m, "version"), json::text(m, "kind")) == (group, version, kind)
            })
        };
        self.all().map(|(_, schema)| schema).find(|s| is(s))
    }

    fn named(&self, reference: &str) -> Option<&'a Value> {
        let name = reference.rsplit('/').next().unwrap_or_default();
        self.all().find(|(n, _)| *n == name).map(|(_, schema)| schema)
    }

    /// The reference of a field: its own, or the one in `allOf`.
    fn reference(schema: &Value) -> Option<&str> {
        let own = schema.get("$ref").and_then(Value::as_str);
        let of = || schema.get("allOf")?.as_array()?.first()?.get("$ref")?.as_str();
        own.or_else(of)
    }

    /// The schema that a field's own fields are in: through references, lists and maps.
    fn object(&self, schema: &'a Value) -> &'a Value {
        let mut at = schema;
        for _ in 0..MAX_DEPTH {
            let next = match Self::reference(at) {
                Some(reference) => self.named(reference),
                None => at.get("items").or_else(|| at.get("additionalProperties").filter(|a| a.is_object())),
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    fn required(&self, owner: &Value, name: &str) -> bool {
        json::texts(owner, "required").contains(&name)
    }

    /// `string`, `[]ServicePort`, `map[string]string`.
    fn type_of(&self, schema: &'a Value) -> String {
        if let Some(reference) = Self::reference(schema) {
            let name = reference.rsplit(['/', '.']).next().unwrap_or_default();
            let target = self.named(reference).unwrap_or(&Value::Null);
            let plain = target.get("properties").is_none() && json::text(target, "type") != "object";
            return match (plain, name, json::text(target, "type")) {
                (true, "IntOrString" | "Quantity", _) | (false, ..) | (_, _, "") => name.to_owned(),
                (true, _, type_) if name == "Time" || name == "MicroTime" => type_.to_owned(),
                _ => name.to_owned(),
            };
        }
        match json::text(schema, "type") {
            "array" => format!("[]{}", schema.get("items").map(|i| self.type_of(i)).unwrap_or_default()),
            "object" => match schema.get("additionalProperties").filter(|a| a.is_object()) {
                Some(inner) => format!("map[string]{}", self.type_of(inner)),
                None => "Object".to_owned(),
            },
            "" => "Object".to_owned(),
            other => other.to_owned(),
        }
    }

    fn told(&self, field: &Field<'a>, recursive: bool) -> String {
        let object = self.object(field.schema);
        let mut text = format!("{}DESCRIPTION:\n", if field.name.is_empty() { "" } else { "\n" });
        let own = json::text(field.schema, "description");
        let of = json::text(object, "description");
        for part in [own, if std::ptr::eq(field.schema, object) { "" } else { of }] {
            if !part.is_empty() {
                text.push_str(&wrapped(part));
            }
        }
        if own.is_empty() && of.is_empty() {
            text.push_str("    <empty>\n");
        }
        text.push_str("    \n");
        let properties = json::map(object, "properties").filter(|p| !p.is_empty());
        if properties.is_some() {
            text.push_str("FIELDS:\n");
            self.fields(object, 1, recursive, &mut text);
        }
        text.push('\n');
        text
    }

    fn fields(&self, object: &'a Value, level: usize, recursive: bool, text: &mut String) {
        let mut all: Vec<(&String, &Value)> = json::map(object, "properties").into_iter().flatten().collect();
        all.sort_by_key(|(name, _)| *name);
        for (name, schema) in all {
            let must = if self.required(object, name) { " -required-" } else { "" };
            text.push_str(&format!("{}{name}\t<{}>{must}\n", "  ".repeat(level), self.type_of(schema)));
            if recursive {
                let below = self.object(schema);
                if level < MAX_DEPTH && below.get("properties").is_some() {
                    self.fields(below, level + 1, true, text);
                }
                continue;
            }
            let own = json::text(schema, "description");
            let told = if own.is_empty() { json::text(self.object(schema), "description") } else { own };
            text.push_str(&if told.is_empty() { "    <no description>\n".to_owned() } else { wrapped(told) });
            text.push('\n');
        }
    }
}

/// Broken into lines of at most [`WIDTH`] characters, with an indent of four.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for (at, word) in paragraph.split(' ').enumerate() {
            if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
                out.push_str(&format!("    {}\n", line.trim_end()));
                line.clear();
            } else if at > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
        out.push_str(&format!("    {line}\n"));
    }
    out
}
