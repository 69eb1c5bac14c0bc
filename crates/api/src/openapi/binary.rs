//! The v2 document in the protobuf form that kubectl before 1.29 insists on (gnostic's `openapi.v2.Document`).
//!
//! A walk over the JSON document; the numbers are the form's field numbers. Extensions are carried as YAML, of which JSON is a
//! part.

use serde_json::{Map, Value};

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// The string at `key`, if there is one.
    fn text(&mut self, field: u64, of: &Value, key: &str) {
        if let Some(text) = of.get(key).and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, of: &Value, key: &str) {
        for text in of.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn truth(&mut self, field: u64, of: &Value, key: &str) {
        if of.get(key).and_then(Value::as_bool) == Some(true) {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn below(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        let mut message = Message::default();
        write(&mut message);
        self.bytes(field, &message.0);
    }

    /// A list of pairs of name (1) and value (2).
    fn named<'a>(
        &mut self,
        field: u64,
        of: impl IntoIterator<Item = (&'a String, &'a Value)>,
        write: fn(&mut Message, &Value),
    ) {
        for (name, value) in of {
            self.below(field, |pair| {
                pair.bytes(1, name.as_bytes());
                pair.below(2, |m| write(m, value));
            });
        }
    }

    fn extensions(&mut self, field: u64, of: &Value) {
        let all = of.as_object().into_iter().flatten().filter(|(k, _)| k.starts_with("x-"));
        self.named(field, all, |m, value| m.bytes(2, value.to_string().as_bytes()));
    }
}

fn object<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    of.get(key).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// The document as one message.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document, "swagger");
    if let Some(info) = document.get("info") {
        out.below(2, |m| {
            m.text(1, info, "title");
            m.text(2, info, "version");
        });
    }
    out.below(8, |m| m.named(2, object(document, "paths"), path_item));
    out.below(9, |m| m.named(1, object(document, "definitions"), schema));
    out.0
}

fn path_item(out: &mut Message, item: &Value) {
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = item.get(method) {
            out.below(field, |m| operation(m, found));
        }
    }
    parameters(out, 9, item);
}

fn operation(out: &mut Message, operation: &Value) {
    out.text(5, operation, "operationId");
    out.texts(7, operation, "consumes");
    parameters(out, 8, operation);
    out.below(9, |m| {
        m.named(1, object(operation, "responses"), |m, response| {
            m.below(1, |m| {
                m.text(1, response, "description");
                if let Some(of) = response.get("schema") {
                    m.below(2, |m| m.below(1, |m| schema(m, of)));
                }
            });
        });
    });
    out.extensions(13, operation);
}

fn parameters(out: &mut Message, field: u64, of: &Value) {
    for found in of.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        out.below(field, |item| item.below(1, |m| parameter(m, found)));
    }
}

fn parameter(out: &mut Message, parameter: &Value) {
    let place = parameter.get("in").and_then(Value::as_str);
    if place == Some("body") {
        return out.below(1, |m| {
            m.text(2, parameter, "name");
            m.text(3, parameter, "in");
            if let Some(of) = parameter.get("schema") {
                m.below(5, |m| schema(m, of));
            }
        });
    }
    let (variant, kind) = if place == Some("path") { (4, 5) } else { (3, 6) };
    out.below(2, |m| {
        m.below(variant, |m| {
            m.truth(1, parameter, "required");
            m.text(2, parameter, "in");
            m.text(4, parameter, "name");
            m.text(kind, parameter, "type");
        });
    });
}

fn schema(out: &mut Message, of: &Value) {
    out.text(1, of, "$ref");
    out.text(2, of, "format");
    out.text(4, of, "description");
    out.texts(19, of, "required");
    if let Some(values) = of.get("additionalProperties").filter(|v| v.is_object()) {
        out.below(21, |m| m.below(1, |m| schema(m, values)));
    }
    if of.get("type").is_some() {
        out.below(22, |m| m.text(1, of, "type"));
    }
    if let Some(items) = of.get("items") {
        out.below(23, |m| m.below(1, |m| schema(m, items)));
    }
    if of.get("properties").is_some() {
        out.below(25, |m| m.named(1, object(of, "properties"), schema));
    }
    out.extensions(31, of);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_nest() {
        let document = json!({"swagger": "2.0", "definitions": {"a": {"type": "string", "x-k": {"b": 1}}}});
        let schema =
            [b"\xb2\x01\x08\x0a\x06string".as_slice(), b"\xfa\x01\x10\x0a\x03x-k\x12\x09\x12\x07{\"b\":1}"].concat();
        let named = [b"\x0a\x01a\x12".as_slice(), &[schema.len() as u8], &schema].concat();
        let definitions = [b"\x0a".as_slice(), &[named.len() as u8], &named].concat();
        let expect = [b"\x0a\x032.0\x42\x00\x4a".as_slice(), &[definitions.len() as u8], &definitions].concat();
        assert_eq!(encode(&document), expect);
    }
}
