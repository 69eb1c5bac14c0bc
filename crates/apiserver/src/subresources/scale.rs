//! scale: the number of replicas, as an object of its own.

use http::StatusCode;
use serde_json::{Map, Value, json};
use skiff_api::status::Status;

use super::read_body;
use crate::Result;
use crate::call::Call;
use crate::decode;
use crate::encode::Reply;
use crate::object;
use crate::route::Verb;
use crate::verbs::{patch, update, write};

/// The scale that is wanted, given the object as it is.
type Wanted<'a> = dyn Fn(&Value) -> Result<Value> + Send + Sync + 'a;

const KIND: (&str, &str) = ("autoscaling/v1", "Scale");

pub(super) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let name = call.name()?;
    if call.verb == Verb::Get {
        let current = call.storage().get(call.resource(), call.namespace(), name).await?;
        return Ok(Reply::Plain(StatusCode::OK, of(&current.value)));
    }
    let wanted: Box<Wanted<'_>> = match call.verb {
        Verb::Update => {
            let mut scale = read_body(call, KIND.0, KIND.1, body)?;
            update::fit_name(call, &mut scale)?;
            Box::new(move |_| Ok(scale.clone()))
        }
        _ => {
            let media = patch::media(call)?;
            let patch = decode::value(media, body)?;
            let media = if media == decode::Media::StrategicPatch { decode::Media::MergePatch } else { media };
            Box::new(move |current| patch::change(call, media, &patch, &of(current)))
        }
    };
    let how = write::How { subresource: Some("scale"), ..write::How::SPEC };
    let change = |current: Option<&Value>| {
        let current = current.cloned().unwrap_or_default();
        apply(call, &wanted(&current)?, current)
    };
    let written = write::update(call, name, &how, change).await?;
    Ok(Reply::Plain(StatusCode::OK, of(&written.value())))
}

/// The object with the replicas of the scale; the scale's resourceVersion and uid stay preconditions.
fn apply(call: &Call, scale: &Value, mut object: Value) -> Result<Value> {
    let replicas = scale.pointer("/spec/replicas").map_or(Some(0), Value::as_i64);
    let replicas = replicas.filter(|r| (0..=i32::MAX as i64).contains(r)).ok_or_else(|| {
        let path = skiff_api::field::Path::new("spec").child("replicas");
        let error = skiff_api::field::Error::invalid(
            &path,
            scale["spec"]["replicas"].clone(),
            "must be greater than or equal to 0",
        );
        Status::invalid_kind("autoscaling", "Scale", call.name().unwrap_or_default(), vec![error])
    })?;
    object::child(&mut object, "spec").insert("replicas".into(), replicas.into());
    for field in ["resourceVersion", "uid"] {
        match scale["metadata"][field].as_str() {
            Some(given) => object::meta_mut(&mut object).insert(field.into(), given.into()),
            None => object::meta_mut(&mut object).shift_remove(field),
        };
    }
    Ok(object)
}

/// The scale of an object.
fn of(object: &Value) -> Value {
    let meta = object::meta(object);
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    let running = object.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": running});
    let selector = selector(&object["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": KIND.1, "apiVersion": KIND.0, "metadata": metadata, "spec": {"replicas": replicas}, "status": status})
}

/// A selector in the syntax of `-l`.
fn selector(selector: &Value) -> String {
    let is_map = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let labels = if is_map { selector } else { &selector["matchLabels"] };
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    terms.sort();
    terms.extend(selector["matchExpressions"].as_array().into_iter().flatten().map(expression));
    terms.join(",")
}

fn expression(e: &Value) -> String {
    let key = e["key"].as_str().unwrap_or_default();
    let mut values: Vec<&str> = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    values.sort();
    let values = values.join(",");
    match e["operator"].as_str().unwrap_or_default() {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "DoesNotExist" => format!("!{key}"),
        _ => key.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_of_a_deployment() {
        let d = json!({"metadata": {"name": "d", "labels": {}}, "spec": {"replicas": 3, "selector": {
            "matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["y", "x"]}]}},
            "status": {"replicas": 2}});
        let scale = of(&d);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=1,b=2,c in (x,y)"}));
        assert!(scale["metadata"].get("labels").is_none());
        assert_eq!(selector(&json!({"app": "x"})), "app=x");
    }
}
