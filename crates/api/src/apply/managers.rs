//! The owners of an object's fields, as `metadata.managedFields` holds them.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::set::Set;
use super::shape::{self, Spot};
use crate::merge_keys::Type;

/// More writers than this are gathered under one name, oldest first.
const MOST_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who owns: one name may apply and update, through the object and through its subresources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    operation: Operation,
    name: String,
    /// The API version that it writes. Appliers are the same in every version: see [`Manager::key`].
    version: String,
    subresource: String,
}

/// What one manager owns, and since when.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub(super) version: String,
    pub(super) time: Option<Timestamp>,
    pub(super) fields: Set,
}

/// All owners of one object.
#[derive(Debug, Clone, Default)]
pub(super) struct Managers {
    entries: BTreeMap<Manager, Entry>,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.version),
        }
    }
}

impl Manager {
    fn new(operation: Operation, name: &str, version: &str, subresource: Option<&str>) -> Self {
        let (name, version) = (name.to_string(), version.to_string());
        Manager { operation, name, version, subresource: subresource.unwrap_or_default().to_string() }
    }

    /// The applier of that name. The version is what it applies now; it does not tell appliers apart.
    pub(super) fn applier(name: &str, version: &str, subresource: Option<&str>) -> Self {
        Self::new(Operation::Apply, name, version, subresource)
    }

    pub(super) fn updater(name: &str, version: &str, subresource: Option<&str>) -> Self {
        Self::new(Operation::Update, name, version, subresource)
    }

    /// The key that this manager is found by.
    fn key(&self) -> Manager {
        let version = if self.operation == Operation::Apply { "" } else { &self.version };
        Manager { version: version.to_string(), ..self.clone() }
    }
}

impl Managers {
    /// The owners that an object names.
    pub(super) fn read(object: &Value) -> Managers {
        let mut managers = Managers::default();
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            managers.read_entry(entry);
        }
        managers
    }

    fn read_entry(&mut self, entry: &Value) {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return,
        };
        let manager = Manager::new(operation, text("manager"), text("apiVersion"), entry["subresource"].as_str());
        let fields = Set::read(&entry["fieldsV1"]);
        let time = text("time").parse().ok();
        let known = self.entries.entry(manager.key()).or_default();
        known.fields.union(&fields);
        (known.version, known.time) = (manager.version, time);
    }

    /// The owners before an ordinary write. A writer that gives a list changes owners by it, one empty entry clears
    /// them; else they are those of the old object.
    pub(super) fn of_update(old: Option<&Value>, new: &Value) -> Managers {
        let given = Managers::read(new);
        let is_reset = new["metadata"]["managedFields"] == json!([{}]);
        match old {
            Some(old) if given.is_empty() && !is_reset => Managers::read(old),
            _ => given,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Manager, &Set)> {
        self.entries.iter().map(|(manager, entry)| (manager, &entry.fields))
    }

    /// What anybody owns.
    pub(super) fn everything(&self) -> Set {
        self.all().fold(Set::default(), |mut all, (_, fields)| {
            all.union(fields);
            all
        })
    }

    pub(super) fn take(&mut self, manager: &Manager) -> Entry {
        self.entries.remove(&manager.key()).unwrap_or_default()
    }

    /// Who owns nothing is not kept.
    pub(super) fn put(&mut self, manager: Manager, fields: Set, time: Option<Timestamp>) {
        if !fields.is_empty() {
            self.entries.insert(manager.key(), Entry { version: manager.version, time, fields });
        }
    }

    /// Everybody loses what somebody else changed.
    pub(super) fn lose(&mut self, changed: &Set) {
        self.keep(|fields| fields.subtract(changed));
    }

    /// Nobody owns what is not there any more.
    pub(super) fn retain_existing(&mut self, object: &Value, of: Type) {
        self.keep(|fields| shape::retain_existing(fields, object, Spot::root(of)));
    }

    fn keep(&mut self, change: impl Fn(&mut Set)) {
        self.entries.retain(|_, entry| {
            change(&mut entry.fields);
            !entry.fields.is_empty()
        });
    }

    /// Gathers the oldest writers when there are too many.
    pub(super) fn cap(&mut self) {
        let is_updater = |manager: &&Manager| manager.operation == Operation::Update;
        let count = self.entries.keys().filter(is_updater).count();
        if count <= MOST_UPDATERS {
            return;
        }
        let mut oldest: Vec<(Option<Timestamp>, Manager)> = self
            .entries
            .iter()
            .filter(|(manager, _)| is_updater(manager) && manager.name != ANCIENT)
            .map(|(manager, entry)| (entry.time, manager.clone()))
            .collect();
        oldest.sort();
        for (_, manager) in oldest.into_iter().take(count - MOST_UPDATERS + 1) {
            let entry = self.take(&manager);
            let ancient = self.entries.entry(Manager::updater(ANCIENT, &manager.version, None)).or_default();
            ancient.fields.union(&entry.fields);
            (ancient.version, ancient.time) = (entry.version, ancient.time.max(entry.time));
        }
    }

    /// The object with these owners.
    pub(super) fn write_into(&self, mut object: Value) -> Value {
        let mut entries: Vec<(&Manager, &Entry)> = self.entries.iter().collect();
        entries.sort_by_key(|(manager, entry)| (manager.operation, entry.time, *manager));
        let list: Vec<Value> = entries.into_iter().map(|(manager, entry)| write_entry(manager, entry)).collect();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            match list.is_empty() {
                true => metadata.shift_remove("managedFields"),
                false => metadata.insert("managedFields".into(), list.into()),
            };
        }
        object
    }
}

fn write_entry(manager: &Manager, entry: &Entry) -> Value {
    let mut written = Map::new();
    let mut put = |name: &str, value: Value| written.insert(name.to_string(), value);
    put("manager", manager.name.as_str().into());
    put("operation", manager.operation.name().into());
    put("apiVersion", entry.version.as_str().into());
    if let Some(time) = entry.time {
        put("time", time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    }
    put("fieldsType", "FieldsV1".into());
    put("fieldsV1", entry.fields.write());
    if !manager.subresource.is_empty() {
        put("subresource", manager.subresource.as_str().into());
    }
    Value::Object(written)
}
