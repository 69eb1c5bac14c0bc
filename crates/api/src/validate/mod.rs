//! Is a defaulted object acceptable? Every refusal names its field, in the words of the reference.
//!
//! Expects what `schema::check` passed and `defaults::apply` filled. What depends on the cluster (ranges, other objects) is
//! checked by allocation and admission.

mod endpoints;
mod events;
mod meta;
pub mod names;
mod networking;
mod pod;
mod rbac;
mod service;
mod storage;
mod workload;

use serde_json::Value;

use crate::field::{Error, Path};
use crate::json::{get, int, list, same, text};
use crate::resources::Resource;

pub(crate) type Errors = Vec<Error>;

/// What is wrong with a new object. `uid` and the like are set by the server before or after, but the name must be final.
pub fn create(res: &Resource, object: &Value) -> Vec<Error> {
    let mut errors = meta::create(res, object);
    errors.extend(content(res, object, None));
    errors
}

/// What is wrong with a change of the object itself.
pub fn update(res: &Resource, new: &Value, old: &Value) -> Vec<Error> {
    update_through(res, new, old, None)
}

/// As [`update`], through a subresource that may change other fields (`resize`, `ephemeralcontainers`, `status`, …).
pub fn update_through(res: &Resource, new: &Value, old: &Value, subresource: Option<&str>) -> Vec<Error> {
    let mut errors = meta::update(res, new, old);
    match (res.id(), subresource) {
        (("", "services"), Some("status")) => errors.extend(service::status(new)),
        (_, Some("status" | "finalize" | "approval")) => {}
        (("", "pods"), through) => errors.extend(pod::update(new, old, through)),
        (_, _) => errors.extend(content(res, new, Some(old))),
    }
    errors
}

fn content(res: &Resource, new: &Value, old: Option<&Value>) -> Errors {
    match res.id() {
        ("", "services") => service::check(new, old),
        ("", "pods") => pod::check(new),
        ("", "endpoints") => endpoints::endpoints(new),
        ("discovery.k8s.io", "endpointslices") => endpoints::slice(new, old),
        ("", "configmaps") => storage::config_map(new, old),
        ("", "secrets") => storage::secret(new, old),
        ("", "nodes") => node(new, old),
        ("" | "events.k8s.io", "events") => events::check(res, new, old),
        ("apps" | "batch", _) | ("", "replicationcontrollers") => workload::check(res, new, old),
        ("rbac.authorization.k8s.io", _) => rbac::check(res, new, old),
        ("networking.k8s.io", _) => networking::check(res, new, old),
        ("coordination.k8s.io", "leases") => lease(new),
        ("policy", "poddisruptionbudgets") => disruption_budget(new),
        ("scheduling.k8s.io", "priorityclasses") => priority_class(new, old),
        ("storage.k8s.io", "storageclasses") => storage::class(new, old),
        _ => Errors::new(),
    }
}

/// `field is immutable`, if it changed.
pub(crate) fn immutable(path: &Path, new: Option<&Value>, old: Option<&Value>) -> Option<Error> {
    (!same(new, old)).then(|| Error::invalid(path, new.cloned().unwrap_or_default(), "field is immutable"))
}

/// `must be greater than or equal to 0`, if it is not.
pub(crate) fn not_negative(path: &Path, value: Option<&Value>) -> Option<Error> {
    let n = value.and_then(Value::as_i64).filter(|n| *n < 0)?;
    Some(Error::invalid(path, n, "must be greater than or equal to 0"))
}

/// One of `supported`; empty is `Required`.
pub(crate) fn one_of(path: &Path, value: &str, supported: &[&str]) -> Option<Error> {
    match value {
        "" => Some(Error::required(path, "")),
        v if supported.contains(&v) => None,
        v => Some(Error::not_supported(path, v, supported)),
    }
}

/// Every message of a name rule as an error at `path`.
pub(crate) fn each(path: &Path, value: &str, messages: Vec<String>) -> impl Iterator<Item = Error> {
    messages.into_iter().map(move |m| Error::invalid(path, value, m)).collect::<Vec<_>>().into_iter()
}

fn node(new: &Value, old: Option<&Value>) -> Errors {
    let spec = Path::new("spec");
    let mut errors = Errors::new();
    for (i, taint) in list(new, "spec.taints").iter().enumerate() {
        let path = spec.child("taints").index(i);
        errors.extend(each(&path.child("key"), text(taint, "key"), names::label_key(text(taint, "key"))));
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.extend(one_of(&path.child("effect"), text(taint, "effect"), &effects));
    }
    let Some(old) = old else { return errors };
    for (key, why) in [
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        let field = format!("spec.{key}");
        if get(old, &field).is_some() && !same(get(new, &field), get(old, &field)) {
            errors.push(Error::forbidden(&spec.child(key), why));
        }
    }
    errors
}

fn lease(new: &Value) -> Errors {
    let spec = Path::new("spec");
    let mut errors = Errors::new();
    if get(new, "spec.leaseDurationSeconds").is_some() && int(new, "spec.leaseDurationSeconds") <= 0 {
        let seconds = int(new, "spec.leaseDurationSeconds");
        errors.push(Error::invalid(&spec.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    errors.extend(not_negative(&spec.child("leaseTransitions"), get(new, "spec.leaseTransitions")));
    errors
}

fn disruption_budget(new: &Value) -> Errors {
    let both = get(new, "spec.minAvailable").is_some() && get(new, "spec.maxUnavailable").is_some();
    let why = "minAvailable and maxUnavailable cannot be both set";
    both.then(|| Error::invalid(&Path::new("spec"), get(new, "spec").cloned().unwrap_or_default(), why))
        .into_iter()
        .collect()
}

fn priority_class(new: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Errors::new();
    let (name, value) = (text(new, "metadata.name"), int(new, "value"));
    let system = matches!(name, "system-node-critical" | "system-cluster-critical");
    if name.starts_with("system-") && !system {
        let why = "priority class names with 'system-' prefix are reserved for system use only. error: only system priority \
                   classes may use it";
        errors.push(Error::forbidden(&Path::new("metadata.name"), why));
    }
    if value > 1_000_000_000 && !system {
        let why = "maximum allowed value of a user defined priority is 1000000000";
        errors.push(Error::forbidden(&Path::new("value"), why));
    }
    let policies = ["Never", "PreemptLowerPriority"];
    let policy = text(new, "preemptionPolicy");
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(Error::not_supported(&Path::new("preemptionPolicy"), policy, &policies));
    }
    let Some(old) = old else { return errors };
    if value != int(old, "value") {
        errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    errors.extend(immutable(
        &Path::new("preemptionPolicy"),
        get(new, "preemptionPolicy"),
        get(old, "preemptionPolicy"),
    ));
    errors
}

#[cfg(test)]
mod tests;
