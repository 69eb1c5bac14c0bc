//! Keeps ranges, addresses and records of node ports in order: ends ranges that nobody needs any more, and repairs what does not fit. Woken by
//! what clients do to these objects; looks at everything once a minute all the same.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_api::resources::{self, Resource};
use skiff_api::status::Status;
use skiff_services::alloc::repair::{self, About, PortView, Step, View};
use skiff_services::alloc::{self, RANGE_FINALIZER, Ranges};
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

use super::{GROUP, addresses, lock, ports};
use crate::call::Call;
use crate::object::{self, Object};
use crate::storage::Miss;
use crate::verbs::write::{self, How};
use crate::{Result, Server};

const EVERY: Duration = Duration::from_secs(60);

/// Until the server is gone.
pub(crate) async fn keep(server: Weak<Server>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = woken(server.clone()) => {}
        }
        let Some(server) = server.upgrade() else { return };
        look(&server).await;
    }
}

/// Once through everything. What fails is tried again the next time.
pub(crate) async fn look(server: &Arc<Server>) {
    match tidy(server).await {
        Ok(()) => server.services.tidied.store(true, Ordering::Release),
        Err(status) => {
            tracing::warn!("service addresses could not be looked after, tried again in a minute: {status}");
        }
    }
}

/// Something was changed, or a minute is over. Holds the server no longer than it looks at it.
async fn woken(server: Weak<Server>) {
    let dirty = match server.upgrade() {
        Some(server) => server.services.dirty.clone(),
        None => return,
    };
    // Once a minute is no error.
    let _ = timeout(EVERY, dirty.notified()).await;
}

async fn tidy(server: &Arc<Server>) -> Result<()> {
    let ranges = lock(&server.services.state).ranges.clone();
    for name in ranges.terminating() {
        settle(server, &name).await?;
    }
    for step in steps(server, &ranges).await? {
        take(server, step).await?;
    }
    Ok(())
}

/// Everything as of one revision: what is written together is seen together.
async fn steps(server: &Arc<Server>, ranges: &Ranges) -> Result<Vec<Step>> {
    let services = resources::find("", "v1", "services").ok_or_else(|| Status::internal("services are not served"))?;
    let (addresses, rev) = server.storage.all(addresses()?, None).await?;
    let (services, _) = server.storage.all_at(services, None, Some(rev)).await?;
    let records = ports::records(&server.storage, rev).await?;
    let values = |objects: Vec<Object>| objects.into_iter().map(|o| o.value).collect::<Vec<Value>>();
    let (addresses, services) = (values(addresses), values(services));
    let age = |object: &Value| seconds_since(object::text(object, "/metadata/creationTimestamp"));
    let mut steps = repair::plan(&View { services: &services, addresses: &addresses, ranges, age: &age });
    let range = &server.services.node_ports;
    steps.extend(repair::ports(&PortView { services: &services, records: &records, range }));
    Ok(steps)
}

fn seconds_since(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(i64::MAX, |then| Timestamp::now().duration_since(then).as_secs())
}

/// A range that is to go goes when no address needs it; until then its status says so.
async fn settle(server: &Arc<Server>, name: &str) -> Result<()> {
    let needed = {
        let state = lock(&server.services.state);
        state.ranges.is_needed(name, state.taken.of_services())
    };
    let range = json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": name}});
    let call = Call::internal(server, &range, Identity::admin(), Timestamp::now())?;
    let change = |current: Option<&Value>| {
        let mut next = current.cloned().unwrap_or_default();
        match needed {
            true => waiting(&mut next, call.now),
            false => without_finalizer(&mut next),
        }
        Ok(next)
    };
    let how = How { subresource: needed.then_some("status"), ..How::SPEC };
    match write::update(&call, name, &how, change).await {
        Err(status) if status.code() == 404 => Ok(()),
        other => other.map(drop),
    }
}

fn without_finalizer(range: &mut Value) {
    let rest: Vec<String> =
        object::finalizers(range).into_iter().filter(|f| *f != RANGE_FINALIZER).map(str::to_owned).collect();
    object::meta_mut(range).insert("finalizers".into(), rest.into());
}

fn waiting(range: &mut Value, now: Timestamp) {
    const WHY: &str =
        "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
    let conditions = range.pointer("/status/conditions").and_then(Value::as_array);
    let said = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["reason"] == "Terminating");
    if !said {
        let ready = json!({"type": "Ready", "status": "False", "reason": "Terminating", "message": WHY,
            "lastTransitionTime": object::time(now)});
        object::child(range, "status").insert("conditions".into(), json!([ready]));
    }
}

async fn take(server: &Arc<Server>, step: Step) -> Result<()> {
    match step {
        Step::Allocate { ip, namespace, name, replace } => allocate(server, ip, &namespace, &name, replace).await,
        Step::Release { name } => release(server, &name).await,
        Step::Record { port, owner } => ports::mend(&server.storage, port, Some(&owner)).await,
        Step::Forget { port } => ports::mend(&server.storage, port, None).await,
        Step::Tell { about, reason, message } => tell(server, &about, reason, &message).await,
    }
}

async fn allocate(server: &Arc<Server>, ip: IpAddr, namespace: &str, name: &str, replace: bool) -> Result<()> {
    if replace {
        release(server, &ip.to_string()).await?;
    }
    let address = alloc::ip_address(ip, namespace, name);
    let call = Call::internal(server, &address, Identity::admin(), Timestamp::now())?;
    match write::create(&call, address).await {
        Err(status) if status.reason() != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

/// Only as it was seen now: what somebody else makes of it is looked at the next time.
async fn release(server: &Arc<Server>, name: &str) -> Result<()> {
    let resource: &Resource = addresses()?;
    let Some(found) = server.storage.find(resource, None, name).await? else { return Ok(()) };
    let call = Call::internal(server, &found.value, Identity::admin(), Timestamp::now())?;
    match write::remove(&call, &object::key(resource, None, name), &found).await {
        Ok(()) | Err(Miss::Lost | Miss::Companion(_)) => Ok(()),
        Err(Miss::Failed(status)) => Err(status),
    }
}

/// An Event; said again, its count grows.
async fn tell(server: &Arc<Server>, about: &About, reason: &str, message: &str) -> Result<()> {
    tracing::warn!(reason, "{message}");
    let (group, plural, namespace, name) = match about {
        About::Service { namespace, name } => ("", "services", Some(namespace.as_str()), name),
        About::IpAddress { name } => (GROUP, "ipaddresses", None, name),
    };
    let resource = resources::find(group, "v1", plural).ok_or_else(|| Status::internal("not served"))?;
    let Some(found) = server.storage.find(resource, namespace, name).await? else { return Ok(()) };
    let event = event(resource, &found.value, reason, message, Timestamp::now());
    let call = Call::internal(server, &event, Identity::admin(), Timestamp::now())?;
    match write::create(&call, event.clone()).await {
        Err(status) if status.reason() == "AlreadyExists" => {
            let again = |current: Option<&Value>| {
                let mut next = current.cloned().unwrap_or_default();
                next["count"] = (next["count"].as_i64().unwrap_or(1) + 1).into();
                next["lastTimestamp"] = object::time(call.now);
                Ok(next)
            };
            write::update(&call, object::name(&event), &How::SPEC, again).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn event(resource: &Resource, about: &Value, reason: &str, message: &str, now: Timestamp) -> Value {
    let source = repair::teller(reason);
    let mut same = DefaultHasher::new();
    (object::uid(about), reason, message).hash(&mut same);
    let namespace = Some(object::namespace(about)).filter(|ns| !ns.is_empty());
    let mut involved = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "name": object::name(about),
        "uid": object::uid(about), "resourceVersion": object::resource_version(about)});
    if let Some(namespace) = namespace {
        involved["namespace"] = namespace.into();
    }
    json!({
        "kind": "Event", "apiVersion": "v1",
        "metadata": {"name": format!("{}.{:x}", object::name(about), same.finish()), "namespace": namespace.unwrap_or("default")},
        "involvedObject": involved, "type": "Warning", "reason": reason, "message": message, "count": 1,
        "firstTimestamp": object::time(now), "lastTimestamp": object::time(now),
        "source": {"component": source}, "reportingComponent": source, "reportingInstance": "",
    })
}
