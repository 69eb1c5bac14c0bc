//! The one way in which objects are written: create and the update transaction. Every writing verb and subresource ends here.

use serde_json::{Map, Value};
use skiff_api::field::{Error as FieldError, Path};
use skiff_api::status::Status;
use skiff_api::{apply, defaults, strategy, validate, warnings};
use skiff_store::Expect;

use crate::call::Call;
use crate::object::{self, Object};
use crate::storage::{ATTEMPTS, Miss};
use crate::{Result, admission, after, quotas};

/// What came of a write; the value is as stored, with its resourceVersion.
pub(crate) enum Written {
    Created(Value),
    Updated(Value),
}

impl Written {
    pub(crate) fn value(self) -> Value {
        match self {
            Written::Created(value) | Written::Updated(value) => value,
        }
    }
}

/// How an update goes.
pub(crate) struct How<'a> {
    /// Which half of the object may change.
    pub subresource: Option<&'a str>,
    /// Make the object when it does not exist.
    pub create: bool,
    /// Record the changed fields under the request's manager; server-side apply has done so itself.
    pub track: bool,
}

impl How<'_> {
    pub(crate) const SPEC: How<'static> = How { subresource: None, create: false, track: true };
}

pub(crate) async fn create(call: &Call, value: Value) -> Result<Written> {
    create_tracked(call, value, true).await
}

async fn create_tracked(call: &Call, mut value: Value, track: bool) -> Result<Written> {
    let resource = call.resource();
    fresh_metadata(call, &mut value)?;
    strategy::before_create(resource, &mut value);
    defaults::apply(resource, &mut value);
    // What admission adds belongs to nobody.
    if track {
        apply::track_update(resource, None, &mut value, &call.manager(), None, call.now);
    }
    admission::create(call, &mut value).await?;
    let name = object::name(&value).to_string();
    refuse(call, &name, validate::create(resource, &value))?;
    call.warn(warnings::of(resource, &value, None));
    for _ in 0..ATTEMPTS {
        match add(call, &name, value.clone()).await {
            Ok(value) => return Ok(Written::Created(value)),
            // What was chosen for it was taken at the same moment: something else is chosen.
            Err(Miss::Companion(key)) => call.server.services.relearn(call.storage(), &key).await?,
            Err(Miss::Lost) => return Err(exists(call, &name).await),
            Err(Miss::Failed(status)) => return Err(status),
        }
    }
    Err(Status::modified(resource, &name))
}

/// Gives the new object what it needs of the cluster and writes it.
async fn add(call: &Call, name: &str, mut value: Value) -> Result<Value, Miss> {
    let resource = call.resource();
    let (turn, charges) = quotas::enter(call, None, Some(&mut value)).await.map_err(Miss::Failed)?;
    let mut held = call.server.services.reserve(call, None, &mut value).await.map_err(Miss::Failed)?;
    if call.dry_run {
        let found = call.storage().find(resource, call.namespace(), name).await.map_err(Miss::Failed)?;
        return if found.is_some() { Err(Miss::Lost) } else { Ok(value) };
    }
    let key = object::key(resource, call.namespace(), name);
    let companions = [std::mem::take(&mut held.writes), charges].concat();
    let object = call.storage().put_with(resource, &key, value, Expect::Absent, companions).await?;
    held.keep();
    call.server.quotas.made(resource, &object.value);
    drop(turn);
    after::write(call, &object.value).await;
    Ok(object.value)
}

async fn exists(call: &Call, name: &str) -> Status {
    let going = match call.storage().find(call.resource(), call.namespace(), name).await {
        Ok(Some(object)) => object::is_deleting(&object.value),
        _ => false,
    };
    let status = Status::already_exists(call.resource(), name);
    match going {
        true => Status::new(409, "AlreadyExists", format!("object is being deleted: {}", status.message())),
        false => status,
    }
}

/// The metadata that only the server gives.
fn fresh_metadata(call: &Call, value: &mut Value) -> Result<()> {
    fit_namespace(call, value)?;
    if !object::resource_version(value).is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let meta = object::meta_mut(value);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        meta.shift_remove(field);
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), object::time(call.now));
    Ok(())
}

fn fit_namespace(call: &Call, value: &mut Value) -> Result<()> {
    let want = call.namespace().unwrap_or_default();
    let got = object::namespace(value).to_string();
    let meta = object::meta_mut(value);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        if meta.get(field).is_some_and(says_nothing) {
            meta.shift_remove(field);
        }
    }
    if want.is_empty() {
        meta.shift_remove("namespace");
    } else if got.is_empty() {
        meta.insert("namespace".into(), want.into());
    } else if got != want {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn says_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn refuse(call: &Call, name: &str, errors: Vec<FieldError>) -> Result<()> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(call.resource(), name, errors)) }
}

/// Reads, lets `change` say what is wanted, and writes; starts over when another writer came between.
pub(crate) async fn update<F>(call: &Call, name: &str, how: &How<'_>, mut change: F) -> Result<Written>
where
    F: FnMut(Option<&Value>) -> Result<Value> + Send,
{
    let resource = call.resource();
    for _ in 0..ATTEMPTS {
        let current = call.storage().find(resource, call.namespace(), name).await?;
        if current.is_none() && !how.create {
            return Err(Status::not_found(resource, name));
        }
        let mut wanted = change(current.as_ref().map(|o| &o.value))?;
        fit_namespace(call, &mut wanted)?;
        let Some(current) = current else {
            return create_missing(call, name, wanted, how).await;
        };
        check_preconditions(call, name, &current, &wanted)?;
        match commit(call, how, &current, wanted).await {
            Ok(value) => return Ok(Written::Updated(value)),
            Err(Miss::Lost) => {}
            Err(Miss::Companion(key)) => call.server.services.relearn(call.storage(), &key).await?,
            Err(Miss::Failed(status)) => return Err(status),
        }
    }
    Err(Status::modified(resource, name))
}

async fn create_missing(call: &Call, name: &str, wanted: Value, how: &How<'_>) -> Result<Written> {
    if !object::resource_version(&wanted).is_empty() || !object::uid(&wanted).is_empty() {
        let why = "StorageError: invalid object, the object to be updated does not exist any more";
        return Err(Status::conflict(call.resource(), name, why));
    }
    create_tracked(call, wanted, how.track).await
}

fn check_preconditions(call: &Call, name: &str, current: &Object, wanted: &Value) -> Result<()> {
    let (rv, uid) = (object::resource_version(wanted), object::uid(wanted));
    if !rv.is_empty() && rv != "0" {
        match rv.parse::<u64>() {
            Ok(rev) if rev == current.rev => {}
            Ok(_) => return Err(Status::modified(call.resource(), name)),
            Err(_) => {
                let path = Path::new("metadata").child("resourceVersion");
                let error = FieldError::invalid(&path, rv, "must be a number given by the server");
                return Err(Status::invalid(call.resource(), name, vec![error]));
            }
        }
    }
    let have = object::uid(&current.value);
    if !uid.is_empty() && uid != have {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {have}");
        return Err(Status::conflict(call.resource(), name, why));
    }
    Ok(())
}

async fn commit(call: &Call, how: &How<'_>, current: &Object, wanted: Value) -> Result<Value, Miss> {
    let mut next = settle(call, how, &current.value, wanted).await.map_err(Miss::Failed)?;
    let resource = call.resource();
    let mut held = match call.server.services.reserve(call, Some(&current.value), &mut next).await {
        Ok(held) => held,
        Err(status) => return Err(refused(call, current, status).await),
    };
    object::set_resource_version(&mut next, current.rev);
    if call.dry_run || object::same(&current.value, &next) {
        return Ok(next);
    }
    let (turn, charges) = quotas::enter(call, Some(&current.value), Some(&mut next)).await.map_err(Miss::Failed)?;
    let key = object::key(resource, call.namespace(), object::name(&current.value));
    if finished(&next) {
        drop(turn);
        remove(call, &key, current).await?;
        return Ok(next);
    }
    let companions = [std::mem::take(&mut held.writes), charges].concat();
    let written = call.storage().put_with(resource, &key, next, Expect::Rev(current.rev), companions).await?;
    held.keep();
    drop(turn);
    after::write(call, &written.value).await;
    Ok(written.value)
}

/// A refusal holds if the object is still the one that was looked at: otherwise another writer of it may have got just
/// what this one asks for.
async fn refused(call: &Call, seen: &Object, status: Status) -> Miss {
    match call.storage().find(call.resource(), call.namespace(), object::name(&seen.value)).await {
        Ok(now) if now.as_ref().map(|o| o.rev) == Some(seen.rev) => Miss::Failed(status),
        Ok(_) => Miss::Lost,
        Err(status) => Miss::Failed(status),
    }
}

/// Defaults, admission, strategy and validation of an update.
async fn settle(call: &Call, how: &How<'_>, old: &Value, mut next: Value) -> Result<Value> {
    let resource = call.resource();
    strategy::before_update(resource, &mut next, old, how.subresource);
    defaults::apply(resource, &mut next);
    if how.track {
        apply::track_update(resource, Some(old), &mut next, &call.manager(), how.subresource, call.now);
    }
    admission::update(call, old, &mut next, how.subresource)?;
    refuse(call, object::name(old), validate::update_through(resource, &next, old, how.subresource))?;
    if how.subresource.is_none() {
        call.warn(warnings::of(resource, &next, Some(old)));
    }
    Ok(next)
}

/// A deleted object whose last finalizer is gone and that nobody needs time to end.
pub(crate) fn finished(value: &Value) -> bool {
    let waits_for_spec = value["kind"] == "Namespace"
        && value.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    object::is_deleting(value)
        && object::finalizers(value).is_empty()
        && object::grace(value).unwrap_or(0) == 0
        && !waits_for_spec
}

/// Takes the object out of the store and does what follows from it.
pub(crate) async fn remove(call: &Call, key: &str, current: &Object) -> Result<(), Miss> {
    let (turn, charges) = quotas::enter(call, Some(&current.value), None).await.map_err(Miss::Failed)?;
    let releases = call.server.services.releases(call, &current.value).await.map_err(Miss::Failed)?;
    let companions = [releases, charges].concat();
    match call.storage().delete(key, current.rev, companions).await {
        Err(Miss::Companion(_)) => return Err(Miss::Lost),
        other => other?,
    };
    call.server.quotas.gone(call.resource(), &current.value);
    drop(turn);
    after::delete(call, &current.value).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_finished() {
        let cases = [
            (json!({"metadata": {}}), false),
            (json!({"metadata": {"deletionTimestamp": "x"}}), true),
            (json!({"metadata": {"deletionTimestamp": "x", "finalizers": ["a"]}}), false),
            (json!({"metadata": {"deletionTimestamp": "x", "deletionGracePeriodSeconds": 30}}), false),
            (
                json!({"kind": "Namespace", "metadata": {"deletionTimestamp": "x"}, "spec": {"finalizers": ["kubernetes"]}}),
                false,
            ),
            (json!({"kind": "Namespace", "metadata": {"deletionTimestamp": "x"}, "spec": {}}), true),
        ];
        for (value, want) in cases {
            assert_eq!(finished(&value), want, "{value}");
        }
    }
}
