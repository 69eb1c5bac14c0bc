//! A value as the tree of what can be owned in it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::{self, Set};
use crate::merge_keys::{self, Apply, Key, Type};

/// How a value at some place in an object is owned, and the type below it.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) apply: Apply,
    pub(super) of: Type,
}

/// Which inner nodes belong to a set besides its leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// An applier owns the list elements it names, besides the leaves.
    Applied,
    /// A writer also owns the objects and lists that it made.
    Updated,
}

/// Objects that every object of a kind has, so that nobody makes them.
const ALWAYS_THERE: [&str; 6] = ["f:metadata", "f:spec", "f:status", "f:template", "f:strategy", "f:containers"];

impl Spot {
    pub(super) fn root(of: Type) -> Spot {
        Spot { apply: Apply::Plain, of }
    }

    pub(super) fn field(self, name: &str) -> Spot {
        merge_keys::field(self.of, name).map_or(Spot::root(&[]), |field| Spot { apply: field.apply, of: field.of })
    }

    /// The elements of the list that stands here.
    pub(super) fn element(self) -> Spot {
        Spot::root(if matches!(self.apply, Apply::Keys(_)) { self.of } else { &[] })
    }
}

/// The step to a list element, if elements of this list have owners of their own.
pub(super) fn step_to(item: &Value, apply: Apply) -> Option<String> {
    match apply {
        Apply::Set => Some(format!("v:{item}")),
        Apply::Keys(keys) => keys_of(item, keys),
        Apply::Plain | Apply::Atomic => None,
    }
}

fn keys_of(item: &Value, keys: &[Key]) -> Option<String> {
    let value = |key: &Key| {
        let given = item.get(key.name).filter(|value| !value.is_null()).cloned();
        Some((key.name.to_string(), given.or_else(|| key.default.map(Value::from))?))
    };
    let values: BTreeMap<String, Value> = keys.iter().filter_map(value).collect();
    (!values.is_empty()).then(|| set::keys_step(&values))
}

/// What stands below a value; nothing where the value is owned as one.
pub(super) fn children<'v>(value: &'v Value, spot: Spot) -> Vec<(String, &'v Value, Spot)> {
    match (value, spot.apply) {
        (Value::Object(fields), Apply::Plain) => {
            fields.iter().map(|(name, value)| (format!("f:{name}"), value, spot.field(name))).collect()
        }
        (Value::Array(items), Apply::Set | Apply::Keys(_)) => {
            let child = |item: &'v Value| Some((step_to(item, spot.apply)?, item, spot.element()));
            items.iter().filter_map(child).collect()
        }
        _ => Vec::new(),
    }
}

/// The paths whose values are new or differ.
pub(super) fn changes(old: Option<&Value>, new: &Value, spot: Spot, style: Style) -> Set {
    let mut set = Set::default();
    if old == Some(new) {
        return set;
    }
    let before: BTreeMap<String, &Value> =
        old.map(|old| children(old, spot)).into_iter().flatten().map(|(step, value, _)| (step, value)).collect();
    for (step, value, below) in children(new, spot) {
        let old = before.get(&step).copied();
        if old == Some(value) {
            continue;
        }
        let mut changed = changes_below(old, value, below, style);
        changed.member |= old.is_none() && owns_inner(&step, style);
        if !changed.is_empty() {
            set.below.insert(step, changed);
        }
    }
    set
}

fn changes_below(old: Option<&Value>, new: &Value, spot: Spot, style: Style) -> Set {
    if children(new, spot).is_empty() { Set::leaf() } else { changes(old, new, spot, style) }
}

fn owns_inner(step: &str, style: Style) -> bool {
    match style {
        Style::Applied => !step.starts_with("f:"),
        Style::Updated => !ALWAYS_THERE.contains(&step),
    }
}

/// Drops the paths that lead nowhere in the value.
pub(super) fn retain_existing(set: &mut Set, value: &Value, spot: Spot) {
    if set.below.is_empty() {
        return;
    }
    let there: BTreeMap<String, (&Value, Spot)> =
        children(value, spot).into_iter().map(|(step, value, spot)| (step, (value, spot))).collect();
    set.below.retain(|step, below| {
        let Some((value, spot)) = there.get(step) else { return false };
        retain_existing(below, value, *spot);
        !below.is_empty()
    });
}

/// Refuses lists whose elements cannot be told apart.
pub(super) fn check(value: &Value, spot: Spot) -> Result<(), String> {
    check_at(value, spot, &mut String::new())
}

fn check_at(value: &Value, spot: Spot, path: &mut String) -> Result<(), String> {
    if let (Value::Array(items), Apply::Keys(keys)) = (value, spot.apply) {
        let missing = |item: &Value| keys.iter().find(|k| k.default.is_none() && item.get(k.name).is_none());
        if let Some(key) = items.iter().find_map(missing) {
            let why = format!("associative list with keys has an element that omits key field {:?}", key.name);
            return Err(format!("failed to create typed patch object: {path}: {why} (and doesn't have default value)"));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for (step, below, spot) in children(value, spot) {
        let (length, shown) = (path.len(), set::print_step(&step));
        if !seen.insert(step) {
            return Err(format!("failed to create typed patch object: {path}: duplicate entries for key {shown}"));
        }
        path.push_str(&shown);
        check_at(below, spot, path)?;
        path.truncate(length);
    }
    Ok(())
}
