//! The applied configuration merged into the live object, and what was dropped pruned from it.

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{Spot, step_to};
use crate::merge_keys::Apply;

/// The live value with everything that the configuration says.
pub(super) fn merge(live: &Value, config: &Value, spot: Spot) -> Value {
    match (live, config, spot.apply) {
        (Value::Object(live), Value::Object(config), Apply::Plain) => Value::Object(merge_objects(live, config, spot)),
        (Value::Array(live), Value::Array(config), Apply::Set | Apply::Keys(_)) => {
            Value::Array(merge_lists(live, config, spot))
        }
        _ => config.clone(),
    }
}

fn merge_objects(live: &Map<String, Value>, config: &Map<String, Value>, spot: Spot) -> Map<String, Value> {
    let mut merged = live.clone();
    for (name, value) in config {
        let value = live.get(name).map_or_else(|| value.clone(), |live| merge(live, value, spot.field(name)));
        merged.insert(name.clone(), value);
    }
    merged
}

/// Elements that both have stand in the configuration's order, the others stay where they are among them.
fn merge_lists(live: &[Value], config: &[Value], spot: Spot) -> Vec<Value> {
    let steps = |items: &[Value]| items.iter().map(|item| step_to(item, spot.apply)).collect::<Vec<_>>();
    let (live_steps, config_steps) = (steps(live), steps(config));
    let (mut l, mut c) = (0, 0);
    let mut merged = Vec::with_capacity(live.len() + config.len());
    while l < live.len() || c < config.len() {
        if l < live.len() && !config_steps.contains(&live_steps[l]) {
            merged.push(live[l].clone());
            l += 1;
        } else if c < config.len() {
            let at = live_steps.iter().position(|step| *step == config_steps[c]);
            merged.push(at.map_or_else(|| config[c].clone(), |at| merge(&live[at], &config[c], spot.element())));
            l += usize::from(at.is_some());
            c += 1;
        } else {
            l += 1;
        }
    }
    merged
}

/// Removes what is in `dropped` and nobody owns.
pub(super) fn prune(value: &mut Value, dropped: &Set, owned: &Set, spot: Spot) {
    match value {
        Value::Object(fields) if spot.apply == Apply::Plain => {
            fields.retain(|name, value| survives(value, &format!("f:{name}"), dropped, owned, spot.field(name)));
        }
        Value::Array(items) if matches!(spot.apply, Apply::Set | Apply::Keys(_)) => {
            items.retain_mut(|item| match step_to(item, spot.apply) {
                Some(step) => survives(item, &step, dropped, owned, spot.element()),
                None => true,
            });
        }
        _ => {}
    }
}

/// Prunes one child; false if it is to go.
fn survives(value: &mut Value, step: &str, dropped: &Set, owned: &Set, spot: Spot) -> bool {
    let Some(dropped) = dropped.below.get(step) else { return true };
    let nobody = Set::default();
    let owned = owned.below.get(step).unwrap_or(&nobody);
    let kept = owned.member || (step.starts_with("f:") && !owned.below.is_empty());
    if dropped.member && !kept {
        return false;
    }
    let was_empty = is_empty(value);
    prune(value, dropped, owned, spot);
    was_empty || owned.member || !is_empty(value) || step == "f:metadata"
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
