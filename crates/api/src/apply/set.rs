//! A set of field paths, in memory as in `managedFields` (FieldsV1): a tree whose steps are `f:name`, `k:{keys}`,
//! `v:value` and `i:index`, and `.` for the node itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A set of paths. `member` says that the node itself belongs to it, besides what is below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) member: bool,
    pub(super) below: BTreeMap<String, Set>,
}

impl Set {
    pub(super) fn leaf() -> Set {
        Set { member: true, below: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Reads FieldsV1. What is no path is left out: sets come from clients, and a broken one owns nothing.
    pub(super) fn read(fields: &Value) -> Set {
        let mut set = Set::default();
        for (step, below) in fields.as_object().into_iter().flatten() {
            match (step.as_str(), canonical(step)) {
                (".", _) => set.member = true,
                (_, Some(step)) => {
                    set.below.insert(step, Set::read_below(below));
                }
                _ => {}
            }
        }
        set
    }

    fn read_below(fields: &Value) -> Set {
        match fields.as_object() {
            Some(map) if !map.is_empty() => Set::read(fields),
            _ => Set::leaf(),
        }
    }

    pub(super) fn write(&self) -> Value {
        let itself = (self.member && !self.below.is_empty()).then(|| (".".to_string(), json!({})));
        let below = self.below.iter().map(|(step, set)| (step.clone(), set.write()));
        Value::Object(itself.into_iter().chain(below).collect::<Map<_, _>>())
    }

    pub(super) fn union(&mut self, other: &Set) {
        self.member |= other.member;
        for (step, set) in &other.below {
            self.below.entry(step.clone()).or_default().union(set);
        }
    }

    pub(super) fn subtract(&mut self, other: &Set) {
        self.member &= !other.member;
        for (step, set) in &other.below {
            if let Some(mine) = self.below.get_mut(step) {
                mine.subtract(set);
                if mine.is_empty() {
                    self.below.remove(step);
                }
            }
        }
    }

    pub(super) fn intersection(&self, other: &Set) -> Set {
        let both = self.below.iter().filter_map(|(step, mine)| Some((step, mine.intersection(other.below.get(step)?))));
        let below = both.filter(|(_, set)| !set.is_empty()).map(|(step, set)| (step.clone(), set)).collect();
        Set { member: self.member && other.member, below }
    }

    pub(super) fn remove(&mut self, step: &str) {
        self.below.remove(step);
    }

    pub(super) fn remove_below(&mut self, parent: &str, step: &str) {
        if let Some(set) = self.below.get_mut(parent) {
            set.remove(step);
            if set.is_empty() {
                self.remove(parent);
            }
        }
    }

    /// All member paths, in order.
    pub(super) fn paths(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut found);
        found
    }

    fn collect_paths(&self, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        if self.member && !at.is_empty() {
            found.push(at.clone());
        }
        for (step, set) in &self.below {
            at.push(step.clone());
            set.collect_paths(at, found);
            at.pop();
        }
    }

    pub(super) fn contains(&self, path: &[String]) -> bool {
        path.iter().try_fold(self, |set, step| set.below.get(step)).is_some_and(|set| set.member)
    }
}

/// A step as this server writes it; None if it is none.
fn canonical(step: &str) -> Option<String> {
    let (kind, rest) = step.split_once(':')?;
    match kind {
        "f" => Some(step.to_string()),
        "i" => rest.parse::<u64>().ok().map(|index| format!("i:{index}")),
        "v" => serde_json::from_str::<Value>(rest).ok().map(|value| format!("v:{value}")),
        "k" => serde_json::from_str::<BTreeMap<String, Value>>(rest).ok().map(|keys| keys_step(&keys)),
        _ => None,
    }
}

pub(super) fn keys_step(keys: &BTreeMap<String, Value>) -> String {
    let keys: Map<String, Value> = keys.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    format!("k:{}", Value::Object(keys))
}

/// A path as messages show it: `.spec.containers[name="a"].image`.
pub(super) fn print(path: &[String]) -> String {
    path.iter().map(|step| print_step(step)).collect()
}

pub(super) fn print_step(step: &str) -> String {
    let (kind, rest) = step.split_once(':').unwrap_or_default();
    match kind {
        "f" => format!(".{rest}"),
        "v" => format!("[={rest}]"),
        "k" => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys = keys.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
