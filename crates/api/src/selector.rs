//! Label and field selectors: text parsed once into requirements, then matched against any set of labels or any object.
//!
//! `Labels` is a conjunction of requirements. The empty conjunction matches everything; an absent `LabelSelector`
//! matches nothing ([`Labels::nothing`]), as Kubernetes has it.

mod fields;
mod lexer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value};

use crate::validate::names;

pub use fields::{FieldTerm, Fields, supported_fields};

/// Why a selector cannot be used. The server answers 400 with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    #[error("{path}: Invalid value: {value:?}: {why}")]
    Invalid { path: String, value: String, why: String },
    #[error("invalid selector: '{whole}'; can't understand '{part}'")]
    FieldSyntax { whole: String, part: String },
    #[error("field label not supported: {0}")]
    UnsupportedField(String),
    #[error("the selector has {0} bytes; at most {MAX_BYTES} are read")]
    TooLong(usize),
}

/// Longer selectors are refused before they are read.
pub const MAX_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    Exists,
    Absent,
    In,
    NotIn,
    Greater,
    Less,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: BTreeSet<String>,
}

/// A label selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Anything that labels can be looked up in.
pub trait LabelSet {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Labels { requirements: Vec::new(), nothing: true }
    }

    /// Reads `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::TooLong(text.len()));
        }
        let requirements = lexer::parse(text)?;
        requirements.iter().try_for_each(Requirement::check)?;
        Ok(Labels { requirements, nothing: false })
    }

    /// The selector that a workload or a policy carries in its spec.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Self, Error> {
        let mut requirements: Vec<Requirement> =
            selector.match_labels.iter().flatten().map(|(key, value)| Requirement::equals(key, value)).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let operator = operator_of(&expression.operator)?;
            let values = expression.values.iter().flatten().cloned().collect();
            requirements.push(Requirement { key: expression.key.clone(), operator, values });
        }
        requirements.iter().try_for_each(Requirement::check)?;
        Ok(Labels { requirements, nothing: false })
    }

    /// The plain map that a Service or a ReplicationController carries. Read as it stands: such maps were validated on write.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels.into_iter().map(|(key, value)| Requirement::equals(key, value)).collect();
        Labels { requirements, nothing: false }
    }

    pub fn matches(&self, labels: &(impl LabelSet + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Matches against the `metadata.labels` of a whole object.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object["metadata"]["labels"])
    }

    /// True if every object matches.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl Requirement {
    fn equals(key: &str, value: &str) -> Self {
        Requirement { key: key.into(), operator: Operator::In, values: BTreeSet::from([value.to_string()]) }
    }

    fn matches(&self, labels: &(impl LabelSet + ?Sized)) -> bool {
        let found = labels.label(&self.key);
        match self.operator {
            Operator::Exists => found.is_some(),
            Operator::Absent => found.is_none(),
            Operator::In => found.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => found.is_none_or(|value| !self.values.contains(value)),
            Operator::Greater => self.compare(found, |have, bound| have > bound),
            Operator::Less => self.compare(found, |have, bound| have < bound),
        }
    }

    fn compare(&self, found: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let have = found.and_then(|value| value.parse().ok());
        let bound = self.values.first().and_then(|value| value.parse().ok());
        have.zip(bound).is_some_and(|(have, bound)| holds(have, bound))
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |path: String, value: &str, why: String| Error::Invalid { path, value: value.to_string(), why };
        acceptable(names::label_key(&self.key)).map_err(|why| invalid("key".into(), &self.key, why))?;
        if matches!(self.operator, Operator::In | Operator::NotIn) && self.values.is_empty() {
            return Err(invalid("values".into(), "", "for 'in', 'notin' operators, values set can't be empty".into()));
        }
        if matches!(self.operator, Operator::Exists | Operator::Absent) && !self.values.is_empty() {
            return Err(invalid("values".into(), "", "values set must be empty for exists and does not exist".into()));
        }
        for (index, value) in self.values.iter().enumerate() {
            let path = format!("values[{index}][{}]", self.key);
            if matches!(self.operator, Operator::Greater | Operator::Less) && value.parse::<i64>().is_err() {
                return Err(invalid(path, value, "for 'Gt', 'Lt' operators, the value must be an integer".into()));
            }
            acceptable(names::label_value(value)).map_err(|why| invalid(path, value, why))?;
        }
        Ok(())
    }
}

/// What is wrong with a name, in one line.
fn acceptable(wrong: Vec<String>) -> Result<(), String> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn operator_of(name: &str) -> Result<Operator, Error> {
    match name {
        "In" => Ok(Operator::In),
        "NotIn" => Ok(Operator::NotIn),
        "Exists" => Ok(Operator::Exists),
        "DoesNotExist" => Ok(Operator::Absent),
        _ => Err(Error::Syntax(format!("\"{name}\" is not a valid label selector operator"))),
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let key = &self.key;
        match (self.operator, self.values.len()) {
            (Operator::Exists, _) => write!(f, "{key}"),
            (Operator::Absent, _) => write!(f, "!{key}"),
            (Operator::In, 1) => write!(f, "{key}={values}"),
            (Operator::NotIn, 1) => write!(f, "{key}!={values}"),
            (Operator::In, _) => write!(f, "{key} in ({values})"),
            (Operator::NotIn, _) => write!(f, "{key} notin ({values})"),
            (Operator::Greater, _) => write!(f, "{key}>{values}"),
            (Operator::Less, _) => write!(f, "{key}<{values}"),
        }
    }
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSet for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// The value of a `labels` field; anything but a map has no labels.
impl LabelSet for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl<L: LabelSet> LabelSet for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}
