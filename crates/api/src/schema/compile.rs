//! From JSON schemas to a table of a few hundred kilobytes.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

use serde_json::{Map, Value};

use super::embedded;
use crate::resources::Type;

/// What a value must look like.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Any,
    AnyObject,
    Bool,
    Str,
    /// With its width in bits.
    Int(u8),
    Number,
    IntOrString,
    Quantity,
    /// With microseconds if `micro`.
    Time {
        micro: bool,
    },
    Bytes,
    /// Fields in order of their names.
    Object(Box<[(Box<str>, Node)]>),
    Map(Box<Node>),
    List(Box<Node>),
    /// An entry of the table.
    Ref(u32),
}

/// All definitions compiled so far. Grows to the API's size and never beyond.
#[derive(Default)]
pub(crate) struct Table {
    by_name: HashMap<Box<str>, u32>,
    definitions: Vec<(Box<str>, Node)>,
}

impl Table {
    /// Name and meaning of an entry.
    pub(crate) fn get(&self, i: u32) -> (&str, &Node) {
        let (name, node) = &self.definitions[i as usize];
        (name, node)
    }

    /// The meaning of a definition by its full name.
    pub(crate) fn find(&self, name: &str) -> Option<&Node> {
        self.by_name.get(name).map(|i| self.get(*i).1)
    }

    /// The entry of a name; a new one means nothing until it is set.
    fn slot(&mut self, name: &str) -> u32 {
        if let Some(i) = self.by_name.get(name) {
            return *i;
        }
        let i = self.definitions.len() as u32;
        self.definitions.push((name.into(), Node::Any));
        self.by_name.insert(name.into(), i);
        i
    }

    /// Compiles the definition and all that it refers to.
    fn add(&mut self, root: &str) {
        let mut next = self.definitions.len();
        self.slot(root);
        while let Some((name, _)) = self.definitions.get(next) {
            let name = name.clone();
            self.definitions[next].1 = embedded::shape(&name).map_or(Node::Any, |shape| self.definition(&name, &shape));
            next += 1;
        }
    }

    fn definition(&mut self, name: &str, schema: &Value) -> Node {
        match short(name) {
            "IntOrString" => Node::IntOrString,
            "Quantity" => Node::Quantity,
            name @ ("Time" | "MicroTime") => Node::Time { micro: name == "MicroTime" },
            _ => self.node(schema),
        }
    }

    fn node(&mut self, schema: &Value) -> Node {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return Node::Ref(self.slot(reference.trim_start_matches("#/$defs/")));
        }
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => self.object(schema),
            Some("array") => Node::List(Box::new(self.node(schema.get("items").unwrap_or(&Value::Null)))),
            Some("string") if format == "byte" => Node::Bytes,
            Some("string") => Node::Str,
            Some("boolean") => Node::Bool,
            Some("integer") => Node::Int(if format == "int32" { 32 } else { 64 }),
            Some("number") => Node::Number,
            _ => Node::Any,
        }
    }

    fn object(&mut self, schema: &Value) -> Node {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            return self.fields(properties);
        }
        match schema.get("additionalProperties") {
            Some(of @ Value::Object(_)) => Node::Map(Box::new(self.node(of))),
            _ => Node::AnyObject,
        }
    }

    fn fields(&mut self, properties: &Map<String, Value>) -> Node {
        let mut fields: Vec<(Box<str>, Node)> =
            properties.iter().map(|(name, schema)| (name.as_str().into(), self.node(schema))).collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Node::Object(fields.into())
    }

    /// As Go's decoder would print the type.
    pub(crate) fn go_type(&self, node: &Node) -> String {
        match node {
            Node::Any => "interface {}".into(),
            Node::AnyObject | Node::Object(_) => "map[string]interface {}".into(),
            Node::Bool => "bool".into(),
            Node::Str => "string".into(),
            Node::Int(bits) => format!("int{bits}"),
            Node::Number => "float64".into(),
            Node::IntOrString => "intstr.IntOrString".into(),
            Node::Quantity => "resource.Quantity".into(),
            Node::Time { .. } => "v1.Time".into(),
            Node::Bytes => "[]uint8".into(),
            Node::Map(of) => format!("map[string]{}", self.go_type(of)),
            Node::List(of) => format!("[]{}", self.go_type(of)),
            Node::Ref(i) => match self.get(*i) {
                (name, Node::Object(_)) => package_and_type(name),
                (_, node) => self.go_type(node),
            },
        }
    }
}

/// `Pod` of `io.k8s.api.core.v1.Pod`.
pub(crate) fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// `v1.Pod` of `io.k8s.api.core.v1.Pod`.
fn package_and_type(name: &str) -> String {
    let mut parts = name.rsplitn(3, '.');
    match (parts.next(), parts.next()) {
        (Some(kind), Some(package)) => format!("{package}.{kind}"),
        _ => name.to_owned(),
    }
}

/// Runs `then` with the table that holds `root`, compiling it if this is its first use.
pub(crate) fn with<T>(root: &Type, then: impl FnOnce(&Table, &Node) -> T) -> T {
    static TABLE: OnceLock<RwLock<Table>> = OnceLock::new();
    let lock = TABLE.get_or_init(RwLock::default);
    let name = root.name();
    // A slot that is only named by another definition is filled by the `add` that named it, so a known name is complete.
    let known = lock.read().unwrap_or_else(PoisonError::into_inner).find(&name).is_some();
    if !known {
        let mut table = lock.write().unwrap_or_else(PoisonError::into_inner);
        if table.find(&name).is_none() {
            table.add(&name);
        }
    }
    let table = lock.read().unwrap_or_else(PoisonError::into_inner);
    then(&table, table.find(&name).unwrap_or(&Node::Any))
}
