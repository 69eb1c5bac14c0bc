//! Events. Those with an `eventTime` are of the new kind: they say who reports, what was done and why. `events.k8s.io` takes
//! only such events and lets only their series change.

use serde_json::Value;

use super::{Errors, each, immutable, names};
use crate::convert;
use crate::field::{Error, Path};
use crate::json::{get, int, is_zero, text};
use crate::resources::Resource;

const LIMIT: usize = 128;
const MESSAGE_LIMIT: usize = 1024;

pub(super) fn check(res: &Resource, new: &Value, old: Option<&Value>) -> Errors {
    let core = convert::stored(res, new);
    let strict = res.group == "events.k8s.io";
    let mut errors = common(res, &core);
    if strict {
        errors.extend(series(&core));
        errors.extend(old.map_or_else(|| fresh(&core), |old| unchanged(new, old)));
    }
    errors
}

/// An event stands in the namespace of what it is about; `default` or `kube-system` if that has none.
fn namespace(event: &Value) -> Option<Error> {
    let (about, own) = (text(event, "involvedObject.namespace"), text(event, "metadata.namespace"));
    let fits = about == own || (about.is_empty() && matches!(own, "default" | "kube-system"));
    let path = Path::new("involvedObject.namespace");
    (!fits).then(|| Error::invalid(&path, about, "does not match event.namespace"))
}

fn common(res: &Resource, event: &Value) -> Errors {
    let mut errors: Errors = namespace(event).into_iter().collect();
    if is_zero(get(event, "eventTime")) {
        return errors;
    }
    let controller = if res.group.is_empty() { "reportingComponent" } else { "reportingController" };
    let reporter = text(event, "reportingComponent");
    match reporter {
        "" => errors.push(Error::required(&Path::new(controller), "")),
        _ => errors.extend(each(&Path::new(controller), reporter, names::label_key(reporter))),
    }
    for key in ["reportingInstance", "action", "reason"] {
        match text(event, key).len() {
            0 => errors.push(Error::required(&Path::new(key), "")),
            n if n > LIMIT => errors.push(too_long(key, LIMIT)),
            _ => {}
        }
    }
    if text(event, "message").len() > MESSAGE_LIMIT {
        errors.push(too_long("message", MESSAGE_LIMIT));
    }
    errors
}

fn too_long(key: &str, limit: usize) -> Error {
    Error::invalid(&Path::new(key), "", format!("can have at most {limit} characters"))
}

fn series(event: &Value) -> Errors {
    let mut errors = Errors::new();
    if get(event, "series").is_none() {
        return errors;
    }
    if int(event, "series.count") < 2 {
        errors.push(Error::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if is_zero(get(event, "series.lastObservedTime")) {
        errors.push(Error::required(&Path::new("series.lastObservedTime"), ""));
    }
    errors
}

/// What a new event of the new kind must and must not say.
fn fresh(event: &Value) -> Errors {
    let mut errors = Errors::new();
    if is_zero(get(event, "eventTime")) {
        errors.push(Error::required(&Path::new("eventTime"), ""));
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    for key in ["firstTimestamp", "lastTimestamp", "count", "source.component", "source.host"] {
        if !is_zero(get(event, key)) {
            let path = key.split('.').next().unwrap_or(key);
            errors.push(Error::invalid(&Path::new(path), "", "needs to be unset"));
        }
    }
    errors
}

fn unchanged(new: &Value, old: &Value) -> Errors {
    const FIXED: &[&str] = &[
        "regarding",
        "reason",
        "note",
        "deprecatedSource",
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
        "deprecatedCount",
        "eventTime",
        "related",
        "action",
        "type",
        "reportingController",
        "reportingInstance",
    ];
    FIXED.iter().filter_map(|key| immutable(&Path::new(key), get(new, key), get(old, key))).collect()
}
