//! What of a pod may change once it is stored.

use serde_json::Value;

use crate::field::{Error, Path};
use crate::json::{each_mut, get, int, list, remove, restore, same, text};
use crate::validate::Errors;

const ONLY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A change of a pod, through a subresource or of itself.
pub(in crate::validate) fn update(new: &Value, old: &Value, subresource: Option<&str>) -> Errors {
    let mut errors = super::check(new);
    match subresource {
        None => errors.extend(of_the_pod(new, old)),
        Some("resize") => errors.extend(resize(new, old)),
        Some("ephemeralcontainers") => errors.extend(ephemeral(new, old)),
        Some(_) => {}
    }
    errors
}

fn of_the_pod(new: &Value, old: &Value) -> Errors {
    let spec = Path::new("spec");
    for key in ["containers", "initContainers"] {
        let path = format!("spec.{key}");
        if list(new, &path).len() != list(old, &path).len() {
            let why = "pod updates may not add or remove containers";
            return vec![Error::forbidden(&Path::new(&path), why)];
        }
    }
    let mut errors = deadline(new, old);
    errors.extend(tolerations(new, old));
    let (before, mut after) =
        (get(old, "spec").cloned().unwrap_or_default(), get(new, "spec").cloned().unwrap_or_default());
    forget_what_may_change(&mut after, &before);
    if let Some(changed) = first_change(&after, &before, &spec) {
        errors.push(Error::forbidden(&spec, format!("{ONLY}\nchanged: {changed}")));
    }
    errors
}

/// Makes `after` equal to `before` wherever a change is allowed.
fn forget_what_may_change(after: &mut Value, before: &Value) {
    for key in ["containers", "initContainers"] {
        let images: Vec<Value> =
            list(before, key).iter().map(|c| c.get("image").cloned().unwrap_or_default()).collect();
        for (container, image) in each_mut(after, key).zip(images) {
            crate::json::set(container, "image", image);
        }
    }
    restore(after, before, "activeDeadlineSeconds");
    restore(after, before, "tolerations");
    if int(before, "terminationGracePeriodSeconds") < 0 && int(after, "terminationGracePeriodSeconds") == 1 {
        restore(after, before, "terminationGracePeriodSeconds");
    }
    if gates_only_removed(after, before) {
        restore(after, before, "schedulingGates");
        if !list(before, "schedulingGates").is_empty() {
            restore(after, before, "nodeSelector");
            restore(after, before, "affinity");
        }
    }
}

fn gates_only_removed(after: &Value, before: &Value) -> bool {
    list(after, "schedulingGates").iter().all(|g| list(before, "schedulingGates").contains(g))
}

/// It may be set, and shortened.
fn deadline(new: &Value, old: &Value) -> Errors {
    let key = "spec.activeDeadlineSeconds";
    let path = Path::new(key);
    match (get(new, key).and_then(Value::as_i64), get(old, key).and_then(Value::as_i64)) {
        (Some(now), Some(before)) if now > before => {
            vec![Error::invalid(&path, now, "must be less than or equal to previous value")]
        }
        (None, Some(_)) => {
            vec![Error::invalid(&path, Value::Null, "must not update from a positive integer to nil value")]
        }
        _ => Errors::new(),
    }
}

/// They may be added, and their seconds changed.
fn tolerations(new: &Value, old: &Value) -> Errors {
    let timeless = |object: &Value| -> Vec<Value> {
        let mut all = list(object, "spec.tolerations").to_vec();
        all.iter_mut().for_each(|t| {
            remove(t, "tolerationSeconds");
        });
        all
    };
    let now = timeless(new);
    if timeless(old).iter().all(|t| now.contains(t)) {
        return Errors::new();
    }
    let why = "existing toleration can not be modified except its tolerationSeconds";
    vec![Error::forbidden(&Path::new("spec.tolerations"), why)]
}

/// Through `resize` only resources and resize policies change.
fn resize(new: &Value, old: &Value) -> Errors {
    let spec = Path::new("spec");
    let (before, mut after) =
        (get(old, "spec").cloned().unwrap_or_default(), get(new, "spec").cloned().unwrap_or_default());
    for key in ["containers", "initContainers"] {
        for (container, was) in each_mut(&mut after, key).zip(list(&before, key)) {
            restore(container, was, "resources");
            restore(container, was, "resizePolicy");
        }
    }
    restore(&mut after, &before, "resources");
    let changed = first_change(&after, &before, &spec);
    let why = "only cpu and memory resources are mutable";
    changed.map(|c| Error::forbidden(&spec, format!("{why}\nchanged: {c}"))).into_iter().collect()
}

/// Ephemeral containers are added, never changed or taken away.
fn ephemeral(new: &Value, old: &Value) -> Errors {
    let path = Path::new("spec.ephemeralContainers");
    let now = list(new, "spec.ephemeralContainers");
    let mut errors = Errors::new();
    for was in list(old, "spec.ephemeralContainers") {
        let name = text(was, "name");
        match now.iter().find(|c| text(c, "name") == name) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed");
                errors.push(Error::forbidden(&path, why));
            }
            Some(is) if is != was => {
                let why = format!("existing ephemeral containers {name:?} may not be changed");
                errors.push(Error::forbidden(&path, why));
            }
            Some(_) => {}
        }
    }
    errors
}

/// The path of the first difference.
fn first_change(a: &Value, b: &Value, path: &Path) -> Option<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys = x.keys().chain(y.keys().filter(|k| !x.contains_key(*k)));
            keys.into_iter().find_map(|k| match (x.get(k), y.get(k)) {
                (x, y) if same(x, y) => None,
                (Some(x), Some(y)) => first_change(x, y, &path.child(k)),
                _ => Some(path.child(k).to_string()),
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(i, (x, y))| first_change(x, y, &path.index(i)))
        }
        (a, b) => (a != b).then(|| path.to_string()),
    }
}
