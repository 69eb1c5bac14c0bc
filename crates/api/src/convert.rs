//! One set of objects, several views: a resource may show objects that are stored in the form of another group or version.
//! An event is one thing in `v1` and in `events.k8s.io/v1`, an autoscaler one in `autoscaling/v1` and `v2`.
//!
//! Both directions lose nothing: `show(store(object)) == object` and the other way round. What one form cannot say stands in
//! annotations of the other.

mod autoscaler;

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::json::set;
use crate::resources::Resource;

/// The fields of an event: in `events.k8s.io/v1`, and in core `v1`, in which events are stored.
const EVENT: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Turns an object of this resource into the form in which it is stored.
pub fn store(res: &Resource, object: &mut Value) {
    let home = res.storage();
    if std::ptr::eq(home, res) || home.api_version() == res.api_version() {
        return;
    }
    match res.id() {
        ("events.k8s.io", "events") => rename(object, |key| swap(key, EVENT.iter().copied())),
        ("autoscaling", _) => autoscaler::store(object),
        _ => {}
    }
    stamp(object, home);
}

/// Turns a stored object into the form of this resource.
pub fn show(res: &Resource, object: &mut Value) {
    let home = res.storage();
    if std::ptr::eq(home, res) || home.api_version() == res.api_version() {
        return;
    }
    match res.id() {
        ("events.k8s.io", "events") => rename(object, |key| swap(key, EVENT.iter().map(|(view, core)| (*core, *view)))),
        ("autoscaling", _) => autoscaler::show(object),
        _ => {}
    }
    stamp(object, res);
}

/// The object in its stored form, which is mostly its own.
pub(crate) fn stored<'a>(res: &Resource, object: &'a Value) -> Cow<'a, Value> {
    if res.stored_as.is_none() {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    store(res, &mut object);
    Cow::Owned(object)
}

fn swap(key: &str, mut pairs: impl Iterator<Item = (&'static str, &'static str)>) -> &str {
    pairs.find(|(from, _)| *from == key).map_or(key, |(_, to)| to)
}

fn rename(object: &mut Value, name: impl Fn(&str) -> &str) {
    if let Some(map) = object.as_object_mut() {
        let renamed: Map<String, Value> =
            std::mem::take(map).into_iter().map(|(key, value)| (name(&key).to_owned(), value)).collect();
        *map = renamed;
    }
}

fn stamp(object: &mut Value, res: &Resource) {
    for (key, value) in [("kind", res.kind.to_owned()), ("apiVersion", res.api_version())] {
        if object.get(key).is_some() {
            set(object, key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::find;
    use serde_json::json;

    fn check(group: &str, version: &str, plural: &str, view: Value, stored: Value) {
        let res = find(group, version, plural).unwrap();
        let mut object = view.clone();
        store(res, &mut object);
        assert_eq!(object, stored);
        show(res, &mut object);
        assert_eq!(object, view);
    }

    #[test]
    fn events_are_stored_as_core_events() {
        check(
            "events.k8s.io",
            "v1",
            "events",
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}, "regarding": {"kind": "Pod"},
                   "note": "n", "reason": "r", "type": "Normal", "reportingController": "c", "reportingInstance": "i",
                   "eventTime": "t", "series": {"count": 2, "lastObservedTime": "t"}, "related": {"kind": "Node"},
                   "deprecatedSource": {"component": "c"}, "deprecatedFirstTimestamp": "f", "deprecatedLastTimestamp": "l",
                   "deprecatedCount": 3}),
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "involvedObject": {"kind": "Pod"},
                   "message": "n", "reason": "r", "type": "Normal", "reportingComponent": "c", "reportingInstance": "i",
                   "eventTime": "t", "series": {"count": 2, "lastObservedTime": "t"}, "related": {"kind": "Node"},
                   "source": {"component": "c"}, "firstTimestamp": "f", "lastTimestamp": "l", "count": 3}),
        );
        let core = json!({"apiVersion": "v1", "kind": "Event", "message": "m"});
        check("", "v1", "events", core.clone(), core);
    }
}
