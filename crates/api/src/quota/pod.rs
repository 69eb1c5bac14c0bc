//! What a pod uses of a quota.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Amounts, ONE};
use crate::json::{get, list, map, text};
use crate::quantity;
use crate::strategy::qos_class;

/// A quantity, which JSON may also carry as a number.
pub fn amount(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => quantity::millis(text),
        number => quantity::millis(&number.to_string()),
    }
}

fn is_over(pod: &Value) -> bool {
    matches!(text(pod, "status.phase"), "Succeeded" | "Failed")
}

/// Pods that have ended use nothing but their place in the store.
pub(super) fn usage(pod: &Value) -> Amounts {
    let mut used = Amounts::new();
    if is_over(pod) {
        return used;
    }
    used.insert("pods".to_owned(), ONE);
    for (name, amount) in total(pod, "requests") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    used.extend(total(pod, "limits").into_iter().map(|(name, amount)| (format!("limits.{name}"), amount)));
    used
}

fn of_container(container: &Value, kind: &str) -> Amounts {
    let amounts = get(container, "resources").and_then(|r| map(r, kind)).into_iter().flatten();
    amounts.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

/// All containers together, or the largest of those that run before them, and the overhead of the pod.
fn total(pod: &Value, kind: &str) -> Amounts {
    let mut total = Amounts::new();
    let stays = |c: &&Value| text(c, "restartPolicy") == "Always";
    let inits = list(pod, "spec.initContainers");
    for container in list(pod, "spec.containers").iter().chain(inits.iter().filter(stays)) {
        for (name, amount) in of_container(container, kind) {
            *total.entry(name).or_default() += amount;
        }
    }
    for container in inits.iter().filter(|c| !stays(c)) {
        for (name, amount) in of_container(container, kind) {
            let most = total.entry(name).or_default();
            *most = (*most).max(amount);
        }
    }
    for (name, value) in map(pod, "spec.overhead").into_iter().flatten() {
        if let (Some(sum), Some(more)) = (total.get_mut(name), amount(value)) {
            *sum += more;
        }
    }
    total
}

pub(super) fn in_scope(pod: &Value, scope: &str, operator: &str, values: &[&str]) -> bool {
    let terminating = get(pod, "spec.activeDeadlineSeconds").is_some();
    let best_effort = qos_class(pod) == "BestEffort";
    let class = text(pod, "spec.priorityClassName");
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => match operator {
            "In" => values.contains(&class),
            "NotIn" => !values.contains(&class),
            "DoesNotExist" => class.is_empty(),
            _ => !class.is_empty(),
        },
        _ => false,
    }
}

/// A quota on CPU or memory takes only pods whose containers all say how much of it they want.
pub fn must_specify(quota: &Value, pod: &Value) -> Option<String> {
    const NAMES: &[(&str, &str, &str)] = &[
        ("cpu", "requests", "cpu"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
    ];
    let hard = map(quota, "spec.hard")?;
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let containers = ["spec.containers", "spec.initContainers"].into_iter().flat_map(|p| list(pod, p));
    for container in containers {
        for (name, kind, of) in NAMES.iter().filter(|(name, ..)| hard.contains_key(*name)) {
            if !of_container(container, kind).contains_key(*of) {
                missing.entry(name).or_default().push(text(container, "name"));
            }
        }
    }
    let words: Vec<String> = missing.into_iter().map(|(name, who)| format!("{name} for: {}", who.join(","))).collect();
    (!words.is_empty()).then(|| format!("must specify {}", words.join("; ")))
}
