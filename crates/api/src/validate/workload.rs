//! Deployments, ReplicaSets, StatefulSets, DaemonSets, ReplicationControllers, Jobs, CronJobs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value};

use super::{Errors, immutable, not_negative, one_of, pod};
use crate::field::{Error, Path};
use crate::json::{get, is_zero, map, restore, same, text};
use crate::resources::Resource;
use crate::selector::Labels;

const FORBIDDEN: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                         'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                         'minReadySeconds' are forbidden";

pub(super) fn check(res: &Resource, new: &Value, old: Option<&Value>) -> Errors {
    let spec = Path::new("spec");
    let mut errors = match res.plural {
        "deployments" => deployment(new, &spec),
        "statefulsets" => stateful_set(new, old, &spec),
        "daemonsets" => strategy(new, "updateStrategy", &["OnDelete", "RollingUpdate"], &spec),
        "replicasets" => Errors::new(),
        "replicationcontrollers" => return controller(new, &spec),
        "jobs" => return job(new, old, &spec),
        "cronjobs" => return cron_job(new, &spec),
        "controllerrevisions" => return revision(new, old),
        _ => return Errors::new(),
    };
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        errors.extend(not_negative(&spec.child(key), get(new, &format!("spec.{key}"))));
    }
    errors.extend(selector(res, new, &spec));
    errors.extend(template(new, "spec.template", &spec.child("template"), true));
    if let Some(old) = old.filter(|_| res.plural != "statefulsets") {
        errors.extend(immutable(&spec.child("selector"), get(new, "spec.selector"), get(old, "spec.selector")));
    }
    errors
}

fn template(object: &Value, field: &str, path: &Path, always: bool) -> Errors {
    match get(object, field) {
        Some(template) => pod::template(template, path, always),
        None => vec![Error::required(path, "")],
    }
}

/// There is one, it is not empty, and it selects the template's pods.
fn selector(res: &Resource, object: &Value, spec: &Path) -> Errors {
    let path = spec.child("selector");
    let Some(given) = get(object, "spec.selector") else { return vec![Error::required(&path, "")] };
    if is_zero(given.get("matchLabels")) && is_zero(given.get("matchExpressions")) {
        let why = format!("empty selector is invalid for {}", res.singular);
        return vec![Error::invalid(&path, given.clone(), why)];
    }
    let parsed = serde_json::from_value::<LabelSelector>(given.clone())
        .map_err(|e| e.to_string())
        .and_then(|s| Labels::from_label_selector(&s).map_err(|e| e.to_string()));
    let empty = Map::new();
    let labels = map(object, "spec.template.metadata.labels").unwrap_or(&empty);
    match parsed {
        Err(why) => vec![Error::invalid(&path, given.clone(), why)],
        Ok(selector) if selector.matches(labels) => Errors::new(),
        Ok(_) => {
            let why = "`selector` does not match template `labels`";
            vec![Error::invalid(&spec.child("template.metadata.labels"), labels.clone(), why)]
        }
    }
}

fn strategy(object: &Value, key: &str, kinds: &[&str], spec: &Path) -> Errors {
    let path = spec.child(key);
    let kind = text(object, &format!("spec.{key}.type"));
    let mut errors: Errors = one_of(&path.child("type"), kind, kinds).into_iter().collect();
    let rolling = get(object, &format!("spec.{key}.rollingUpdate"));
    let at = path.child("rollingUpdate");
    match (kind, rolling) {
        ("RollingUpdate", Some(rolling)) => {
            for field in ["maxUnavailable", "maxSurge"] {
                errors.extend(amount(rolling.get(field), &at.child(field)));
            }
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            if unavailable.is_some() && surge.is_some() && nothing(unavailable) && nothing(surge) {
                let value = unavailable.cloned().unwrap_or_default();
                errors.push(Error::invalid(&at.child("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0"));
            }
        }
        ("Recreate", Some(_)) => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(&at, why));
        }
        _ => {}
    }
    errors
}

fn nothing(amount: Option<&Value>) -> bool {
    match amount {
        Some(Value::String(s)) => s.trim_end_matches('%').parse::<i64>() == Ok(0),
        other => is_zero(other),
    }
}

/// A number or a percentage.
fn amount(value: Option<&Value>, path: &Path) -> Option<Error> {
    match value {
        Some(Value::String(s)) => {
            let percent = s.strip_suffix('%').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
                       used for validation is '[0-9]+%')";
            percent.is_none().then(|| Error::invalid(path, s.as_str(), why))
        }
        other => not_negative(path, other),
    }
}

fn deployment(object: &Value, spec: &Path) -> Errors {
    let mut errors = strategy(object, "strategy", &["Recreate", "RollingUpdate"], spec);
    let deadline = get(object, "spec.progressDeadlineSeconds");
    errors.extend(not_negative(&spec.child("progressDeadlineSeconds"), deadline));
    let ready = crate::json::int(object, "spec.minReadySeconds");
    if let Some(seconds) = deadline.and_then(Value::as_i64).filter(|d| *d >= 0 && *d <= ready) {
        errors.push(Error::invalid(
            &spec.child("progressDeadlineSeconds"),
            seconds,
            "must be greater than minReadySeconds",
        ));
    }
    errors
}

fn stateful_set(new: &Value, old: Option<&Value>, spec: &Path) -> Errors {
    let mut errors = strategy(new, "updateStrategy", &["OnDelete", "RollingUpdate"], spec);
    let policy = text(new, "spec.podManagementPolicy");
    errors.extend(one_of(&spec.child("podManagementPolicy"), policy, &["OrderedReady", "Parallel"]));
    let Some(old) = old else { return errors };
    let before = get(old, "spec").cloned().unwrap_or_default();
    let mut after = get(new, "spec").cloned().unwrap_or_default();
    let free = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    free.iter().for_each(|key| restore(&mut after, &before, key));
    if after != before {
        errors.push(Error::forbidden(spec, FORBIDDEN));
    }
    errors
}

/// Its selector is a plain map.
fn controller(object: &Value, spec: &Path) -> Errors {
    let mut errors: Errors = not_negative(&spec.child("replicas"), get(object, "spec.replicas")).into_iter().collect();
    let selector = map(object, "spec.selector").filter(|s| !s.is_empty());
    match (selector, get(object, "spec.template")) {
        (None, _) => errors.push(Error::required(&spec.child("selector"), "")),
        (Some(selector), Some(template)) => {
            let labels = map(template, "metadata.labels");
            if !selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)) {
                let why = "`selector` does not match template `labels`";
                let labels = labels.cloned().unwrap_or_default();
                errors.push(Error::invalid(&spec.child("template.metadata.labels"), labels, why));
            }
        }
        _ => {}
    }
    errors.extend(template(object, "spec.template", &spec.child("template"), true));
    errors
}

fn job(new: &Value, old: Option<&Value>, spec: &Path) -> Errors {
    let mut errors = Errors::new();
    for key in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"] {
        errors.extend(not_negative(&spec.child(key), get(new, &format!("spec.{key}"))));
    }
    errors.extend(template(new, "spec.template", &spec.child("template"), false));
    errors.extend(job_restart(new, "spec.template", &spec.child("template")));
    let Some(old) = old else { return errors };
    for key in ["completions", "selector", "completionMode"] {
        let field = format!("spec.{key}");
        errors.extend(immutable(&spec.child(key), get(new, &field), get(old, &field)));
    }
    if !same(get(new, "spec.template"), get(old, "spec.template")) && !crate::json::truth(old, "spec.suspend") {
        let template = get(new, "spec.template").cloned().unwrap_or_default();
        errors.push(Error::invalid(&spec.child("template"), template, "field is immutable"));
    }
    errors
}

/// A job's pods end.
fn job_restart(object: &Value, field: &str, path: &Path) -> Option<Error> {
    let policy = text(object, &format!("{field}.spec.restartPolicy"));
    let at = path.child("spec.restartPolicy");
    (policy == "Always").then(|| Error::not_supported(&at, policy, &["Never", "OnFailure"]))
}

fn cron_job(object: &Value, spec: &Path) -> Errors {
    let mut errors = Errors::new();
    if text(object, "spec.schedule").is_empty() {
        errors.push(Error::required(&spec.child("schedule"), ""));
    }
    let policy = text(object, "spec.concurrencyPolicy");
    errors.extend(one_of(&spec.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]));
    let (field, path) = ("spec.jobTemplate.spec.template", spec.child("jobTemplate.spec.template"));
    errors.extend(template(object, field, &path, false));
    errors.extend(job_restart(object, field, &path));
    errors
}

fn revision(new: &Value, old: Option<&Value>) -> Errors {
    let mut errors: Errors = not_negative(&Path::new("revision"), get(new, "revision")).into_iter().collect();
    if let Some(old) = old {
        errors.extend(immutable(&Path::new("data"), get(new, "data"), get(old, "data")));
    }
    errors
}
