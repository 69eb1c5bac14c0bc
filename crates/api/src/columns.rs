//! Objects as a table: the columns that `kubectl get` shows, computed by the server (meta.k8s.io/v1 Table).
//!
//! Each kind is a list of columns, each column a function of one object. A kind without a list has name and age.

mod cluster;
mod format;
mod kinds;
mod network;
mod pod;
mod storage;
#[cfg(test)]
mod tests;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::convert;
use crate::resources::Resource;

pub use format::human_duration;

/// One column. `wide` ones have priority 1 and are shown by `-o wide`.
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub format: &'static str,
    pub wide: bool,
    cell: fn(&Row<'_>) -> Value,
}

/// One object, and the time that its ages are counted to.
struct Row<'a> {
    object: &'a Value,
    now: Timestamp,
}

/// The columns of a resource.
pub fn columns(resource: &Resource) -> &'static [Column] {
    kinds::columns(resource.group, resource.kind)
}

/// The table of some objects. The caller fills the table's `metadata` and each row's `object`.
pub fn table(resource: &Resource, rows: &[&Value], now: Timestamp) -> Value {
    let columns = columns(resource);
    let cells = |object: &&Value| row(resource, columns, &Row { object: &convert::stored(resource, object), now });
    let rows: Vec<Value> = rows.iter().map(cells).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": columns.iter().map(Column::definition).collect::<Vec<_>>(),
        "rows": rows,
    })
}

fn row(resource: &Resource, columns: &[Column], row: &Row<'_>) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(row)).collect();
    let mut json = json!({ "cells": cells });
    let is_pod = resource.group.is_empty() && resource.kind == "Pod";
    if let Some(condition) = pod::completed(row).filter(|_| is_pod) {
        json["conditions"] = json!([condition]);
    }
    json
}

impl Column {
    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": "",
            "priority": i32::from(self.wide),
        })
    }
}

impl<'a> Row<'a> {
    /// The value at a dotted path; null where there is none.
    fn at(&self, path: &str) -> &'a Value {
        path.split('.').fold(self.object, |value, step| &value[step])
    }

    fn text(&self, path: &str) -> &'a str {
        self.at(path).as_str().unwrap_or_default()
    }

    /// The text, or these words where there is none.
    fn text_or(&self, path: &str, absent: &'static str) -> &'a str {
        format::or(self.text(path), absent)
    }

    fn count(&self, path: &str) -> i64 {
        self.at(path).as_i64().unwrap_or_default()
    }

    fn list(&self, path: &str) -> &'a [Value] {
        self.at(path).as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// How many entries a map has.
    fn entries(&self, path: &str) -> usize {
        self.at(path).as_object().map_or(0, |map| map.len())
    }

    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }

    fn time(&self, path: &str) -> Option<Timestamp> {
        format::time(self.at(path))
    }

    /// How long ago the time at the path is.
    fn since(&self, path: &str) -> String {
        format::since(self.time(path), self.now)
    }
}
