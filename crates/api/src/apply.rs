//! Server-side apply, and who owns which field.
//!
//! An applier says what it wants; what it wanted before and no longer wants goes, unless somebody else owns it too. A
//! field that another manager owns with another value is a conflict, which `force` takes over. Ordinary writes take over
//! whatever they change. Both leave their traces in `metadata.managedFields`.
//!
//! live + config → merge → prune what was dropped → changes → conflicts → new owners

mod managers;
mod merge;
mod set;
mod shape;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::merge_keys::{self, Type};
use crate::resources::Resource;
use crate::status::Status;
use managers::{Manager, Managers};
use set::Set;
use shape::{Spot, Style};

/// How an apply is done.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The field manager, see [`manager_name`].
    pub manager: &'a str,
    /// Take over fields in conflict.
    pub force: bool,
    pub subresource: Option<&'a str>,
    pub now: Timestamp,
}

/// One field that the applier wants different from what its owner set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner as messages name it: `"kubectl-client-side-apply" using apps/v1`.
    pub owner: String,
    /// `.spec.replicas`
    pub path: String,
}

/// Why an apply was refused. The object is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The applied configuration cannot be used. HTTP 400.
    #[error("{0}")]
    Malformed(String),
    /// Others own fields that would change. HTTP 409; `force` takes them over.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let message = error.to_string();
        match error {
            Error::Malformed(why) => Status::bad_request(why),
            Error::Conflicts(conflicts) => {
                let cause = |c: Conflict| (format!("conflict with {}", c.owner), c.path);
                Status::apply_conflict(message, &conflicts.into_iter().map(cause).collect::<Vec<_>>())
            }
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.owner, only.path);
    }
    let mut owners: Vec<&str> = conflicts.iter().map(|c| c.owner.as_str()).collect();
    owners.sort_unstable();
    owners.dedup();
    let mut lines = Vec::new();
    for owner in owners {
        lines.push(format!("conflicts with {owner}:"));
        lines.extend(conflicts.iter().filter(|c| c.owner == owner).map(|c| format!("- {}", c.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The manager of a write: what the request names, else the first word of its user agent.
pub fn manager_name(requested: Option<&str>, user_agent: &str) -> String {
    let first = user_agent.split('/').next().unwrap_or_default();
    let name = requested.filter(|name| !name.is_empty()).unwrap_or(first);
    let name = if name.is_empty() { "unknown" } else { name };
    name.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// Applies a configuration to the live object, or creates the object from it. Applying what was applied already gives
/// back the live object as it is.
pub fn apply(resource: &Resource, live: Option<&Value>, config: &Value, options: &Options<'_>) -> Result<Value, Error> {
    let of = merge_keys::root(resource.group, resource.kind);
    let config = readable(resource, config, options.subresource)?;
    shape::check(&config, Spot::root(of)).map_err(Error::Malformed)?;
    let mut managers = owners_before(resource, of, live, &config);
    let myself = Manager::applier(options.manager, &api_version(resource, &config), options.subresource);
    let previous = managers.take(&myself);
    let wanted = untracked(shape::changes(None, &config, Spot::root(of), Style::Applied));

    let mut merged = live.map_or_else(|| config.clone(), |live| merge::merge(live, &config, Spot::root(of)));
    let mut owned = managers.everything();
    owned.union(&wanted);
    merge::prune(&mut merged, &previous.fields, &owned, Spot::root(of));

    let changed = untracked(shape::changes(live, &merged, Spot::root(of), Style::Applied));
    if !options.force {
        refuse_conflicts(&managers, &changed, live, options.manager, of)?;
    }
    managers.lose(&changed);
    managers.retain_existing(&merged, of);
    let same =
        live.is_some_and(|live| without_managers(live) == without_managers(&merged)) && wanted == previous.fields;
    managers.put(myself, wanted, if same { previous.time } else { Some(options.now) });
    Ok(managers.write_into(merged))
}

/// Records who wrote what in an ordinary write: everything that changed belongs to the writer alone.
pub fn track_update(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: Timestamp,
) {
    let of = merge_keys::root(resource.group, resource.kind);
    let mut managers = Managers::of_update(old, new);
    let mut changed = untracked(shape::changes(old, new, Spot::root(of), Style::Updated));
    match subresource {
        None if resource.subresource("status").is_some() => changed.remove("f:status"),
        Some("status") => changed.remove("f:spec"),
        _ => {}
    }
    managers.lose(&changed);
    managers.retain_existing(new, of);
    if !changed.is_empty() {
        let myself = Manager::updater(manager, &api_version(resource, new), subresource);
        let mut mine = managers.take(&myself).fields;
        mine.union(&changed);
        managers.put(myself, mine, Some(now));
    }
    managers.cap();
    *new = managers.write_into(new.take());
}

/// The configuration without nulls and without what this endpoint does not write.
fn readable(resource: &Resource, config: &Value, subresource: Option<&str>) -> Result<Value, Error> {
    let Value::Object(fields) = config else {
        return Err(Error::Malformed("an applied configuration must be an object".into()));
    };
    if config["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
        return Err(Error::Malformed("metadata.managedFields must be nil".into()));
    }
    let mut fields = without_nulls(fields);
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.shift_remove("managedFields");
    }
    match subresource {
        None if resource.subresource("status").is_some() => {
            fields.shift_remove("status");
        }
        Some("status") => {
            fields.shift_remove("spec");
        }
        _ => {}
    }
    Ok(Value::Object(fields))
}

/// Fields that are null, at any depth, say nothing.
fn without_nulls(fields: &Map<String, Value>) -> Map<String, Value> {
    fn plain(value: &Value) -> Value {
        match value {
            Value::Object(below) => Value::Object(without_nulls(below)),
            Value::Array(items) => items.iter().map(plain).collect(),
            other => other.clone(),
        }
    }
    let kept = fields.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(key, value)| (key.clone(), plain(value))).collect()
}

/// The owners of the live object. One that nobody owns was written before owners were recorded.
fn owners_before(resource: &Resource, of: Type, live: Option<&Value>, config: &Value) -> Managers {
    let Some(live) = live else { return Managers::default() };
    let mut managers = Managers::read(live);
    if managers.is_empty() {
        let everything = untracked(shape::changes(None, live, Spot::root(of), Style::Updated));
        let before = Manager::updater("before-first-apply", &api_version(resource, config), None);
        managers.put(before, everything, None);
    }
    managers
}

fn api_version(resource: &Resource, object: &Value) -> String {
    object["apiVersion"].as_str().map_or_else(|| resource.api_version(), str::to_string)
}

/// Nobody owns what identifies the object or what the server alone writes.
fn untracked(mut set: Set) -> Set {
    const METADATA: [&str; 9] = [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ];
    ["f:apiVersion", "f:kind"].iter().for_each(|name| set.remove(name));
    METADATA.iter().for_each(|name| set.remove_below("f:metadata", name));
    set
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    object
}

fn refuse_conflicts(
    managers: &Managers,
    changed: &Set,
    live: Option<&Value>,
    manager: &str,
    of: Type,
) -> Result<(), Error> {
    let mut conflicts = Vec::new();
    let mine = live.filter(|_| manager == "kubectl").map(|live| applied_by_kubectl(live, of)).unwrap_or_default();
    for (owner, theirs) in managers.all() {
        let paths = theirs.intersection(changed).paths();
        conflicts.extend(paths.into_iter().map(|path| (owner, path)));
    }
    if conflicts.iter().all(|(_, path)| mine.contains(path)) {
        return Ok(());
    }
    let conflicts =
        conflicts.into_iter().map(|(owner, path)| Conflict { owner: owner.to_string(), path: set::print(&path) });
    Err(Error::Conflicts(conflicts.collect()))
}

/// What kubectl itself applied on the client's side and nobody changed since: no conflict when it moves to the server's.
fn applied_by_kubectl(live: &Value, of: Type) -> Set {
    let annotation = &live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let Some(applied) = annotation.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return Set::default();
    };
    let mut set = shape::changes(None, &applied, Spot::root(of), Style::Applied);
    set.subtract(&shape::changes(Some(live), &applied, Spot::root(of), Style::Applied));
    set
}
