//! Roles and bindings.

use serde_json::Value;

use super::{Errors, names};
use crate::field::{Error, Path};
use crate::json::{get, list, same, text};
use crate::resources::Resource;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn check(res: &Resource, new: &Value, old: Option<&Value>) -> Errors {
    match res.plural {
        "roles" | "clusterroles" => rules(new, res.namespaced()),
        _ => binding(new, old, res.namespaced()),
    }
}

fn rules(role: &Value, namespaced: bool) -> Errors {
    let mut errors = Errors::new();
    for (i, rule) in list(role, "rules").iter().enumerate() {
        let path = Path::new("rules").index(i);
        let empty = |key: &str| list(rule, key).is_empty();
        if empty("verbs") {
            errors.push(Error::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !empty("nonResourceURLs") {
            errors.extend(non_resource(rule, namespaced, &path));
            continue;
        }
        if empty("apiGroups") {
            errors.push(Error::required(&path.child("apiGroups"), "resource rules must supply at least one api group"));
        }
        if empty("resources") {
            errors.push(Error::required(&path.child("resources"), "resource rules must supply at least one resource"));
        }
    }
    errors
}

fn non_resource(rule: &Value, namespaced: bool, path: &Path) -> Errors {
    let at = path.child("nonResourceURLs");
    let urls = get(rule, "nonResourceURLs").cloned().unwrap_or_default();
    let mut errors = Errors::new();
    if namespaced {
        errors.push(Error::invalid(&at, urls.clone(), "namespaced rules cannot apply to non-resource URLs"));
    }
    if ["apiGroups", "resources", "resourceNames"].iter().any(|k| !list(rule, k).is_empty()) {
        errors.push(Error::invalid(&at, urls, "rules cannot apply to both regular resources and non-resource URLs"));
    }
    errors
}

fn binding(new: &Value, old: Option<&Value>, namespaced: bool) -> Errors {
    let role = Path::new("roleRef");
    let mut errors = Errors::new();
    if old.is_some_and(|o| !same(get(new, "roleRef"), get(o, "roleRef"))) {
        let given = get(new, "roleRef").cloned().unwrap_or_default();
        errors.push(Error::invalid(&role, given, "cannot change roleRef"));
    }
    if text(new, "roleRef.apiGroup") != GROUP {
        errors.push(Error::not_supported(&role.child("apiGroup"), text(new, "roleRef.apiGroup"), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(new, "roleRef.kind")) {
        errors.push(Error::not_supported(&role.child("kind"), text(new, "roleRef.kind"), kinds));
    }
    match text(new, "roleRef.name") {
        "" => errors.push(Error::required(&role.child("name"), "")),
        name => errors.extend(super::each(&role.child("name"), name, names::path_segment(name))),
    }
    for (i, subject) in list(new, "subjects").iter().enumerate() {
        errors.extend(one_subject(subject, namespaced, &Path::new("subjects").index(i)));
    }
    errors
}

fn one_subject(subject: &Value, namespaced: bool, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.extend(super::each(&path.child("name"), name, names::subdomain(name)));
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.push(Error::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" if group == GROUP => {}
        "User" | "Group" => errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP])),
        kind => errors.push(Error::not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"])),
    }
    errors
}
