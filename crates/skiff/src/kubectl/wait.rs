//! `wait`: until a condition holds, a field has a value, or the object is gone.

use std::time::{Duration, Instant};

use futures::AsyncBufReadExt;
use serde_json::Value;
use skiff_api::json;

use super::{
    delete,
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    jsonpath,
    kinds::Kind,
    output, pods,
    session::{Call, Session, duration},
    targets::Target,
    text::emit,
};

pub(super) const FLAGS: &[Flag] = &[
    value("for", "condition=NAME[=VALUE], delete, create, or jsonpath=PATH[=VALUE]"),
    value("timeout", "how long to wait (30s); 0 to look once, less for a week"),
    switch("all", "all objects of the kind in the namespace"),
    switch("local", "not supported"),
];

enum Wish {
    Condition(String, String),
    Path(Vec<jsonpath::Node>, Option<String>),
    Created,
    Gone,
}

impl Wish {
    fn of(text: &str) -> Result<Wish> {
        let lower = text.to_lowercase();
        if lower == "delete" {
            return Ok(Wish::Gone);
        }
        if lower == "create" {
            return Ok(Wish::Created);
        }
        if let Some(rest) = lower.strip_prefix("condition=").map(|_| &text["condition=".len()..]) {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Wish::Condition(name.to_owned(), value.to_owned()));
        }
        let Some(rest) = text.strip_prefix("jsonpath=") else {
            return plain(format!("unrecognized condition: {text:?}"));
        };
        let (path, value) = match rest.find('}').map(|end| rest.split_at(end + 1)) {
            Some((path, value)) if value.starts_with('=') => {
                (path, Some(value[1..].trim_matches(['"', '\'']).to_owned()))
            }
            Some((path, _)) => (path, None),
            None => rest.split_once('=').map_or((rest, None), |(p, v)| (p, Some(v.to_owned()))),
        };
        Ok(Wish::Path(output::relaxed(path.trim_matches(['"', '\'']))?, value))
    }

    fn holds(&self, object: &Value) -> bool {
        match self {
            Wish::Created => true,
            Wish::Gone => false,
            Wish::Condition(name, value) => {
                let conditions = json::list(object, "status.conditions").iter();
                let mut named = conditions.filter(|c| json::text(c, "type").eq_ignore_ascii_case(name));
                let seen = json::int(object, "status.observedGeneration");
                let stale = seen > 0 && seen < json::int(object, "metadata.generation");
                !stale && named.next().is_some_and(|c| json::text(c, "status").eq_ignore_ascii_case(value))
            }
            Wish::Path(path, value) => {
                let [jsonpath::Node::Path(steps)] = path.as_slice() else { return false };
                let found = jsonpath::walk(steps, object, object, true).unwrap_or_default();
                match value {
                    None => !found.is_empty(),
                    Some(value) => !found.is_empty() && found.iter().all(|v| jsonpath::text_of(v) == value.trim()),
                }
            }
        }
    }
}

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let wish = Wish::of(args.get("for").unwrap_or_default())?;
    let limit = match args.get("timeout") {
        None => Duration::from_secs(30),
        Some(text) if text.starts_with('-') => Duration::from_secs(7 * 24 * 3600),
        Some(text) => duration(text)?,
    };
    let until = Instant::now() + limit;
    let mut targets = session.targets(&args.words, args).await?;
    if targets.iter().any(|t| t.name.is_empty()) {
        if !args.on("all") && !args.has("selector") && !args.has("field-selector") {
            return plain("resource(s) were provided, but no name was specified");
        }
        let kinds: Vec<Kind> = targets.iter().map(|t| t.kind.clone()).collect();
        let (found, errors) = session.fetch(&targets, args).await;
        Error::gather(errors)?;
        targets = found.into_iter().map(|(kind, o)| named(kind, &o)).collect();
        if targets.is_empty() && !kinds.is_empty() {
            return if matches!(wish, Wish::Gone) { Ok(()) } else { plain("no matching resources found") };
        }
    }
    let mut errors = Vec::new();
    for target in &targets {
        let waited = match wish {
            Wish::Gone => ended(session, target, until).await,
            _ => one(session, target, &wish, until).await,
        };
        match waited {
            Err(Error::Closed) => return Err(Error::Closed),
            Err(e) => errors.push(e),
            Ok(()) => {}
        }
    }
    Error::gather(errors)
}

fn named(kind: Kind, object: &Value) -> Target {
    let text = |path: &str| json::text(object, path).to_owned();
    Target { kind, name: text("metadata.name"), namespace: text("metadata.namespace") }
}

fn timed_out(target: &Target) -> Error {
    Error::Plain(format!("timed out waiting for the condition on {}/{}", target.kind.plural, target.name))
}

async fn ended(session: &Session, target: &Target, until: Instant) -> Result<()> {
    let object = match session.json(&Call::get(target.path())).await {
        Err(e) if e.not_found() => return Ok(()),
        other => other?,
    };
    delete::gone(session, target, json::text(&object, "metadata.uid"), Some(until)).await.map_err(|e| match e {
        Error::Plain(_) => timed_out(target),
        other => other,
    })?;
    emit(&format!("{} condition met\n", target.label()))
}

async fn one(session: &Session, target: &Target, wish: &Wish, until: Instant) -> Result<()> {
    let mut object = match session.json(&Call::get(target.path())).await {
        Err(e) if e.not_found() && matches!(wish, Wish::Created) => Value::Null,
        other => other?,
    };
    while object.is_null() || !wish.holds(&object) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out(target));
        }
        let place = (target.namespace.clone(), target.name.clone());
        let version = json::text(&object, "metadata.resourceVersion");
        match tokio::time::timeout(left, changes(session, &target.kind, &place, version)).await {
            Ok(Ok(Some(new))) => object = new,
            Ok(Ok(None)) if matches!(wish, Wish::Created) => {}
            Ok(Ok(None)) => return Err(Error::Plain(format!("{} was deleted", target.label()))),
            Ok(Err(e)) => return Err(e),
            Err(_) => return Err(timed_out(target)),
        }
    }
    emit(&format!("{} condition met\n", target.label()))
}

/// The object after its next change; None when it is gone.
pub(super) async fn changes(
    session: &Session,
    kind: &Kind,
    (namespace, name): &(String, String),
    version: &str,
) -> Result<Option<Value>> {
    let call = Call::get(kind.path(namespace, ""))
        .query("watch", "true")
        .query("fieldSelector", format!("metadata.name={name}"))
        .maybe("resourceVersion", Some(version));
    let mut lines = session.lines(&call).await?;
    let mut line = String::new();
    while lines.read_line(&mut line).await.is_ok_and(|n| n > 0) {
        let mut event: Value = serde_json::from_str(&line).unwrap_or_default();
        let object = event.get_mut("object").map(Value::take).unwrap_or_default();
        match json::text(&event, "type") {
            "ADDED" | "MODIFIED" => return Ok(Some(object)),
            "DELETED" => return Ok(None),
            "BOOKMARK" => line.clear(),
            _ => break,
        }
    }
    match session.object(kind, namespace, name).await {
        Ok(object) => Ok(Some(object)),
        Err(e) if e.not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Waits until a pod runs, or has ended.
pub(super) async fn running(session: &Session, kind: &Kind, pod: &Value) -> Result<Value> {
    let mut pod = pod.clone();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let phase = json::text(&pod, "status.phase");
        if pods::ready(&pod) || matches!(phase, "Running" | "Succeeded" | "Failed") {
            return Ok(pod);
        }
        let left = until.saturating_duration_since(Instant::now());
        let place = (json::text(&pod, "metadata.namespace").to_owned(), json::text(&pod, "metadata.name").to_owned());
        let version = json::text(&pod, "metadata.resourceVersion").to_owned();
        match tokio::time::timeout(left, changes(session, kind, &place, &version)).await {
            Ok(Ok(Some(new))) => pod = new,
            Ok(Ok(None)) => return plain(format!("pod {} was deleted", place.1)),
            Ok(Err(e)) => return Err(e),
            Err(_) => return plain("timed out waiting for the condition"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wishes() {
        let pod = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        for (wish, holds) in [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Ready=false", false),
            ("condition=Other", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath={.status.phase}=Failed", false),
            ("jsonpath={.status.phase}", true),
            ("jsonpath={.status.x}", false),
            ("create", true),
        ] {
            assert_eq!(Wish::of(wish).unwrap().holds(&pod), holds, "{wish}");
        }
        assert!(Wish::of("nonsense").is_err());
    }
}
