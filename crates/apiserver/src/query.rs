//! The query of a request: percent-decoded once, read once into exact types.

use std::str::FromStr;

use skiff_api::status::Status;

use crate::Result;

/// The decoded pairs, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// What to do with fields that the schema does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty());
        Query(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (form(k), form(v))).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The value when it is there and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// `1`, `true` and a bare name are true, as in Go's strconv.ParseBool.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let bad =
            |_| Status::bad_request(format!("invalid value {text:?} for query parameter {name}: a number is needed"));
        text.parse().map(Some).map_err(bad)
    }

    pub(crate) fn dry_run(&self) -> Result<bool> {
        let given: Vec<&str> = self.0.iter().filter(|(k, _)| k == "dryRun").map(|(_, v)| v.as_str()).collect();
        match given.as_slice() {
            [] | [""] => Ok(false),
            all if all.iter().all(|v| *v == "All") => Ok(true),
            other => Err(Status::bad_request(format!(
                "dryRun: Unsupported value: {:?}: supported values: \"All\"",
                other[0]
            ))),
        }
    }

    pub(crate) fn field_validation(&self) -> Result<FieldValidation> {
        match self.get("fieldValidation").unwrap_or_default() {
            "" => Ok(FieldValidation::default()),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

fn form(text: &str) -> String {
    percent_decode(&text.replace('+', " "))
}

/// `%2F` and the like; what is no escape stays as it is, what is no UTF-8 becomes U+FFFD.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        let q = Query::parse("labelSelector=app%20in%20(a%2Cb)&watch=1&limit=500&x");
        assert_eq!(q.get("labelSelector"), Some("app in (a,b)"));
        assert!(q.flag("watch") && !q.flag("x") && q.has("x"));
        assert_eq!(q.number::<usize>("limit").unwrap(), Some(500));
        assert!(Query::parse("limit=many").number::<usize>("limit").is_err());
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
    }

    #[test]
    fn dry_run_is_all_or_nothing() {
        assert!(Query::parse("dryRun=All").dry_run().unwrap());
        assert!(!Query::parse("").dry_run().unwrap());
        assert!(Query::parse("dryRun=some").dry_run().is_err());
    }
}
