//! Any other kind: its fields in order, with names made readable.

use serde_json::{Map, Value};

use super::{Writer, fields::scalar};

pub(super) fn object(w: &mut Writer, object: &Value) -> bool {
    w.head(object);
    fields(w, object.as_object(), 0, "");
    true
}

/// Told already, or of no use to a reader.
const SKIPPED: &[&str] =
    &[".metadata.name", ".metadata.namespace", ".metadata.labels", ".metadata.annotations", ".metadata.managedFields"];

fn fields(w: &mut Writer, map: Option<&Map<String, Value>>, level: usize, path: &str) {
    let mut keys: Vec<&String> = map.into_iter().flat_map(Map::keys).collect();
    keys.sort();
    for key in keys {
        let below = format!("{path}.{key}");
        let Some(value) = map.and_then(|m| m.get(key)).filter(|_| !SKIPPED.contains(&below.as_str())) else { continue };
        let title = title(key);
        match value {
            Value::Object(inner) => {
                w.line(level, format!("{title}:"));
                fields(w, Some(inner), level + 1, &below);
            }
            Value::Array(items) => {
                w.line(level, format!("{title}:"));
                items.iter().for_each(|item| element(w, item, level + 1, &below));
            }
            scalar_ => w.field(level, &title, scalar(scalar_)),
        }
    }
}

fn element(w: &mut Writer, item: &Value, level: usize, path: &str) {
    match item {
        Value::Object(inner) => fields(w, Some(inner), level, path),
        Value::Array(items) => items.iter().for_each(|i| element(w, i, level + 1, path)),
        other => w.line(level, scalar(other)),
    }
}

/// `firstTimestamp` as `First Timestamp`, `apiVersion` as `API Version`, `podIP` as `Pod IP`.
fn title(key: &str) -> String {
    if key.contains(['.', '/', '-', '_']) {
        return key.to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    let chars: Vec<char> = key.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        let starts = at == 0
            || (c.is_uppercase()
                && (!chars[at - 1].is_uppercase() || chars.get(at + 1).is_some_and(|n| n.is_lowercase())));
        match words.last_mut() {
            Some(word) if !starts => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words.iter().map(|word| cased(word)).collect::<Vec<_>>().join(" ")
}

fn cased(word: &str) -> String {
    const UPPER: &[&str] = &["API", "URL", "UID", "OSB", "GUID"];
    let upper = word.to_uppercase();
    if UPPER.contains(&upper.as_str()) {
        return upper;
    }
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        for (key, want) in [
            ("firstTimestamp", "First Timestamp"),
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("podIP", "Pod IP"),
            ("a.b/c", "a.b/c"),
        ] {
            assert_eq!(title(key), want);
        }
    }
}
