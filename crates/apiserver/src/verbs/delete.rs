//! delete and deletecollection: what a delete comes to is planned as a value, then done.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::field::{Error as FieldError, Path};
use skiff_api::resources::Resource;
use skiff_api::status::{self, Status};
use skiff_store::Expect;

use super::{read, write};
use crate::call::Call;
use crate::decode::{self, Media};
use crate::encode::Reply;
use crate::object::{self, Object};
use crate::query::Query;
use crate::storage::{ATTEMPTS, Miss};
use crate::{Result, admission, after};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub grace: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Options {
    /// From the body's DeleteOptions; what it leaves open comes from the query.
    pub(crate) fn read(call: &Call, body: &[u8]) -> Result<Options> {
        let body = match body.iter().all(u8::is_ascii_whitespace) {
            true => Value::Null,
            false => decode::value(Media::of(&call.headers, Media::OBJECTS)?, body)?,
        };
        Self::of(&body, &call.query, call.dry_run)
    }

    pub(crate) fn of(body: &Value, query: &Query, dry_run: bool) -> Result<Options> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_string);
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(grace) => Some(grace),
            None => query.number("gracePeriodSeconds")?,
        };
        let policy = text("/propagationPolicy").or_else(|| query.text("propagationPolicy").map(str::to_string));
        let orphan = body["orphanDependents"]
            .as_bool()
            .or_else(|| query.has("orphanDependents").then(|| query.flag("orphanDependents")));
        Ok(Options {
            grace,
            propagation: propagation(policy.as_deref(), orphan)?,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: dry_run || body["dryRun"] == json!(["All"]),
        })
    }
}

fn propagation(policy: Option<&str>, orphan: Option<bool>) -> Result<Option<Propagation>> {
    match (policy, orphan) {
        (Some("Orphan"), _) | (None, Some(true)) => Ok(Some(Propagation::Orphan)),
        (Some("Background"), _) | (None, Some(false)) => Ok(Some(Propagation::Background)),
        (Some("Foreground"), _) => Ok(Some(Propagation::Foreground)),
        (None, None) => Ok(None),
        (Some(other), _) => {
            let supported = ["Foreground", "Background", "Orphan"];
            let error = FieldError::not_supported(&Path::new("propagationPolicy"), other, &supported);
            Err(Status::invalid_kind("meta.k8s.io", "DeleteOptions", "", vec![error]))
        }
    }
}

/// What a delete comes to.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// It goes now.
    Remove,
    /// It is marked and goes when its finalizers are gone and its time is over.
    Mark(Value),
    /// It is going already.
    Nothing,
}

pub(crate) fn plan(resource: &Resource, current: &Value, options: &Options, now: Timestamp) -> Plan {
    let mut next = current.clone();
    set_finalizers(&mut next, options.propagation);
    let grace = grace_period(resource, current, options);
    let deleting = object::is_deleting(current);
    let shorter = object::grace(current).is_none_or(|have| grace < have);
    if !deleting || shorter {
        let meta = object::meta_mut(&mut next);
        meta.insert("deletionTimestamp".into(), object::time(object::later(now, grace)));
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    if resource.id() == ("", "namespaces") {
        object::child(&mut next, "status").insert("phase".into(), "Terminating".into());
    }
    match () {
        () if write::finished(&next) => Plan::Remove,
        () if next == *current => Plan::Nothing,
        () => Plan::Mark(next),
    }
}

fn set_finalizers(value: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut names: Vec<String> = object::finalizers(value).into_iter().map(str::to_string).collect();
    names.retain(|n| n != ORPHAN && n != FOREGROUND);
    match propagation {
        Propagation::Orphan => names.push(ORPHAN.into()),
        Propagation::Foreground => names.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    let meta = object::meta_mut(value);
    match names.is_empty() {
        true => meta.shift_remove("finalizers"),
        false => meta.insert("finalizers".into(), names.into()),
    };
}

/// Only pods are given time to end, and only those that a node may be running.
fn grace_period(resource: &Resource, current: &Value, options: &Options) -> i64 {
    let phase = object::text(current, "/status/phase");
    let runs = !object::text(current, "/spec/nodeName").is_empty() && phase != "Failed" && phase != "Succeeded";
    if resource.id() != ("", "pods") || !runs {
        return 0;
    }
    let own = current.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
    match options.grace.unwrap_or(own) {
        negative if negative < 0 => 1,
        grace => grace,
    }
}

pub(crate) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let options = Options::read(call, body)?;
    one(call, call.name()?, &options).await
}

pub(crate) async fn one(call: &Call, name: &str, options: &Options) -> Result<Reply> {
    let resource = call.resource();
    for _ in 0..ATTEMPTS {
        let current = call.storage().get(resource, call.namespace(), name).await?;
        check_preconditions(resource, name, &current, options)?;
        admission::delete(call, &current.value).await?;
        let plan = plan(resource, &current.value, options, call.now);
        match carry_out(call, name, plan, &current, options.dry_run).await {
            Ok(reply) => return Ok(reply),
            Err(Miss::Lost | Miss::Companion(_)) => {}
            Err(Miss::Failed(status)) => return Err(status),
        }
    }
    Err(Status::modified(resource, name))
}

async fn carry_out(call: &Call, name: &str, plan: Plan, current: &Object, dry_run: bool) -> Result<Reply, Miss> {
    let resource = call.resource();
    let key = object::key(resource, call.namespace(), name);
    match plan {
        Plan::Nothing => Ok(Reply::ok(current.value.clone())),
        Plan::Mark(next) if dry_run => Ok(Reply::ok(next)),
        Plan::Mark(next) => {
            let marked = call.storage().put(resource, &key, next, Expect::Rev(current.rev)).await?;
            after::write(call, &marked.value).await;
            Ok(Reply::ok(marked.value))
        }
        Plan::Remove => {
            if !dry_run {
                write::remove(call, &key, current).await?;
            }
            Ok(removed(resource, name, &current.value))
        }
    }
}

/// Some kinds show what was deleted, the others answer with a Status.
fn removed(resource: &Resource, name: &str, value: &Value) -> Reply {
    const SHOWN: &[&str] = &[
        "pods",
        "services",
        "serviceaccounts",
        "podtemplates",
        "persistentvolumeclaims",
        "persistentvolumes",
        "resourcequotas",
    ];
    match resource.group.is_empty() && SHOWN.contains(&resource.plural) {
        true => Reply::ok(value.clone()),
        false => Reply::Plain(StatusCode::OK, status::success(resource, name, object::uid(value))),
    }
}

fn check_preconditions(resource: &Resource, name: &str, current: &Object, options: &Options) -> Result<()> {
    let have = object::uid(&current.value);
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != have) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {have}");
        return Err(Status::conflict(resource, name, why));
    }
    let have = current.rev.to_string();
    if let Some(rv) = options.resource_version.as_deref().filter(|rv| *rv != have) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {rv}, ResourceVersion in object meta: {have}"
        );
        return Err(Status::conflict(resource, name, why));
    }
    Ok(())
}

/// Every object that the selectors match; what is gone by then is no error.
pub(crate) async fn collection(call: &Call, body: &[u8]) -> Result<Reply> {
    if call.resource().namespaced() && call.namespace().is_none() {
        return Err(Status::method_not_allowed(Some(call.resource())));
    }
    let options = Options::read(call, body)?;
    let found = read::find(call).await?;
    let mut items = Vec::new();
    for object in found.objects {
        match one(call, object::name(&object.value), &options).await {
            Err(e) if e.code() != 404 => return Err(e),
            _ => items.push(object.value),
        }
    }
    Ok(Reply::List { items, metadata: found.metadata })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_api::resources::find;

    fn pod(extra: Value) -> Value {
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}});
        for (key, value) in extra.as_object().unwrap() {
            pod[key] = value.clone();
        }
        pod
    }

    fn check(resource: (&str, &str), current: Value, options: Options) -> String {
        let resource = find(resource.0, "v1", resource.1).unwrap();
        match plan(resource, &current, &options, Timestamp::UNIX_EPOCH) {
            Plan::Remove => "remove".into(),
            Plan::Nothing => "nothing".into(),
            Plan::Mark(v) => format!(
                "{} {} {:?}",
                object::text(&v, "/metadata/deletionTimestamp"),
                object::grace(&v).unwrap(),
                object::finalizers(&v)
            ),
        }
    }

    #[test]
    fn pods_get_their_time() {
        let pods = ("", "pods");
        let none = Options::default;
        assert_eq!(check(pods, pod(json!({})), none()), "1970-01-01T00:00:07Z 7 []");
        assert_eq!(check(pods, pod(json!({})), Options { grace: Some(2), ..none() }), "1970-01-01T00:00:02Z 2 []");
        assert_eq!(check(pods, pod(json!({})), Options { grace: Some(0), ..none() }), "remove");
        assert_eq!(check(pods, pod(json!({"spec": {}})), none()), "remove");
        assert_eq!(check(pods, pod(json!({"status": {"phase": "Succeeded"}})), none()), "remove");
        let going = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:05Z", "deletionGracePeriodSeconds": 5}});
        assert_eq!(check(pods, pod(going.clone()), none()), "nothing");
        assert_eq!(check(pods, pod(going.clone()), Options { grace: Some(1), ..none() }), "1970-01-01T00:00:01Z 1 []");
        assert_eq!(check(pods, pod(going), Options { grace: Some(0), ..none() }), "remove");
    }

    #[test]
    fn finalizers_hold() {
        let deployments = ("apps", "deployments");
        let plain = json!({"metadata": {"name": "d"}});
        let held = json!({"metadata": {"name": "d", "finalizers": ["x"]}});
        let with = |p| Options { propagation: Some(p), ..Options::default() };
        assert_eq!(check(deployments, plain.clone(), Options::default()), "remove");
        assert_eq!(check(deployments, plain.clone(), with(Propagation::Background)), "remove");
        assert_eq!(
            check(deployments, plain.clone(), with(Propagation::Foreground)),
            "1970-01-01T00:00:00Z 0 [\"foregroundDeletion\"]"
        );
        assert_eq!(check(deployments, plain, with(Propagation::Orphan)), "1970-01-01T00:00:00Z 0 [\"orphan\"]");
        assert_eq!(check(deployments, held, Options::default()), "1970-01-01T00:00:00Z 0 [\"x\"]");
    }

    #[test]
    fn namespaces_terminate() {
        let ns = json!({"kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Plan::Mark(next) =
            plan(find("", "v1", "namespaces").unwrap(), &ns, &Options::default(), Timestamp::UNIX_EPOCH)
        else {
            panic!("a namespace with a finalizer goes at once")
        };
        assert_eq!(next["status"]["phase"], "Terminating");
    }
}
