//! Kubernetes' protobuf bodies, read into the same JSON as everything else, and written from it. Go clients with generated
//! types send and ask for them, among them `kubectl create deployment`.
//!
//! The types come from the schemas; `fields.txt` adds what a schema does not know: the number of each field. A line is a
//! message and its fields in order from 1; `-` is a number without a field, `+Type` a message whose fields stand in JSON among
//! its parent's. Go sends fields that were never set as zeros, unless they are pointers: a `?` after a number or a truth says
//! that zero means unset, a `!` after a text that even an empty one is a choice. Fields that a client newer than the table
//! sends are passed over, as the reference does with fields it does not know.

mod encode;
mod wire;

use std::collections::HashMap;
use std::sync::OnceLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value};

use crate::resources::{RESOURCES, Type, split_api_version};
use crate::schema::compile::{self, Node, Table};
use crate::strategy::base64;
pub use encode::{encode, watch_frame};
use wire::{Field, Fields};

/// What such a body begins with.
pub const MAGIC: &[u8] = b"k8s\0";
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Messages in messages; JSON bodies have the same limit.
const MAX_DEPTH: usize = 100;

/// Why a body cannot be read; answered as a bad request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the body is not Kubernetes protobuf: it does not begin with \"k8s\\0\"")]
    NoMagic,
    #[error("the protobuf body is truncated or malformed")]
    Malformed,
    #[error("the protobuf body has the unsupported content encoding {0:?}")]
    Encoding(String),
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("the protobuf body is nested deeper than {MAX_DEPTH} messages")]
    TooDeep,
}

/// Reads a whole body: envelope and object. `apiVersion` and `kind` are those of the envelope.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?)?;
    let unknown = || Error::UnknownKind { api_version: envelope.api_version.clone(), kind: envelope.kind.clone() };
    let schema = type_of(&envelope.api_version, &envelope.kind).ok_or_else(unknown)?;
    let mut object = compile::with(&schema, |table, _| {
        let reader = Reader { table };
        reader.named(&schema.name(), envelope.raw, 0)
    })?;
    let mut whole = Map::new();
    whole.insert("apiVersion".into(), envelope.api_version.into());
    whole.insert("kind".into(), envelope.kind.into());
    if let Some(fields) = object.as_object_mut() {
        whole.append(fields);
    }
    Ok(whole.into())
}

/// `runtime.Unknown`: what the raw message is.
#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut envelope = Envelope::default();
        for field in Fields::of(bytes) {
            match field? {
                (1, Field::Bytes(meta)) => {
                    for field in Fields::of(meta) {
                        match field? {
                            (1, Field::Bytes(text)) => envelope.api_version = utf8(text)?,
                            (2, Field::Bytes(text)) => envelope.kind = utf8(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Field::Bytes(raw)) => envelope.raw = raw,
                (3, Field::Bytes(encoding)) if !encoding.is_empty() => return Err(Error::Encoding(utf8(encoding)?)),
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// A stored kind, the kind of a subresource, or the options of a delete.
fn type_of(api_version: &str, kind: &str) -> Option<Type> {
    let (group, version) = split_api_version(api_version);
    if kind == "DeleteOptions" {
        return Some(Type::of::<meta::DeleteOptions>());
    }
    let stored = RESOURCES.iter().find(|r| r.group == group && r.version == version && r.kind == kind);
    let below = || {
        let subs = RESOURCES.iter().flat_map(|r| r.subresources);
        subs.filter(|s| s.group_version == Some((group, version)) && s.kind == Some(kind)).find_map(|s| s.schema)
    };
    stored.map(|r| r.schema).or_else(below)
}

/// A field of a message, as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// No field has this number.
    Free,
    Inline(&'static str),
    Named(&'static str, Zero),
}

/// What a zero that was sent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zero {
    /// Nothing, where it is an empty text.
    Usual,
    Unset,
    Meant,
}

impl Entry {
    fn parse(text: &'static str) -> Entry {
        let zeros = [('?', Zero::Unset), ('!', Zero::Meant)];
        match (text, text.strip_prefix('+')) {
            ("-", _) => Entry::Free,
            (_, Some(message)) => Entry::Inline(message),
            _ => {
                let marked = zeros.iter().find_map(|(mark, zero)| Some(Entry::Named(text.strip_suffix(*mark)?, *zero)));
                marked.unwrap_or(Entry::Named(text, Zero::Usual))
            }
        }
    }
}

/// The fields of each message by its name without the common prefix.
fn messages() -> &'static HashMap<&'static str, Vec<Entry>> {
    static MESSAGES: OnceLock<HashMap<&str, Vec<Entry>>> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let lines = include_str!("fields.txt").lines().filter_map(|line| line.split_once(' '));
        lines.map(|(name, fields)| (name, fields.split(' ').map(Entry::parse).collect())).collect()
    })
}

struct Reader<'a> {
    table: &'a Table,
}

impl Reader<'_> {
    /// The message of a definition, `io.k8s.api.core.v1.Pod`.
    fn named(&self, name: &str, bytes: &[u8], depth: usize) -> Result<Value, Error> {
        let fields: &[(Box<str>, Node)] = match self.table.find(name) {
            Some(Node::Object(fields)) => fields,
            _ => &[],
        };
        let mut out = Map::new();
        self.message(name.trim_start_matches("io.k8s."), fields, bytes, depth, &mut out)?;
        Ok(out.into())
    }

    fn message(
        &self,
        message: &str,
        schema: &[(Box<str>, Node)],
        bytes: &[u8],
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        let entries = messages().get(message).map(Vec::as_slice).unwrap_or_default();
        for field in Fields::of(bytes) {
            let (number, field) = field?;
            match (entries.get(number as usize - 1), &field) {
                (Some(Entry::Inline(inline)), Field::Bytes(below)) => {
                    let package = message.rsplit_once('.').map_or("", |(package, _)| package);
                    self.message(&format!("{package}.{inline}"), schema, below, depth + 1, out)?;
                }
                (Some(Entry::Named(name, zero)), _) => {
                    if let Ok(i) = schema.binary_search_by(|(n, _)| n.as_ref().cmp(name)) {
                        self.field((name, *zero), &schema[i].1, &field, depth, out)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn field(
        &self,
        (name, zero): (&str, Zero),
        node: &Node,
        field: &Field<'_>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        match node {
            Node::List(of) => {
                let element = self.value(of, field, depth)?;
                let list = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or(Error::Malformed)?.push(element);
            }
            Node::Map(of) => {
                let (key, value) = self.entry(of, field, depth)?;
                let map = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
                map.as_object_mut().ok_or(Error::Malformed)?.insert(key, value);
            }
            node => {
                let value = self.value(node, field, depth)?;
                if !unset(zero, &value) {
                    out.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// A map is a list of messages of key and value.
    fn entry(&self, of: &Node, field: &Field<'_>, depth: usize) -> Result<(String, Value), Error> {
        let Field::Bytes(bytes) = field else { return Err(Error::Malformed) };
        let (mut key, mut value) = (String::new(), None);
        for field in Fields::of(bytes) {
            match field? {
                (1, Field::Bytes(text)) => key = utf8(text)?,
                (2, field) => value = Some(self.value(of, &field, depth + 1)?),
                _ => {}
            }
        }
        let empty =
            || self.value(of, &Field::Bytes(&[]), depth + 1).or_else(|_| self.value(of, &Field::Number(0), depth + 1));
        Ok((key, value.map_or_else(empty, Ok)?))
    }

    fn value(&self, node: &Node, field: &Field<'_>, depth: usize) -> Result<Value, Error> {
        Ok(match (node, field) {
            (Node::Ref(i), _) => match (self.table.get(*i), field) {
                ((name, Node::Object(_)), Field::Bytes(bytes)) => self.named(name, bytes, depth + 1)?,
                ((_, node), field) => self.value(node, field, depth)?,
            },
            (Node::Str, Field::Bytes(text)) => utf8(text)?.into(),
            (Node::Bytes, Field::Bytes(bytes)) => base64(bytes).into(),
            (Node::Bool, Field::Number(n)) => (*n != 0).into(),
            // Negative numbers travel as their two's complement.
            (Node::Int(_), Field::Number(n)) => (*n as i64).into(),
            (Node::Number, Field::Fixed64(bits)) => f64::from_bits(*bits).into(),
            (Node::Quantity, Field::Bytes(bytes)) => first_text(bytes)?.into(),
            (Node::IntOrString, Field::Bytes(bytes)) => int_or_string(bytes)?,
            (Node::Time { micro }, Field::Bytes(bytes)) => time(bytes, *micro)?,
            (Node::AnyObject | Node::Any, Field::Bytes(bytes)) => raw(bytes)?,
            // Lists in maps, such as the extra values of a user, are messages with one repeated field.
            (Node::List(of), Field::Bytes(bytes)) => {
                let elements = Fields::of(bytes).map(|f| f.and_then(|(_, f)| self.value(of, &f, depth + 1)));
                elements.collect::<Result<Vec<Value>, Error>>()?.into()
            }
            (Node::Map(of), field @ Field::Bytes(_)) => {
                let (key, value) = self.entry(of, field, depth)?;
                Value::Object([(key, value)].into_iter().collect())
            }
            _ => return Err(Error::Malformed),
        })
    }
}

/// Left out, as Go's JSON encoder leaves it out.
fn unset(zero: Zero, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty() && zero != Zero::Meant,
        Value::Number(n) => n.as_i64() == Some(0) && zero == Zero::Unset,
        Value::Bool(false) => zero == Zero::Unset,
        _ => false,
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Malformed)
}

/// The text in field 1: a Quantity.
fn first_text(bytes: &[u8]) -> Result<String, Error> {
    for field in Fields::of(bytes) {
        if let (1, Field::Bytes(text)) = field? {
            return utf8(text);
        }
    }
    Ok("0".to_owned())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Error> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields::of(bytes) {
        match field? {
            (1, Field::Number(n)) => is_text = n == 1,
            (2, Field::Number(n)) => number = n as i64,
            (3, Field::Bytes(t)) => text = utf8(t)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// Seconds and nanoseconds; an empty message is no time at all.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Error> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::of(bytes) {
        match field? {
            (1, Field::Number(n)) => seconds = n as i64,
            (2, Field::Number(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| Error::Malformed)?;
    Ok(if micro { format!("{at:.6}") } else { format!("{at:.0}") }.into())
}

/// JSON inside protobuf: RawExtension, FieldsV1.
fn raw(bytes: &[u8]) -> Result<Value, Error> {
    for field in Fields::of(bytes) {
        if let (1, Field::Bytes(json)) = field? {
            return serde_json::from_slice(json).map_err(|_| Error::Malformed);
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests;
