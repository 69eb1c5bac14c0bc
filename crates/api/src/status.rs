//! Errors as the API answers them: `Status` objects in the reference's words.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::field;
use crate::resources::{Resource, qualified};

/// A failure on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    code: u16,
    reason: &'static str,
    message: String,
    /// Boxed, as every call's result has room for a Status.
    details: Box<Map<String, Value>>,
    /// A token by which the rest of a list can still be had.
    rest: Option<String>,
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), details: Box::default(), rest: None }
    }

    /// With a token for the rest of the list that could not be continued as of its revision.
    pub fn rest(mut self, token: String) -> Self {
        self.rest = Some(token);
        self
    }

    /// With the details every error about one object carries; `kind` is the plural or, for Invalid, the kind.
    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                self.details.insert(key.into(), value.into());
            }
        }
        self
    }

    fn on(self, res: &Resource, name: &str) -> Self {
        self.about(res.group, res.plural, name)
    }

    pub fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut cause = Map::new();
        for (key, value) in [("reason", reason), ("message", message), ("field", field)] {
            if !value.is_empty() {
                cause.insert(key.into(), value.into());
            }
        }
        let causes = self.details.entry("causes").or_insert_with(|| json!([]));
        if let Some(list) = causes.as_array_mut() {
            list.push(cause.into());
        }
        self
    }

    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.insert("retryAfterSeconds".into(), seconds.into());
        self
    }

    pub fn not_found(res: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", res.qualified())).on(res, name)
    }

    /// No such path or resource.
    pub fn no_such_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn already_exists(res: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", res.qualified())).on(res, name)
    }

    pub fn conflict(res: &Resource, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", res.qualified());
        Self::new(409, "Conflict", message).on(res, name)
    }

    /// The resourceVersion sent is not the stored one.
    pub fn modified(res: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(res, name, why)
    }

    /// Server-side apply met fields of other managers; one (manager sentence, field) per cause.
    pub fn apply_conflict(message: impl Into<String>, causes: &[(String, String)]) -> Self {
        let status = Self::new(409, "Conflict", message);
        causes.iter().fold(status, |s, (message, field)| s.cause("FieldManagerConflict", message, field))
    }

    pub fn invalid(res: &Resource, name: &str, errors: Vec<field::Error>) -> Self {
        Self::invalid_kind(res.group, res.kind, name, errors)
    }

    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: Vec<field::Error>) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for line in errors.iter().map(ToString::to_string) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let list = if lines.len() == 1 { lines.remove(0) } else { format!("[{}]", lines.join(", ")) };
        let message = format!("{} {name:?} is invalid: {list}", qualified(kind, group));
        let status = Self::new(422, "Invalid", message).about(group, kind, name);
        errors.iter().fold(status, |s, e| s.cause(e.kind.reason(), &e.body(), e.field.as_str()))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// `name` is empty for a request on a collection.
    pub fn forbidden(res: &Resource, name: &str, why: impl fmt::Display) -> Self {
        Self::forbidden_group(res.group, res.plural, name, why)
    }

    /// As [`Status::forbidden`], for what the table does not know (`pods/exec`, a foreign group).
    pub fn forbidden_group(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let what = qualified(resource, group);
        let message = match name {
            "" => format!("{what} is forbidden: {why}"),
            name => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// A path that is no resource, such as `/metrics`.
    pub fn forbidden_path(why: impl fmt::Display) -> Self {
        Self::new(403, "Forbidden", format!("forbidden: {why}"))
    }

    pub fn namespace_terminating(res: &Resource, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let message = format!("namespace {namespace} is being terminated");
        Self::forbidden(res, name, why).cause("NamespaceTerminating", &message, "metadata.namespace")
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// The revision asked for is compacted: list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn unsupported_media(accepted: &[&str]) -> Self {
        let words = "the body of the request was in an unknown format - accepted media types include: ";
        Self::new(415, "UnsupportedMediaType", format!("{words}{}", accepted.join(", ")))
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let words = "only the following media types are accepted: ";
        Self::new(406, "NotAcceptable", format!("{words}{}", accepted.join(", ")))
    }

    pub fn method_not_allowed(res: Option<&Resource>) -> Self {
        let status =
            Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        match res {
            Some(res) => status.on(res, ""),
            None => status,
        }
    }

    pub fn internal(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {why}")).cause("", &why, "")
    }

    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {message}"))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry_after)
    }

    pub fn code(&self) -> u16 {
        self.code
    }

    pub fn reason(&self) -> &'static str {
        self.reason
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(token) = &self.rest {
            status["metadata"]["continue"] = token.clone().into();
        }
        if !self.details.is_empty() {
            let code = status.as_object_mut().and_then(|s| s.shift_remove("code"));
            status["details"] = (*self.details).clone().into();
            status["code"] = code.unwrap_or_default();
        }
        status
    }
}

/// What a delete answers when there is no object to show any more.
pub fn success(res: &Resource, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": res.plural, "uid": uid});
    if !res.group.is_empty() {
        details["group"] = res.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};
    use crate::resources::find;

    #[test]
    fn words_of_the_reference() {
        let pods = find("", "v1", "pods").unwrap();
        let deployments = find("apps", "v1", "deployments").unwrap();
        let check = |s: Status, code: u16, message: &str| {
            assert_eq!((s.code(), s.message()), (code, message));
        };
        check(Status::not_found(pods, "a"), 404, "pods \"a\" not found");
        check(Status::not_found(deployments, "a"), 404, "deployments.apps \"a\" not found");
        check(Status::already_exists(deployments, "a"), 409, "deployments.apps \"a\" already exists");
        check(
            Status::modified(pods, "a"),
            409,
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the \
             latest version and try again",
        );
        check(Status::forbidden(pods, "", "no"), 403, "pods is forbidden: no");
        check(
            Status::invalid(deployments, "d", vec![Error::required(&Path::new("spec.selector"), "")]),
            422,
            "Deployment.apps \"d\" is invalid: spec.selector: Required value",
        );
    }

    #[test]
    fn carries_causes_and_details() {
        let services = find("", "v1", "services").unwrap();
        let errors = vec![Error::required(&Path::new("a"), ""), Error::forbidden(&Path::new("b"), "c")];
        let status = Status::invalid(services, "x", errors);
        assert_eq!(status.message(), "Service \"x\" is invalid: [a: Required value, b: Forbidden: c]");
        assert_eq!(
            status.to_value()["details"],
            json!({"name": "x", "kind": "Service", "causes": [
                {"reason": "FieldValueRequired", "message": "Required value", "field": "a"},
                {"reason": "FieldValueForbidden", "message": "Forbidden: c", "field": "b"},
            ]})
        );
        assert_eq!(Status::too_many_requests("slow", 1).to_value()["details"]["retryAfterSeconds"], 1);
    }
}
