//! ConfigMaps, Secrets, StorageClasses.

use serde_json::Value;

use super::{Errors, each, immutable, names};
use crate::field::{Error, Path};
use crate::json::{get, map, same, text, truth};

/// All values of one ConfigMap or Secret together.
const MAX_SIZE: usize = 1024 * 1024;

pub(super) fn config_map(new: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Errors::new();
    if let Some(old) = old {
        errors.extend(frozen(new, old, &["data", "binaryData"]));
    }
    let mut size = 0;
    for (key, value) in map(new, "data").into_iter().flatten() {
        let path = Path::new("data").key(key);
        errors.extend(each(&path, key, names::config_key(key)));
        if map(new, "binaryData").is_some_and(|b| b.contains_key(key)) {
            errors.push(Error::invalid(&path, key.as_str(), "duplicate of key present in binaryData"));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in map(new, "binaryData").into_iter().flatten() {
        errors.extend(each(&Path::new("binaryData").key(key), key, names::config_key(key)));
        size += decoded(value);
    }
    if size > MAX_SIZE {
        errors.push(Error::too_long(&Path::root(), MAX_SIZE));
    }
    errors
}

pub(super) fn secret(new: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Errors::new();
    if let Some(old) = old {
        errors.extend(immutable(&Path::new("type"), get(new, "type"), get(old, "type")));
        errors.extend(frozen(new, old, &["data"]));
    }
    let mut size = 0;
    for (key, value) in map(new, "data").into_iter().flatten() {
        errors.extend(each(&Path::new("data").key(key), key, names::config_key(key)));
        size += decoded(value);
    }
    if size > MAX_SIZE {
        errors.push(Error::too_long(&Path::new("data"), MAX_SIZE));
    }
    errors.extend(secret_type(new));
    errors
}

/// What the well-known types of Secrets must hold.
fn secret_type(secret: &Value) -> Errors {
    let required: &[&str] = match text(secret, "type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/service-account-token" => {
            let name = map(secret, "metadata.annotations").and_then(|a| a.get("kubernetes.io/service-account.name"));
            let path = Path::new("metadata.annotations").key("kubernetes.io/service-account.name");
            return if name.is_some() { Errors::new() } else { vec![Error::required(&path, "")] };
        }
        _ => &[],
    };
    let missing = required.iter().filter(|k| !map(secret, "data").is_some_and(|d| d.contains_key(**k)));
    missing.map(|k| Error::required(&Path::new("data").key(k), "")).collect()
}

/// Once `immutable` is set, neither it nor the data change.
fn frozen(new: &Value, old: &Value, keys: &[&str]) -> Errors {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !truth(old, "immutable") {
        return Errors::new();
    }
    let mut errors = Errors::new();
    if !truth(new, "immutable") {
        errors.push(Error::forbidden(&Path::new("immutable"), WHY));
    }
    let changed = keys.iter().filter(|k| !same(get(new, k), get(old, k)));
    errors.extend(changed.map(|k| Error::forbidden(&Path::new(k), WHY)));
    errors
}

/// The length of what a base64 text stands for.
fn decoded(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

pub(super) fn class(new: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Errors::new();
    if text(new, "provisioner").is_empty() {
        errors.push(Error::required(&Path::new("provisioner"), ""));
    }
    let Some(old) = old else { return errors };
    for key in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        if !same(get(new, key), get(old, key)) {
            errors.push(Error::forbidden(&Path::new(key), format!("updates to {key} are forbidden.")));
        }
    }
    errors
}
