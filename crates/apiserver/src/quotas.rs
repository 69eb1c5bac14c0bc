//! ResourceQuotas, counted exactly: what an object uses is added to its namespace's quotas in the same write as the object
//! itself, and taken away in the same write as its end.
//!
//! A namespace with quotas has one such write at a time, so none is refused for another's sake that then fails. A quota is
//! counted from scratch when it is made or changed, while nothing else of its namespace is written.
//!
//! With several servers on one store the turns are each server's own. That a quota's numbers are still exact is the
//! store's doing: a quota is written over the very revision that was read, or the write is begun anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use skiff_api::quota::{self, Amounts};
use skiff_api::resources::{self, RESOURCES, Resource};
use skiff_api::status::Status;
use skiff_store::{Expect, Write};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::call::Call;
use crate::object::{self, Object};
use crate::storage::Storage;
use crate::{Error, Result};

/// Locks that nobody holds are forgotten when there are more than this.
const LOCKS: usize = 1024;

#[derive(Default)]
pub(crate) struct Quotas {
    /// How many quotas each namespace has.
    namespaces: Mutex<BTreeMap<String, usize>>,
    locks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

/// Held until the write is done: alone where there are quotas, together with others where there are none.
pub(crate) enum Turn {
    Free,
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

fn quotas() -> Result<&'static Resource> {
    resources::find("", "v1", "resourcequotas").ok_or_else(|| Status::internal("resourcequotas are not served"))
}

fn is_quota(resource: &Resource) -> bool {
    resource.id() == ("", "resourcequotas")
}

impl Quotas {
    pub(crate) async fn load(storage: &Storage) -> Result<Quotas, Error> {
        let loaded = Quotas::default();
        let what = |status| Error::Bootstrap { what: "resourcequotas".into(), status };
        let (all, _) = storage.all(quotas().map_err(what)?, None).await.map_err(what)?;
        all.iter().for_each(|quota| loaded.count(object::namespace(&quota.value), 1));
        Ok(loaded)
    }

    fn count(&self, namespace: &str, by: isize) {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let count = namespaces.entry(namespace.to_string()).or_default();
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            namespaces.remove(namespace);
        }
    }

    fn has(&self, namespace: &str) -> bool {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).contains_key(namespace)
    }

    /// A quota was made.
    pub(crate) fn made(&self, resource: &Resource, value: &Value) {
        if is_quota(resource) {
            self.count(object::namespace(value), 1);
        }
    }

    /// A quota is gone.
    pub(crate) fn gone(&self, resource: &Resource, value: &Value) {
        if is_quota(resource) {
            self.count(object::namespace(value), -1);
        }
    }

    fn lock(&self, namespace: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() > LOCKS {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        locks.entry(namespace.to_string()).or_default().clone()
    }

    /// Waits for the turn of a write that changes what its namespace uses.
    async fn turn(&self, namespace: &str, alone: bool) -> Turn {
        let lock = self.lock(namespace);
        if !alone && !self.has(namespace) {
            let guard = lock.clone().read_owned().await;
            // A quota may have been made while this one waited.
            if !self.has(namespace) {
                return Turn::Shared { _guard: guard };
            }
        }
        Turn::Alone { _guard: lock.write_owned().await }
    }
}

/// What a write does to the quotas of its namespace: its turn, and what is to be written with it. `old` or `new` is None
/// where there is no object before or after.
pub(crate) async fn enter(call: &Call, old: Option<&Value>, new: Option<&mut Value>) -> Result<(Turn, Vec<Write>)> {
    let (resource, Some(namespace)) = (call.resource(), call.namespace()) else { return Ok((Turn::Free, Vec::new())) };
    let recount =
        is_quota(resource) && new.as_ref().is_some_and(|new| old.is_none_or(|old| old["spec"] != new["spec"]));
    let used = |object: Option<&Value>| object.map(|o| quota::usage(resource, o)).unwrap_or_default();
    let unchanged = quota::difference(&used(new.as_deref()), &used(old)).is_empty();
    if (unchanged && !recount) || call.dry_run {
        return Ok((Turn::Free, Vec::new()));
    }
    let quotas = &call.server.quotas;
    // Only the store knows what quotas another server has just made.
    let alone = recount || (call.server.config.shared && has_any(call, namespace).await?);
    let turn = quotas.turn(namespace, alone).await;
    let mut writes = Vec::new();
    if alone || quotas.has(namespace) {
        let (all, _) = call.storage().all(self::quotas()?, Some(namespace)).await?;
        for quota in &all {
            // A quota that goes has nothing to count any more, least of all itself.
            let own = is_quota(resource) && old.is_some_and(|old| object::name(old) == object::name(&quota.value));
            if !own {
                writes.extend(charge(call, quota, old, new.as_deref())?);
            }
        }
    }
    if let Some(new) = new.filter(|_| recount) {
        new["status"] = count(call, namespace, new, old.is_none()).await?;
    }
    Ok((turn, writes))
}

async fn has_any(call: &Call, namespace: &str) -> Result<bool> {
    let (all, _) = call.storage().all(quotas()?, Some(namespace)).await?;
    Ok(!all.is_empty())
}

/// The quota's next state, if the write is its business.
fn charge(call: &Call, quota: &Object, old: Option<&Value>, new: Option<&Value>) -> Result<Option<Write>> {
    let resource = call.resource();
    let used = |object: Option<&Value>| -> Amounts {
        let counted = object.filter(|o| quota::counts(&quota.value, resource, o));
        counted.map(|o| quota::usage(resource, o)).unwrap_or_default()
    };
    let name = || new.or(old).map(object::name).unwrap_or_default();
    let refused = |why: String| Status::forbidden(resource, name(), why);
    if let (None, Some(pod), ("", "pods")) = (old, new, resource.id())
        && quota::counts(&quota.value, resource, pod)
        && let Some(words) = quota::must_specify(&quota.value, pod)
    {
        return Err(refused(format!("failed quota: {}: {words}", object::name(&quota.value))));
    }
    let change = quota::difference(&used(new), &used(old));
    let charged = quota::charge(&quota.value, &change).map_err(|e| refused(e.to_string()))?;
    charged.map(|used| write(quota, used)).transpose()
}

fn write(quota: &Object, used: Map<String, Value>) -> Result<Write> {
    let mut next = quota.value.clone();
    object::child(&mut next, "status").insert("used".into(), used.into());
    let key = object::key(quotas()?, Some(object::namespace(&next)), object::name(&next));
    Ok(Write { key: key.into(), value: Some(object::encode(quotas()?, &next)), expect: Expect::Rev(quota.rev) })
}

/// A quota's status from everything that is there. A new quota counts itself.
async fn count(call: &Call, namespace: &str, quota: &Value, fresh: bool) -> Result<Value> {
    let mut objects: Vec<(&Resource, Value)> = Vec::new();
    let counted = |r: &&Resource| r.stored && r.namespaced() && r.stored_as.is_none();
    for resource in RESOURCES.iter().filter(counted).filter(|r| limits(quota, r)) {
        let (all, _) = call.storage().all(resource, Some(namespace)).await?;
        objects.extend(all.into_iter().map(|o| (resource, o.value)));
    }
    if fresh && limits(quota, quotas()?) {
        objects.push((quotas()?, quota.clone()));
    }
    Ok(quota::status(quota, objects.iter().map(|(resource, value)| (*resource, value))))
}

/// Whether a quota says anything of a resource.
fn limits(quota: &Value, resource: &Resource) -> bool {
    let hard = quota.pointer("/spec/hard").and_then(Value::as_object);
    let names: Vec<&str> = hard.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let count = match resource.group {
        "" => format!("count/{}", resource.plural),
        group => format!("count/{}.{group}", resource.plural),
    };
    let own = |name: &str| match resource.id() {
        ("", "pods") => !name.starts_with("count/"),
        ("", "services") => name.starts_with("services"),
        ("", "persistentvolumeclaims") => name.contains("storage") || name.contains("persistentvolumeclaims"),
        ("", plural) => name == plural,
        _ => false,
    };
    names.iter().any(|name| *name == count || own(name))
}
