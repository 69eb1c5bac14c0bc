//! Volumes.

use serde_json::Value;

use crate::field::{Error, Path};
use crate::json::{get, list, text};
use crate::validate::{Errors, each, names};

pub(super) fn names_of(spec: &Value) -> Vec<&str> {
    list(spec, "volumes").iter().map(|v| text(v, "name")).collect()
}

pub(super) fn check(spec: &Value, path: &Path) -> Errors {
    let volumes = list(spec, "volumes");
    let mut errors = Errors::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.child("volumes").index(i);
        let name = text(volume, "name");
        match name {
            "" => errors.push(Error::required(&at.child("name"), "")),
            name => errors.extend(each(&at.child("name"), name, names::label(name))),
        }
        if !name.is_empty() && volumes[..i].iter().any(|v| text(v, "name") == name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        errors.extend(sources(volume, &at));
    }
    errors
}

/// Exactly one source, and what each must name.
fn sources(volume: &Value, path: &Path) -> Errors {
    let kinds: Vec<&str> = volume.as_object().into_iter().flat_map(|v| v.keys()).map(String::as_str).collect();
    let kinds: Vec<&str> = kinds.into_iter().filter(|k| *k != "name").collect();
    let mut errors = Errors::new();
    if kinds.is_empty() {
        errors.push(Error::required(path, "must specify a volume type"));
    }
    for kind in kinds.iter().skip(1) {
        errors.push(Error::forbidden(&path.child(kind), "may not specify more than 1 volume type"));
    }
    for (kind, required) in [
        ("hostPath", "path"),
        ("secret", "secretName"),
        ("configMap", "name"),
        ("persistentVolumeClaim", "claimName"),
        ("nfs", "server"),
    ] {
        if let Some(source) = get(volume, kind) {
            if text(source, required).is_empty() {
                errors.push(Error::required(&path.child(kind).child(required), ""));
            }
            errors.extend(mode(source, &path.child(kind)));
            errors.extend(items(source, &path.child(kind).child("items")));
        }
    }
    if let Some(projected) = get(volume, "projected") {
        errors.extend(mode(projected, &path.child("projected")));
    }
    errors
}

fn mode(source: &Value, path: &Path) -> Option<Error> {
    let mode = get(source, "defaultMode").and_then(Value::as_i64).filter(|m| !(0..=0o777).contains(m))?;
    let why = "must be a number between 0 and 0777 (octal), both inclusive";
    Some(Error::invalid(&path.child("defaultMode"), mode, why))
}

fn items(source: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    for (i, item) in list(source, "items").iter().enumerate() {
        let at = path.index(i);
        if text(item, "key").is_empty() {
            errors.push(Error::required(&at.child("key"), ""));
        }
        match text(item, "path") {
            "" => errors.push(Error::required(&at.child("path"), "")),
            p => errors.extend(relative(p, &at.child("path"))),
        }
    }
    errors
}

/// A path that stays below where it is put.
pub(super) fn relative(text: &str, path: &Path) -> Errors {
    let mut errors = Errors::new();
    if text.starts_with('/') {
        errors.push(Error::invalid(path, text, "must be a relative path"));
    }
    if text.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path, text, "must not contain '..'"));
    }
    errors
}
