//! `metadata`: names by kind, labels, annotations, owners, finalizers; what of it may never change.

use serde_json::Value;

use super::{Errors, each, immutable, names};
use crate::field::{Error, Path};
use crate::json::{get, list, map, text, texts, truth};
use crate::resources::{Resource, qualified};

/// All annotations together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What is wrong with a name of this kind.
fn name_rule(res: &Resource) -> names::Rule {
    match res.id() {
        ("", "services") => names::label_1035,
        ("", "namespaces") => names::label,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        ("networking.k8s.io", "ipaddresses") => canonical_ip,
        ("batch", "cronjobs") => cron_job_name,
        _ => names::subdomain,
    }
}

fn canonical_ip(name: &str) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// A CronJob's jobs add eleven characters, and a job's name is a label value.
fn cron_job_name(name: &str) -> Vec<String> {
    let mut wrong = names::subdomain(name);
    if name.len() > 52 {
        wrong.push("must be no more than 52 characters".to_owned());
    }
    wrong
}

pub(super) fn create(res: &Resource, object: &Value) -> Errors {
    let path = Path::new("metadata");
    let mut errors = Errors::new();
    let (name, prefix) = (text(object, "metadata.name"), text(object, "metadata.generateName"));
    let rule = name_rule(res);
    if !prefix.is_empty() && res.id() != ("networking.k8s.io", "ipaddresses") {
        // A suffix follows, so a prefix may end where a name may not.
        let masked = format!("{}a", prefix.trim_end_matches('-'));
        errors.extend(each(&path.child("generateName"), prefix, rule(&masked)));
    }
    match name {
        "" => errors.push(Error::required(&path.child("name"), "name or generateName is required")),
        name => errors.extend(each(&path.child("name"), name, rule(name))),
    }
    let namespace = text(object, "metadata.namespace");
    let namespace_path = path.child("namespace");
    match (res.namespaced(), namespace) {
        (true, "") => errors.push(Error::required(&namespace_path, "")),
        (true, namespace) => errors.extend(each(&namespace_path, namespace, names::label(namespace))),
        (false, "") => {}
        (false, _) => errors.push(Error::forbidden(&namespace_path, "not allowed on this type")),
    }
    errors.extend(common(object, &path));
    errors
}

pub(super) fn update(_res: &Resource, new: &Value, old: &Value) -> Errors {
    let path = Path::new("metadata");
    let mut errors = common(new, &path);
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let field = format!("metadata.{key}");
        errors.extend(immutable(&path.child(key), get(new, &field), get(old, &field)));
    }
    if get(old, "metadata.deletionTimestamp").is_some() {
        let before = texts(old, "metadata.finalizers");
        let added: Vec<&str> = texts(new, "metadata.finalizers").into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            errors.push(Error::forbidden(&path.child("finalizers"), why));
        }
    }
    errors
}

fn common(object: &Value, path: &Path) -> Errors {
    let mut errors = labels(object, "metadata.labels", &path.child("labels"));
    errors.extend(annotations(object, &path.child("annotations")));
    errors.extend(owners(object, &path.child("ownerReferences")));
    for (i, finalizer) in texts(object, "metadata.finalizers").into_iter().enumerate() {
        errors.extend(each(&path.child("finalizers").index(i), finalizer, names::label_key(finalizer)));
    }
    errors
}

/// A map of labels at `field`.
pub(super) fn labels(object: &Value, field: &str, path: &Path) -> Errors {
    let mut errors = Errors::new();
    for (key, value) in map(object, field).into_iter().flatten() {
        errors.extend(each(path, key, names::label_key(key)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(each(path, value, names::label_value(value)));
    }
    errors
}

fn annotations(object: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let mut size = 0;
    for (key, value) in map(object, "metadata.annotations").into_iter().flatten() {
        errors.extend(each(path, key, names::label_key(&key.to_lowercase())));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

fn owners(object: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let mut controller: Option<String> = None;
    for (i, owner) in list(object, "metadata.ownerReferences").iter().enumerate() {
        let at = path.index(i);
        for key in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, key).is_empty() {
                let why = if key == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                errors.push(Error::invalid(&at.child(key), "", why));
            }
        }
        if truth(owner, "controller") {
            let (group, _) = crate::resources::split_api_version(text(owner, "apiVersion"));
            let this = format!("{}/{}", qualified(text(owner, "kind"), group), text(owner, "name"));
            if let Some(first) = &controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                let all = get(object, "metadata.ownerReferences").cloned().unwrap_or_default();
                errors.push(Error::invalid(path, all, why));
            }
            controller = Some(this);
        }
    }
    errors
}
