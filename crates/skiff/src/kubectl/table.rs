//! Tables that the server made, laid out for people.

use std::cmp::Ordering;

use serde_json::Value;
use skiff_api::json;

use super::{get::Path, jsonpath::Node, kinds::Kind, text::Columns};

/// How a table is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    pub(super) wide: bool,
    pub(super) with_kind: bool,
    pub(super) with_namespace: bool,
    pub(super) with_labels: bool,
    pub(super) label_columns: Vec<String>,
    pub(super) headers: bool,
}

/// The table of one kind.
pub(super) struct Sheet {
    pub(super) kind: Kind,
    columns: Vec<(String, bool)>,
    rows: Vec<Value>,
    layout: Columns,
}

impl Sheet {
    pub(super) fn new(kind: Kind, mut table: Value) -> Sheet {
        let definitions = json::list(&table, "columnDefinitions").iter();
        let columns = definitions.map(|c| (json::text(c, "name").to_owned(), json::int(c, "priority") > 0)).collect();
        Sheet { kind, columns, rows: rows(&mut table), layout: Columns::default() }
    }

    pub(super) fn extend(&mut self, mut table: Value) {
        self.rows.append(&mut rows(&mut table));
    }

    /// Other rows for the same columns: the events of a watch name the columns only once.
    pub(super) fn replace(&mut self, mut table: Value) {
        self.rows = rows(&mut table);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn sort(&mut self, path: &Path) {
        let object = |row: &Value| row.get("object").cloned().unwrap_or_default();
        self.rows.sort_by(|a, b| compare(path, &object(a), &object(b)));
    }

    pub(super) fn render(&mut self, style: &Style) -> String {
        self.render_with(style, None)
    }

    /// `event`: what happened, as a first column.
    pub(super) fn render_with(&mut self, style: &Style, event: Option<&str>) -> String {
        let mut lines = Vec::new();
        if style.headers {
            lines.push(self.header(style, event.is_some()));
        }
        lines.extend(self.rows.iter().map(|row| self.line(style, event, row)));
        self.layout.render(&lines)
    }

    fn shown<'a>(&'a self, style: &'a Style) -> impl Iterator<Item = (usize, &'a str)> {
        let all = self.columns.iter().enumerate();
        all.filter(|(_, (_, extra))| style.wide || !extra).map(|(at, (name, _))| (at, name.as_str()))
    }

    fn header(&self, style: &Style, event: bool) -> Vec<String> {
        let mut cells = Vec::new();
        cells.extend(event.then(|| "EVENT".to_owned()));
        cells.extend((style.with_namespace && self.kind.namespaced).then(|| "NAMESPACE".to_owned()));
        cells.extend(self.shown(style).map(|(_, name)| name.to_uppercase()));
        cells.extend(style.label_columns.iter().map(|l| l.rsplit('/').next().unwrap_or(l).to_uppercase()));
        cells.extend(style.with_labels.then(|| "LABELS".to_owned()));
        cells
    }

    fn line(&self, style: &Style, event: Option<&str>, row: &Value) -> Vec<String> {
        let mut cells = Vec::new();
        cells.extend(event.map(str::to_owned));
        if style.with_namespace && self.kind.namespaced {
            cells.push(json::text(row, "object.metadata.namespace").to_owned());
        }
        for (at, name) in self.shown(style) {
            let text = json::list(row, "cells").get(at).map(cell).unwrap_or_default();
            cells.push(if name == "Name" && style.with_kind { format!("{}/{text}", self.kind.label()) } else { text });
        }
        let labels = json::map(row, "object.metadata.labels");
        for wanted in &style.label_columns {
            let label = labels.and_then(|l| l.get(wanted)).and_then(Value::as_str);
            cells.push(label.unwrap_or_default().to_owned());
        }
        cells.extend(style.with_labels.then(|| pairs(labels)));
        cells
    }
}

fn rows(table: &mut Value) -> Vec<Value> {
    match table.get_mut("rows").map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => Vec::new(),
    }
}

/// A cell stays on one line.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.find(['\n', '\r', '\u{c}']) {
        Some(at) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn pairs(labels: Option<&serde_json::Map<String, Value>>) -> String {
    let mut pairs: Vec<String> =
        labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// The order of two objects by a field; objects without it come first.
pub(super) fn compare(path: &Path, a: &Value, b: &Value) -> Ordering {
    let field = |object: &Value| {
        let [Node::Path(steps)] = path else { return None };
        super::jsonpath::walk(steps, object, object, true).ok().and_then(|v| v.first().map(|v| (*v).clone()))
    };
    match (field(a), field(b)) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Some(Value::String(a)), Some(Value::String(b))) => {
            match (skiff_api::quantity::millis(&a), skiff_api::quantity::millis(&b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.cmp(&b),
            }
        }
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubectl::kinds::known;

    fn table() -> Value {
        let row = |name: &str, wide: &str, labels: Value| json!({"cells": [name, 1, wide], "object": {"metadata": {"name": name, "namespace": "ns", "labels": labels}}});
        json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Restarts"}, {"name": "Node", "priority": 1}],
            "rows": [row("a", "n1", json!({"z": "1", "app": "x"})), row("long-name", "n2", json!({}))],
        })
    }

    #[test]
    fn shapes() {
        let mut sheet = Sheet::new(known("", "pods").unwrap(), table());
        let plain = Style { headers: true, ..Style::default() };
        assert_eq!(sheet.render(&plain), "NAME        RESTARTS\na           1\nlong-name   1\n");
        let mut sheet = Sheet::new(known("apps", "deployments").unwrap(), table());
        let all = Style {
            wide: true,
            with_kind: true,
            with_namespace: true,
            with_labels: true,
            headers: true,
            label_columns: vec!["x.y/app".into()],
        };
        let want = "NAMESPACE   NAME                        RESTARTS   NODE   APP   LABELS\n\
                    ns          deployment.apps/a           1          n1           app=x,z=1\n\
                    ns          deployment.apps/long-name   1          n2           <none>\n";
        assert_eq!(sheet.render(&all), want);
    }
}
