//! JSON objects written as Kubernetes' protobuf, by the same table by which they are read. What the table does not know is
//! left out, as by every client and server that is older than a field.

use ::base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{Entry, MAGIC, messages, type_of};
use crate::schema::compile::{self, Node, Table};

const META: &str = "apimachinery.pkg.apis.meta.v1";

/// A whole body: envelope and object, a list of objects, a Status or PartialObjectMetadata. None for kinds that have no
/// protobuf form (tables) or are not known; they are answered as JSON.
pub fn encode(value: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (value["apiVersion"].as_str()?, value["kind"].as_str()?);
    let raw = match (api_version, kind, kind.strip_suffix("List")) {
        ("v1", "Status", _) => well_known("Status", value),
        ("meta.k8s.io/v1", "PartialObjectMetadata", _) => partial(value),
        ("meta.k8s.io/v1", "PartialObjectMetadataList", _) => list(value, |item| Some(partial(item)))?,
        (_, _, Some(of)) if value["items"].is_array() => list(value, |item| object(api_version, of, item))?,
        _ => object(api_version, kind, value)?,
    };
    let mut envelope = MAGIC.to_vec();
    let mut type_meta = vec![];
    bytes(&mut type_meta, 1, api_version.as_bytes());
    bytes(&mut type_meta, 2, kind.as_bytes());
    bytes(&mut envelope, 1, &type_meta);
    bytes(&mut envelope, 2, &raw);
    // contentEncoding and contentType, as Go writes them.
    bytes(&mut envelope, 3, b"");
    bytes(&mut envelope, 4, b"");
    Some(envelope)
}

/// One event of a watch, as it stands in the stream: its length in four bytes, then a WatchEvent. `object` is a whole body.
pub fn watch_frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = vec![];
    bytes(&mut raw, 1, object);
    let mut event = vec![0; 4];
    bytes(&mut event, 1, kind.as_bytes());
    bytes(&mut event, 2, &raw);
    let length = (event.len() - 4) as u32;
    event[..4].copy_from_slice(&length.to_be_bytes());
    event
}

fn object(api_version: &str, kind: &str, value: &Value) -> Option<Vec<u8>> {
    let schema = type_of(api_version, kind)?;
    let name = schema.name();
    Some(compile::with(&schema, |table, _| Writer { table }.named(&name, value)))
}

/// A message whose fields are of the usual types of metadata.
fn well_known(message: &str, value: &Value) -> Vec<u8> {
    let mut out = vec![];
    let Some(entries) = messages().get(format!("{META}.{message}").as_str()) else { return out };
    for (number, entry) in (1..).zip(entries) {
        let Entry::Named(name, _) = entry else { continue };
        match &value[*name] {
            Value::String(text) => bytes(&mut out, number, text.as_bytes()),
            Value::Number(n) => number_field(&mut out, number, n.as_i64().unwrap_or_default() as u64),
            Value::Object(_) if *name == "metadata" => bytes(&mut out, number, &well_known("ListMeta", &value[*name])),
            Value::Object(_) => bytes(&mut out, number, &well_known("StatusDetails", &value[*name])),
            Value::Array(causes) => {
                causes.iter().for_each(|cause| bytes(&mut out, number, &well_known("StatusCause", cause)));
            }
            _ => {}
        }
    }
    out
}

/// Only the metadata, which every kind has alike.
fn partial(value: &Value) -> Vec<u8> {
    let metadata = serde_json::json!({"metadata": value["metadata"]});
    object("v1", "ConfigMap", &metadata).unwrap_or_default()
}

/// The list's metadata and its items.
fn list(value: &Value, item: impl Fn(&Value) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut out = vec![];
    bytes(&mut out, 1, &well_known("ListMeta", &value["metadata"]));
    for one in value["items"].as_array()? {
        bytes(&mut out, 2, &item(one)?);
    }
    Some(out)
}

struct Writer<'a> {
    table: &'a Table,
}

impl Writer<'_> {
    fn named(&self, name: &str, value: &Value) -> Vec<u8> {
        let mut out = vec![];
        if let (Some(Node::Object(schema)), Some(object)) = (self.table.find(name), value.as_object()) {
            self.message(name.trim_start_matches("io.k8s."), schema, object, &mut out);
        }
        out
    }

    fn message(&self, message: &str, schema: &[(Box<str>, Node)], object: &Map<String, Value>, out: &mut Vec<u8>) {
        let entries = messages().get(message).map(Vec::as_slice).unwrap_or_default();
        for (number, entry) in (1..).zip(entries) {
            match entry {
                Entry::Free => {}
                Entry::Inline(inline) => {
                    let package = message.rsplit_once('.').map_or("", |(package, _)| package);
                    let mut below = vec![];
                    self.message(&format!("{package}.{inline}"), schema, object, &mut below);
                    bytes(out, number, &below);
                }
                Entry::Named(name, _) => {
                    let Some(value) = object.get(*name).filter(|value| !value.is_null()) else { continue };
                    if let Ok(i) = schema.binary_search_by(|(n, _)| n.as_ref().cmp(name)) {
                        self.field(number, &schema[i].1, value, out);
                    }
                }
            }
        }
    }

    /// What does not fit its type is left out: stored objects were checked when they came.
    fn field(&self, number: u32, node: &Node, value: &Value, out: &mut Vec<u8>) {
        match (node, value) {
            (Node::List(of), Value::Array(items)) => items.iter().for_each(|item| self.field(number, of, item, out)),
            (Node::Map(of), Value::Object(entries)) => {
                for (key, value) in entries {
                    let mut entry = vec![];
                    bytes(&mut entry, 1, key.as_bytes());
                    self.entry(of, value, &mut entry);
                    bytes(out, number, &entry);
                }
            }
            (Node::Ref(i), _) => match self.table.get(*i) {
                (name, Node::Object(_)) => bytes(out, number, &self.named(name, value)),
                (_, node) => self.field(number, node, value, out),
            },
            (Node::Str, Value::String(text)) => bytes(out, number, text.as_bytes()),
            (Node::Bytes, Value::String(text)) => bytes(out, number, &STANDARD.decode(text).unwrap_or_default()),
            (Node::Bool, Value::Bool(b)) => number_field(out, number, u64::from(*b)),
            (Node::Int(_), Value::Number(n)) => number_field(out, number, n.as_i64().unwrap_or_default() as u64),
            (Node::Number, Value::Number(n)) => {
                varint(out, u64::from(number) << 3 | 1);
                out.extend(n.as_f64().unwrap_or_default().to_le_bytes());
            }
            (Node::Quantity, _) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                bytes(out, number, &text_message(&text));
            }
            (Node::IntOrString, _) => bytes(out, number, &int_or_string(value)),
            (Node::Time { .. }, Value::String(text)) => bytes(out, number, &time(text)),
            (Node::AnyObject | Node::Any, _) => bytes(out, number, &text_message(&value.to_string())),
            _ => {}
        }
    }

    /// The value of a map; a list in it is a message with one repeated field.
    fn entry(&self, of: &Node, value: &Value, out: &mut Vec<u8>) {
        match of {
            Node::List(_) => {
                let mut below = vec![];
                self.field(1, of, value, &mut below);
                bytes(out, 2, &below);
            }
            of => self.field(2, of, value, out),
        }
    }
}

/// A message of one text in field 1.
fn text_message(text: &str) -> Vec<u8> {
    let mut out = vec![];
    bytes(&mut out, 1, text.as_bytes());
    out
}

fn int_or_string(value: &Value) -> Vec<u8> {
    let mut out = vec![];
    number_field(&mut out, 1, u64::from(value.is_string()));
    number_field(&mut out, 2, value.as_i64().unwrap_or_default() as u64);
    bytes(&mut out, 3, value.as_str().unwrap_or_default().as_bytes());
    out
}

/// Seconds and nanoseconds; nothing when it is no time.
fn time(text: &str) -> Vec<u8> {
    let mut out = vec![];
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        number_field(&mut out, 1, at.as_second() as u64);
        number_field(&mut out, 2, at.subsec_nanosecond() as i64 as u64);
    }
    out
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn number_field(out: &mut Vec<u8>, number: u32, n: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, n);
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}
