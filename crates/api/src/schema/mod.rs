//! Does an object fit its kind? Unknown fields and wrong types, each with its path and in the words of the reference's decoder.
//!
//! The schemas are those of k8s-openapi, embedded, and compiled per kind on first use into a compact table.

pub(crate) mod compile;
pub(crate) mod embedded;

use serde_json::{Map, Value};

use crate::resources::{Resource, Type};
use compile::{Node, Table};

/// One way in which an object does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issue {
    /// No such field; tolerated, warned of or refused as `fieldValidation` says.
    Unknown { path: String },
    /// Cannot be decoded at all; always refused.
    WrongType { path: String, message: String },
}

impl Issue {
    pub fn path(&self) -> &str {
        match self {
            Issue::Unknown { path } | Issue::WrongType { path, .. } => path,
        }
    }

    /// As a warning header or a part of an error says it: `unknown field "spec.foo"`.
    pub fn message(&self) -> String {
        match self {
            Issue::Unknown { path } => format!("unknown field {path:?}"),
            Issue::WrongType { message, .. } => message.clone(),
        }
    }
}

/// What does not fit the schema of `res`, in document order.
pub fn check(res: &Resource, object: &Value) -> Vec<Issue> {
    check_type(&res.schema, res.kind, object)
}

/// As [`check`], for the body of a subresource that has a type of its own (`Scale`, `Binding`, `Eviction`).
pub fn check_type(schema: &Type, kind: &str, object: &Value) -> Vec<Issue> {
    compile::with(schema, |table, root| {
        let mut walk = Walk { table, issues: Vec::new(), path: String::new(), structure: kind.to_owned() };
        walk.node(root, object);
        walk.issues
    })
}

/// `strict decoding error: unknown field "spec.foo", …`, if there are unknown fields.
pub fn strict_error(issues: &[Issue]) -> Option<String> {
    let unknown: Vec<String> =
        issues.iter().filter(|i| matches!(i, Issue::Unknown { .. })).map(Issue::message).collect();
    (!unknown.is_empty()).then(|| format!("strict decoding error: {}", unknown.join(", ")))
}

/// The refusal of an object that cannot be decoded as its kind; None if all types are right.
pub fn decode_error(res: &Resource, issues: &[Issue]) -> Option<String> {
    let wrong = issues.iter().find(|i| matches!(i, Issue::WrongType { .. }))?;
    let (kind, version) = (res.kind, res.version);
    Some(format!("{kind} in version {version:?} cannot be handled as a {kind}: {}", wrong.message()))
}

struct Walk<'a> {
    table: &'a Table,
    issues: Vec<Issue>,
    path: String,
    /// The innermost struct, for messages.
    structure: String,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, value: &Value) {
        match (node, value) {
            // As in Go, null means "leave it at its zero value".
            (_, Value::Null) | (Node::Any, _) => {}
            (Node::Ref(i), _) => self.reference(*i, value),
            (Node::Object(fields), Value::Object(map)) => self.object(fields, map),
            (Node::AnyObject, Value::Object(_)) | (Node::Bool, Value::Bool(_)) | (Node::Str, Value::String(_)) => {}
            (Node::Map(of), Value::Object(map)) => {
                map.iter().for_each(|(k, v)| self.below(&format!(".{k}"), |w| w.node(of, v)))
            }
            (Node::List(of), Value::Array(list)) => {
                list.iter().enumerate().for_each(|(i, v)| self.below(&format!("[{i}]"), |w| w.node(of, v)))
            }
            (Node::Int(bits), Value::Number(n)) if fits(n, *bits) => {}
            (Node::Number, Value::Number(_)) => {}
            (Node::IntOrString, Value::String(_)) => {}
            (Node::IntOrString, Value::Number(n)) if fits(n, 32) => {}
            (Node::Quantity, Value::Number(_)) => {}
            (Node::Quantity, Value::String(s)) => self.quantity(s),
            (Node::Time { .. }, Value::String(s)) => self.time(s),
            (Node::Bytes, Value::String(s)) => self.bytes(s),
            _ => self.wrong(node, value),
        }
    }

    fn reference(&mut self, i: u32, value: &Value) {
        let (name, node) = self.table.get(i);
        let outer = std::mem::replace(&mut self.structure, compile::short(name).to_owned());
        match (node, value) {
            (Node::Object(_), Value::Object(_)) => self.node(node, value),
            (Node::Object(_), _) => {
                self.structure = outer.clone();
                self.wrong(&Node::Ref(i), value);
            }
            _ => {
                self.structure = outer.clone();
                self.node(node, value);
            }
        }
        self.structure = outer;
    }

    fn object(&mut self, fields: &[(Box<str>, Node)], map: &Map<String, Value>) {
        for (key, value) in map {
            let step = if self.path.is_empty() { key.clone() } else { format!(".{key}") };
            match fields.binary_search_by(|(name, _)| name.as_ref().cmp(key)) {
                Ok(i) => self.below(&step, |w| w.node(&fields[i].1, value)),
                Err(_) => self.issues.push(Issue::Unknown { path: format!("{}{step}", self.path) }),
            }
        }
    }

    fn below(&mut self, step: &str, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(step);
        then(self);
        self.path.truncate(length);
    }

    fn wrong(&mut self, node: &Node, value: &Value) {
        let found = match value {
            Value::Number(n) if matches!(node, Node::Int(_) | Node::IntOrString) => format!("number {n}"),
            other => json_kind(other).to_owned(),
        };
        let wanted = self.table.go_type(node);
        let field = without_indexes(&self.path);
        let message = match self.path.is_empty() {
            true => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
            false => {
                format!(
                    "json: cannot unmarshal {found} into Go struct field {}.{field} of type {wanted}",
                    self.structure
                )
            }
        };
        self.refuse(message);
    }

    fn refuse(&mut self, message: String) {
        self.issues.push(Issue::WrongType { path: self.path.clone(), message });
    }

    fn quantity(&mut self, text: &str) {
        if !crate::quantity::valid(text) {
            self.refuse(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into(),
            );
        }
    }

    fn time(&mut self, text: &str) {
        if text.parse::<jiff::Timestamp>().is_err() {
            let layout = "2006-01-02T15:04:05Z07:00";
            self.refuse(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as {:?}", "2006"));
        }
    }

    fn bytes(&mut self, text: &str) {
        if let Some(at) = base64_error(text) {
            self.refuse(format!("illegal base64 data at input byte {at}"));
        }
    }
}

fn fits(n: &serde_json::Number, bits: u8) -> bool {
    match (n.as_i64(), bits) {
        (Some(i), 32) => i32::try_from(i).is_ok(),
        (Some(_), _) => true,
        (None, _) => false,
    }
}

fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The decoder names fields without list positions.
fn without_indexes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

/// The first byte that standard padded base64 cannot have there.
fn base64_error(text: &str) -> Option<usize> {
    let bytes: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let digits = bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')).count();
    let padding = bytes[digits..].iter().take_while(|b| **b == b'=').count();
    match (digits % 4, padding) {
        _ if digits + padding < bytes.len() => Some(digits + padding),
        (0, 0) | (2, 2) | (3, 1) => None,
        _ => Some(digits),
    }
}

#[cfg(test)]
mod tests;
