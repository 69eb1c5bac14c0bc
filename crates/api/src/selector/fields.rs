//! Field selectors: equality on the few fields that each kind lets a client select by.

use std::fmt;

use serde_json::Value;

use super::{Error, MAX_BYTES};

/// One `path=value` or `path!=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub value: String,
    pub equal: bool,
}

/// A field selector: all terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    terms: Vec<FieldTerm>,
}

const POD: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const EVENT: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const EVENT_V1: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

/// What a kind can be selected by, besides `metadata.name` and `metadata.namespace`.
pub fn supported_fields(group: &str, plural: &str) -> &'static [&'static str] {
    match (group, plural) {
        ("", "pods") => POD,
        ("", "events") => EVENT,
        ("events.k8s.io", "events") => EVENT_V1,
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "replicationcontrollers") | ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests") => &["spec.signerName"],
        _ => &[],
    }
}

/// Where a field is found whose name is no path.
const ALIASES: &[(&str, &[&str])] = &[
    ("source", &["source.component", "reportingComponent"]),
    ("status.successful", &["status.succeeded"]),
    ("status.podIPs", &["status.podIP"]),
];

/// What an absent field counts as, where that is not the empty string.
const DEFAULTS: &[(&str, &str)] = &[
    ("spec.hostNetwork", "false"),
    ("spec.unschedulable", "false"),
    ("status.replicas", "0"),
    ("status.successful", "0"),
];

impl Fields {
    /// Reads `metadata.name=x,status.phase!=Running`; `\\`, `\,` and `\=` stand for themselves in values.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::TooLong(text.len()));
        }
        let terms = split_terms(text)
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| read_term(text, part))
            .collect::<Result<_, _>>()?;
        Ok(Fields { terms })
    }

    /// Refuses fields that the kind does not support.
    pub fn check(&self, group: &str, plural: &str) -> Result<(), Error> {
        let supported = supported_fields(group, plural);
        let known = |path: &str| matches!(path, "metadata.name" | "metadata.namespace") || supported.contains(&path);
        match self.terms.iter().find(|term| !known(&term.path)) {
            Some(term) => Err(Error::UnsupportedField(term.path.clone())),
            None => Ok(()),
        }
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| (field(object, &term.path) == term.value) == term.equal)
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The one value that the field must have, if the selector says so; lets a caller look it up instead of scanning.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.path == path).map(|term| term.value.as_str())
    }
}

fn field(object: &Value, path: &str) -> String {
    let aliased = ALIASES.iter().find(|(name, _)| *name == path).map(|(_, places)| *places);
    let places = aliased.unwrap_or(std::slice::from_ref(&path));
    let absent = DEFAULTS.iter().find(|(name, _)| *name == path).map_or("", |(_, value)| value);
    places.iter().find_map(|place| text_at(object, place)).unwrap_or_else(|| absent.to_string())
}

fn text_at(object: &Value, path: &str) -> Option<String> {
    match path.split('.').try_fold(object, |value, step| value.get(step))? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn read_term(whole: &str, part: &str) -> Result<FieldTerm, Error> {
    let unclear = || Error::FieldSyntax { whole: whole.to_string(), part: part.to_string() };
    let (path, rest) = part.split_at(part.find(['=', '!']).ok_or_else(unclear)?);
    let signs = [("!=", false), ("==", true), ("=", true)];
    let (value, equal) =
        signs.iter().find_map(|(sign, equal)| Some((rest.strip_prefix(sign)?, *equal))).ok_or_else(unclear)?;
    let value = unescape(value).ok_or_else(unclear)?;
    Ok(FieldTerm { path: path.to_string(), value, equal })
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            '=' => return None,
            _ => plain.push(c),
        }
    }
    Some(plain)
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let sign = if term.equal { "=" } else { "!=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{sign}{value}", term.path)?;
        }
        Ok(())
    }
}
