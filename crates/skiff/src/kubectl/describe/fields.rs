//! Values as descriptions show them.

use serde_json::Value;
use skiff_api::json;

pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

pub(super) fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// A text or a number as text; other values as JSON.
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time as `Sun, 22 Nov 2026 21:00:00 +0000`.
pub(super) fn time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => "Mon, 01 Jan 0001 00:00:00 +0000".into(),
    }
}

/// How long ago, in the short form.
pub(super) fn age(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => skiff_api::columns::human_duration(jiff::Timestamp::now().as_second() - time.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// A list as Go prints it: `[a b]`.
pub(super) fn go_list(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

/// `ReplicaSet/web-1`: what controls the object.
pub(super) fn controller(object: &Value) -> String {
    let owners = json::list(object, "metadata.ownerReferences").iter();
    let mut controllers = owners.filter(|o| json::truth(o, "controller"));
    controllers.next().map(|o| format!("{}/{}", json::text(o, "kind"), json::text(o, "name"))).unwrap_or_default()
}

/// A LabelSelector, or a plain map, as one line.
pub(super) fn selector(value: Option<&Value>) -> String {
    let Some(value) = value else { return "<none>".into() };
    let typed = value.get("matchLabels").is_some() || value.get("matchExpressions").is_some();
    let labels = match typed {
        true => serde_json::from_value(value.clone())
            .ok()
            .and_then(|s| skiff_api::selector::Labels::from_label_selector(&s).ok())
            .map(|s| s.to_string()),
        false => value.as_object().filter(|m| !m.is_empty()).map(|m| crate::kubectl::table::pairs(Some(m))),
    };
    labels.filter(|l| !l.is_empty()).unwrap_or_else(|| "<none>".into())
}

/// The resources of a list of requests, by name.
pub(super) fn sorted(value: Option<&Value>) -> Vec<(&str, String)> {
    let mut pairs: Vec<(&str, String)> =
        value.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), scalar(v))).collect();
    pairs.sort();
    pairs
}
