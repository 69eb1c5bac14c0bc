//! What is wrong with a field, printed as Kubernetes users know it: `spec.ports[0].nodePort: Invalid value: 99: …`.

use std::fmt;

use serde_json::Value;

/// A path into an object: `spec.ports[0].name`, `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn root() -> Self {
        Path::default()
    }

    pub fn new(name: &str) -> Self {
        Path(name.to_owned())
    }

    /// The field below; `name` may itself be dotted.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    pub fn index(&self, i: usize) -> Self {
        Path(format!("{}[{i}]", self.0))
    }

    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl Kind {
    /// The `reason` of a cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Kind::NotFound => "FieldValueNotFound",
            Kind::Required => "FieldValueRequired",
            Kind::Duplicate => "FieldValueDuplicate",
            Kind::Invalid => "FieldValueInvalid",
            Kind::NotSupported => "FieldValueNotSupported",
            Kind::Forbidden => "FieldValueForbidden",
            Kind::TooLong => "FieldValueTooLong",
            Kind::TooMany => "FieldValueTooMany",
            Kind::Internal => "InternalError",
            Kind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::NotFound => "Not found",
            Kind::Required => "Required value",
            Kind::Duplicate => "Duplicate value",
            Kind::Invalid | Kind::TypeInvalid => "Invalid value",
            Kind::NotSupported => "Unsupported value",
            Kind::Forbidden => "Forbidden",
            Kind::TooLong => "Too long",
            Kind::TooMany => "Too many",
            Kind::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub field: Path,
    pub kind: Kind,
    /// The offending value as it is printed; empty where the kind prints none.
    pub value: String,
    pub detail: String,
}

impl Error {
    fn new(field: &Path, kind: Kind, value: String, detail: impl Into<String>) -> Self {
        Error { field: field.clone(), kind, value, detail: detail.into() }
    }

    pub fn required(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::Required, String::new(), detail)
    }

    pub fn invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::Invalid, print(&value.into()), detail)
    }

    pub fn type_invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::TypeInvalid, print(&value.into()), detail)
    }

    pub fn duplicate(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(field, Kind::Duplicate, print(&value.into()), "")
    }

    pub fn not_found(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(field, Kind::NotFound, print(&value.into()), "")
    }

    pub fn forbidden(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::Forbidden, String::new(), detail)
    }

    pub fn not_supported(field: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut sorted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        sorted.sort();
        let detail = if sorted.is_empty() { String::new() } else { format!("supported values: {}", sorted.join(", ")) };
        Self::new(field, Kind::NotSupported, print(&value.into()), detail)
    }

    pub fn too_long(field: &Path, max: usize) -> Self {
        Self::new(field, Kind::TooLong, String::new(), format!("may not be more than {max} bytes"))
    }

    pub fn too_many(field: &Path, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(field, Kind::TooMany, actual.to_string(), format!("must have at most {max} {items}"))
    }

    pub fn internal(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::Internal, String::new(), detail)
    }

    /// The message without the field, as a Status cause carries it.
    pub fn body(&self) -> String {
        let mut body = self.kind.words().to_owned();
        for part in [&self.value, &self.detail] {
            if !part.is_empty() {
                body.push_str(": ");
                body.push_str(part);
            }
        }
        body
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

fn print(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prints_as_users_know_it() {
        let port = Path::new("spec").child("ports").index(0).child("nodePort");
        let check = |e: Error, expect: &str| assert_eq!(e.to_string(), expect);
        check(
            Error::invalid(
                &port,
                99,
                "provided port is not in the valid range. The range of valid ports is 30000-32767",
            ),
            "spec.ports[0].nodePort: Invalid value: 99: provided port is not in the valid range. The range of valid ports is 30000-32767",
        );
        check(Error::required(&Path::new("spec.ports"), ""), "spec.ports: Required value");
        check(Error::duplicate(&port, "a"), "spec.ports[0].nodePort: Duplicate value: \"a\"");
        check(Error::forbidden(&port, "no"), "spec.ports[0].nodePort: Forbidden: no");
        check(
            Error::not_supported(&Path::new("spec.type"), "X", &["NodePort", "ClusterIP"]),
            "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"NodePort\"",
        );
        check(Error::too_long(&Path::new("data"), 10), "data: Too long: may not be more than 10 bytes");
        check(Error::too_many(&Path::new("a"), 3, 2), "a: Too many: 3: must have at most 2 items");
        check(
            Error::invalid(&Path::new("l").key("a"), json!({"app": "x"}), "m"),
            "l[a]: Invalid value: {\"app\":\"x\"}: m",
        );
    }
}
