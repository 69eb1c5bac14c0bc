//! From what a person names to a pod and one of its containers.

use serde_json::Value;
use skiff_api::{json, selector::Labels};

use super::{
    error::{Error, Result, plain},
    flags::Args,
    kinds::{Kind, known},
    session::Session,
    targets::slashed,
    text::note,
};

/// The pod that `NAME` or `TYPE/NAME` means: itself, or the first ready pod behind a Deployment, Service or the like.
pub(super) async fn behind(session: &Session, word: &str, args: &Args) -> Result<Value> {
    let (kind, object) = named(session, word).await?;
    if kind.kind == "Pod" {
        return Ok(object);
    }
    let mut pods = selected(session, &object).await?;
    if pods.is_empty() {
        return plain(format!("timed out waiting for the condition: no pods of {word} found"));
    }
    let several = pods.len() > 1;
    let pod = pods.remove(0);
    if several && !args.on("quiet") && word.contains('/') && args.has("follow") {
        note(&format!("Found several pods, using pod/{}\n", json::text(&pod, "metadata.name")));
    }
    Ok(pod)
}

pub(super) async fn named(session: &Session, word: &str) -> Result<(Kind, Value)> {
    let (kind, name) = match word.contains('/') {
        true => {
            let (kind, name) = slashed(word)?;
            (session.kind_called(kind).await?, name)
        }
        false => (known("", "pods")?, word),
    };
    let object = session.object(&kind, &session.namespace, name).await?;
    Ok((kind, object))
}

/// The selector of whatever selects pods.
pub(super) fn selector(object: &Value) -> Option<Labels> {
    let selector = json::get(object, "spec.selector")?;
    let whole = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    if whole {
        let typed = serde_json::from_value(selector.clone()).ok()?;
        return Labels::from_label_selector(&typed).ok();
    }
    let map: std::collections::BTreeMap<String, String> = serde_json::from_value(selector.clone()).ok()?;
    (!map.is_empty()).then(|| Labels::from_map(&map))
}

/// The pods that an object selects; ready ones first, then the older ones.
pub(super) async fn selected(session: &Session, object: &Value) -> Result<Vec<Value>> {
    let Some(selector) = selector(object) else {
        let name = json::text(object, "metadata.name");
        return plain(format!("cannot attach to {}: {name:?} selects no pods", json::text(object, "kind")));
    };
    let namespace = json::text(object, "metadata.namespace");
    let mut pods = session.list(&known("", "pods")?, namespace, Some(&selector.to_string())).await?;
    pods.sort_by_key(|pod| (!ready(pod), json::text(pod, "metadata.creationTimestamp").to_owned()));
    Ok(pods)
}

pub(super) fn ready(pod: &Value) -> bool {
    condition(pod, "Ready") == Some("True")
}

pub(super) fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = json::list(object, "status.conditions").iter();
    conditions.filter(|c| json::text(c, "type") == type_).map(|c| json::text(c, "status")).next()
}

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The container that is meant: by flag, by annotation, or the first. Tells which when there is a choice.
pub(super) fn container(pod: &Value, args: &Args) -> Result<String> {
    let pod_name = json::text(pod, "metadata.name");
    let names = containers(pod);
    if let Some(wanted) = args.get("container") {
        let all = [names.clone(), names_of(pod, "spec.initContainers")].concat();
        return match all.iter().any(|n| n == wanted) {
            true => Ok(wanted.to_owned()),
            false => plain(format!("container {wanted} is not valid for pod {pod_name}")),
        };
    }
    let marked = json::map(pod, "metadata.annotations").and_then(|a| a.get(DEFAULT_CONTAINER)).and_then(Value::as_str);
    if let Some(marked) = marked.filter(|m| names.iter().any(|n| n == m)) {
        return Ok(marked.to_owned());
    }
    let Some(first) = names.first() else {
        return Err(Error::Plain(format!("pod {pod_name} has no containers")));
    };
    if names.len() > 1 && !args.on("quiet") {
        let all = [names.clone(), names_of(pod, "spec.initContainers").iter().map(|n| format!("{n} (init)")).collect()]
            .concat();
        note(&format!("Defaulted container {first:?} out of: {}\n", all.join(", ")));
    }
    Ok(first.clone())
}

pub(super) fn containers(pod: &Value) -> Vec<String> {
    names_of(pod, "spec.containers")
}

pub(super) fn names_of(pod: &Value, path: &str) -> Vec<String> {
    json::list(pod, path).iter().map(|c| json::text(c, "name").to_owned()).collect()
}
