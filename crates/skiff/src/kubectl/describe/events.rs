//! The events that concern an object, at the end of its description.

use serde_json::Value;
use skiff_api::json;

use super::{Writer, fields::age};
use crate::kubectl::session::{Call, Session};

pub(super) async fn of(session: &Session, object: &Value) -> Vec<Value> {
    let text = |path: &str| json::text(object, path).to_owned();
    let mut selector = vec![format!("involvedObject.name={}", text("metadata.name"))];
    if !text("metadata.namespace").is_empty() {
        selector.push(format!("involvedObject.namespace={}", text("metadata.namespace")));
    }
    selector.push(format!("involvedObject.kind={}", text("kind")));
    // The events of nodes carry the node's name in place of its uid.
    if text("kind") != "Node" {
        selector.push(format!("involvedObject.uid={}", text("metadata.uid")));
    }
    let place = match text("metadata.namespace") {
        namespace if namespace.is_empty() => "/api/v1/events".to_owned(),
        namespace => format!("/api/v1/namespaces/{namespace}/events"),
    };
    let answer = session.json(&Call::get(place).query("fieldSelector", selector.join(","))).await.unwrap_or_default();
    let mut events = json::list(&answer, "items").to_vec();
    events.sort_by_key(|e| json::text(e, "lastTimestamp").to_owned());
    events
}

pub(super) fn write(w: &mut Writer, events: &[Value]) {
    if events.is_empty() {
        return w.field(0, "Events", "<none>");
    }
    w.line(0, "Events:");
    w.line(1, "Type\tReason\tAge\tFrom\tMessage");
    w.line(1, "----\t------\t----\t----\t-------");
    for event in events {
        let from = match json::text(event, "source.component") {
            "" => json::text(event, "reportingComponent"),
            component => component,
        };
        let text = |path: &str| json::text(event, path);
        w.line(
            1,
            format!("{}\t{}\t{}\t{from}\t{}", text("type"), text("reason"), interval(event), text("message").trim()),
        );
    }
}

/// `3s`, or `3s (x5 over 2m)`.
fn interval(event: &Value) -> String {
    let first = match json::text(event, "firstTimestamp") {
        "" => json::text(event, "eventTime"),
        time => time,
    };
    if let Some(series) = event.get("series").filter(|s| s.is_object()) {
        let count = json::int(series, "count");
        return format!("{} (x{count} over {})", age(json::text(series, "lastObservedTime")), age(first));
    }
    match json::int(event, "count") {
        count @ 2.. => format!("{} (x{count} over {})", age(json::text(event, "lastTimestamp")), age(first)),
        _ => age(first),
    }
}
