//! Lines with tabs in them, laid out when all is written.

use serde_json::{Map, Value};
use skiff_api::json;

use crate::kubectl::text::tabbed;

#[derive(Default)]
pub(super) struct Writer {
    text: String,
}

/// An annotation longer than this goes on lines of its own.
const LONG: usize = 140;

/// Written by the machinery of `apply`, of no use to a reader.
const HIDDEN: &str = "kubectl.kubernetes.io/last-applied-configuration";

impl Writer {
    pub(super) fn line(&mut self, level: usize, text: impl AsRef<str>) {
        self.text.extend(std::iter::repeat_n("  ", level));
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    pub(super) fn field(&mut self, level: usize, name: &str, value: impl std::fmt::Display) {
        self.line(level, format!("{name}:\t{value}"));
    }

    /// Only when there is a value.
    pub(super) fn maybe(&mut self, level: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(level, name, value);
        }
    }

    /// One value per line, the first beside the name.
    pub(super) fn several(&mut self, level: usize, name: &str, values: &[String]) {
        if values.is_empty() {
            return self.field(level, name, "<none>");
        }
        for (at, value) in values.iter().enumerate() {
            match at {
                0 => self.field(level, name, value),
                _ => self.line(0, format!("\t{value}")),
            }
        }
    }

    pub(super) fn labels(&mut self, level: usize, name: &str, labels: Option<&Map<String, Value>>) {
        let mut pairs: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
        pairs.sort();
        self.several(level, name, &pairs);
    }

    pub(super) fn annotations(&mut self, level: usize, annotations: Option<&Map<String, Value>>) {
        let mut keys: Vec<(&String, &str)> =
            annotations.into_iter().flatten().filter(|(k, _)| *k != HIDDEN).map(|(k, v)| (k, text(v))).collect();
        keys.sort();
        if keys.is_empty() {
            return self.field(level, "Annotations", "<none>");
        }
        for (at, (key, value)) in keys.into_iter().enumerate() {
            let lead = if at == 0 { format!("{}Annotations:\t", "  ".repeat(level)) } else { "\t".to_owned() };
            let value = value.strip_suffix('\n').unwrap_or(value);
            if value.len() + key.len() + 2 <= LONG && !value.contains('\n') {
                self.line(0, format!("{lead}{key}: {value}"));
                continue;
            }
            self.line(0, format!("{lead}{key}:"));
            for line in value.split('\n') {
                let short: String = line.chars().take(LONG - 2).collect();
                let more = if short.len() < line.len() { "..." } else { "" };
                self.line(0, format!("\t  {short}{more}"));
            }
        }
    }

    /// Name, namespace, labels and annotations: how most descriptions begin.
    pub(super) fn head(&mut self, object: &Value) {
        self.name(object);
        self.marks(object);
    }

    pub(super) fn name(&mut self, object: &Value) {
        self.field(0, "Name", json::text(object, "metadata.name"));
        self.maybe(0, "Namespace", json::text(object, "metadata.namespace"));
    }

    pub(super) fn marks(&mut self, object: &Value) {
        self.labels(0, "Labels", json::map(object, "metadata.labels"));
        self.annotations(0, json::map(object, "metadata.annotations"));
    }

    /// As it was written, tabs and all.
    pub(super) fn raw(self) -> String {
        self.text
    }

    pub(super) fn finish(self) -> String {
        tabbed(&self.text, 0, 2)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
