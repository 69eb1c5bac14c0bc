//! What can go wrong, and how kubectl words it.

use serde_json::Value;
use skiff_api::json;

pub(super) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The server refused, with a Status.
    #[error("{}", json::text(.0, "message"))]
    Server(Value),
    /// Anything that is found out on this side.
    #[error("{0}")]
    Plain(String),
    /// As `Plain`, but printed without the word `error` before it.
    #[error("{0}")]
    Bare(String),
    /// Several objects failed, each in its own way.
    #[error("several errors")]
    Many(Vec<Error>),
    /// Nobody reads the output any more; that is no failure.
    #[error("output closed")]
    Closed,
    /// The exit code of a remote command, which was already explained.
    #[error("exit code {0}")]
    Exit(u8),
    /// A remote command ended with an exit code that is passed on.
    #[error("command terminated with exit code {0}")]
    Command(u8),
}

/// An error of this side.
pub(super) fn plain<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Plain(message.into()))
}

impl Error {
    pub(super) fn is(&self, reason: &str) -> bool {
        matches!(self, Error::Server(status) if json::text(status, "reason") == reason)
    }

    pub(super) fn not_found(&self) -> bool {
        self.is("NotFound")
    }

    /// One error of several, or the only one, or none.
    pub(super) fn gather(mut errors: Vec<Error>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Many(errors)),
        }
    }

    /// Puts what was being done before the server's message: `error when creating "f.yaml": …`.
    pub(super) fn while_doing(self, doing: &str, source: &str) -> Error {
        if source.is_empty() {
            return self;
        }
        match self {
            Error::Server(mut status) => {
                let message = format!("error when {doing} {source:?}: {}", json::text(&status, "message"));
                json::set(&mut status, "message", message);
                Error::Server(status)
            }
            Error::Plain(text) => Error::Plain(format!("error when {doing} {source:?}: {text}")),
            other => other,
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Error::Closed => 0,
            Error::Exit(code) | Error::Command(code) => *code,
            _ => 1,
        }
    }

    /// What is printed on standard error; ends with a newline, or is empty.
    pub(super) fn report(&self) -> String {
        match self {
            Error::Closed | Error::Exit(_) => String::new(),
            Error::Server(status) if json::text(status, "reason") == "Invalid" => invalid(status),
            Error::Server(status) => line(server(status)),
            Error::Plain(text) if text.starts_with("error: ") => line(text.clone()),
            Error::Plain(text) => line(format!("error: {text}")),
            Error::Bare(text) => line(text.clone()),
            Error::Command(_) => line(self.to_string()),
            Error::Many(errors) => errors.iter().map(|e| line(e.within())).collect(),
        }
    }

    /// As one of several errors: without the word `error` before it.
    fn within(&self) -> String {
        match self {
            Error::Server(status) => server(status),
            other => other.to_string(),
        }
    }
}

fn line(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn server(status: &Value) -> String {
    let message = json::text(status, "message");
    match json::text(status, "reason") {
        "" => format!("Error from server: {message}"),
        "Unauthorized" => format!("error: You must be logged in to the server ({message})"),
        reason => format!("Error from server ({reason}): {message}"),
    }
}

/// Invalid objects: every cause on a line of its own where there are several.
fn invalid(status: &Value) -> String {
    let message = json::text(status, "message");
    let Some(details) = status.get("details") else {
        return line(format!("The request is invalid: {message}"));
    };
    let (kind, name) = (json::text(details, "kind"), json::text(details, "name"));
    let mut causes: Vec<String> = Vec::new();
    for cause in json::list(details, "causes") {
        let text = format!("{}: {}", json::text(cause, "field"), json::text(cause, "message"));
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    let what = match (kind, name) {
        ("", "") if causes.is_empty() => format!("The request is invalid: {message}"),
        ("", "") => "The request is invalid".to_owned(),
        _ => format!("The {kind} {name:?} is invalid"),
    };
    match causes.as_slice() {
        [] => line(what),
        [one] => format!("{what}: {one}\n"),
        several => format!("{what}: \n{}", several.iter().map(|c| format!("* {c}\n")).collect::<String>()),
    }
}

/// A failure of the connection itself, in kubectl's words.
pub(super) fn transport(error: &kube::Error, server: &str) -> Error {
    let mut text = error.to_string();
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    if text.contains("onnection refused") {
        return Error::Bare(format!(
            "The connection to the server {server} was refused - did you specify the right host or port?"
        ));
    }
    Error::Bare(format!("Unable to connect to the server: {text}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words() {
        let not_found = json!({"reason": "NotFound", "message": "pods \"a\" not found"});
        assert_eq!(Error::Server(not_found).report(), "Error from server (NotFound): pods \"a\" not found\n");
        let cause = |f: &str| json!({"field": f, "message": "Required value"});
        let one = json!({"reason": "Invalid", "message": "m", "details": {"kind": "Service", "name": "s", "causes": [cause("a")]}});
        assert_eq!(Error::Server(one).report(), "The Service \"s\" is invalid: a: Required value\n");
        let two = json!({"reason": "Invalid", "message": "m",
            "details": {"kind": "Service", "name": "s", "causes": [cause("a"), cause("b"), cause("a")]}});
        assert_eq!(
            Error::Server(two).report(),
            "The Service \"s\" is invalid: \n* a: Required value\n* b: Required value\n"
        );
        assert_eq!(Error::Plain("error: x".into()).report(), "error: x\n");
        assert_eq!(Error::Many(vec![Error::Plain("x".into()), Error::Plain("y".into())]).report(), "x\ny\n");
    }
}
