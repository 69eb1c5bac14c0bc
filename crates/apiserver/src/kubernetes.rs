//! The `kubernetes` Service: how pods find this server. It, its Endpoints and its EndpointSlice are kept as they must be.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_api::status::Status;
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::call::Call;
use crate::verbs::write::{self, How};
use crate::{Config, Error, Result, Server, bootstrap, object};

const EVERY: Duration = Duration::from_secs(10);

/// What must be.
fn objects(config: &Config) -> Vec<Value> {
    let meta = |extra: Value| {
        let mut meta = json!({"name": "kubernetes", "namespace": "default"});
        meta["labels"] = extra;
        meta
    };
    let (ip, port) = (config.advertise.ip().to_string(), config.advertise.port());
    let family = if config.advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    vec![
        json!({"kind": "Service", "apiVersion": "v1",
            "metadata": meta(json!({"component": "apiserver", "provider": "kubernetes"})),
            "spec": {"type": "ClusterIP", "clusterIP": first_ip(config), "sessionAffinity": "None",
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]}}),
        json!({"kind": "Endpoints", "apiVersion": "v1",
            "metadata": meta(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]}),
        json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": meta(json!({"kubernetes.io/service-name": "kubernetes"})),
            "addressType": family,
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
    ]
}

/// The first address of the first service range.
fn first_ip(config: &Config) -> String {
    config.service_cidrs.first().and_then(|c| c.hosts().next()).map(|ip| ip.to_string()).unwrap_or_default()
}

pub(crate) async fn reconcile(server: &Arc<Server>) -> Result<(), Error> {
    for wanted in objects(&server.config) {
        let what = format!("{} {}", wanted["kind"].as_str().unwrap_or_default(), object::name(&wanted));
        ensure(server, wanted).await.map_err(|status| Error::Bootstrap { what, status })?;
    }
    Ok(())
}

/// Every ten seconds, as others may change or delete them.
pub(crate) async fn keep(server: Arc<Server>, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(e) = reconcile(&server).await {
            tracing::warn!("the kubernetes Service is not as it must be: {e}");
        }
    }
}

/// The objects of every cluster, at the start: made when missing, given what a newer version adds.
pub(crate) async fn bootstrap(server: &Arc<Server>) -> Result<(), Error> {
    for wanted in bootstrap::objects() {
        let what = format!("{} {}", wanted["kind"].as_str().unwrap_or_default(), object::name(&wanted));
        start_with(server, wanted).await.map_err(|status| Error::Bootstrap { what, status })?;
    }
    Ok(())
}

async fn start_with(server: &Arc<Server>, wanted: Value) -> Result<()> {
    let call = Call::internal(server, &wanted, Identity::admin(), Timestamp::now())?;
    let name = object::name(&wanted).to_string();
    match call.storage().find(call.resource(), call.namespace(), &name).await? {
        None => write::create(&call, wanted).await.map(|_| ()),
        Some(have) => match bootstrap::reconcile(&have.value, &wanted) {
            None => Ok(()),
            Some(next) => write::update(&call, &name, &How::SPEC, |_| Ok(next.clone())).await.map(|_| ()),
        },
    }
}

/// Makes the object, or gives it back what it must have; what else it has stays.
pub(crate) async fn ensure(server: &Arc<Server>, wanted: Value) -> Result<()> {
    let call = Call::internal(server, &wanted, Identity::admin(), Timestamp::now())?;
    let name = object::name(&wanted).to_string();
    if call.storage().find(call.resource(), call.namespace(), &name).await?.is_none() {
        return match write::create(&call, wanted).await {
            Err(e) if e.reason() != "AlreadyExists" => Err(e),
            _ => Ok(()),
        };
    }
    let change = |current: Option<&Value>| {
        let mut next = current.cloned().ok_or_else(|| Status::not_found(call.resource(), &name))?;
        restore(&mut next, &wanted);
        Ok(next)
    };
    write::update(&call, &name, &How::SPEC, change).await.map(|_| ())
}

/// Objects are merged, everything else is replaced.
fn restore(have: &mut Value, wanted: &Value) {
    match (have, wanted) {
        (Value::Object(have), Value::Object(wanted)) => {
            for (key, value) in wanted {
                restore(have.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        // Lists of ports and addresses may carry defaults: those that say the same stay.
        (Value::Array(have), Value::Array(wanted)) if have.len() == wanted.len() => {
            for (have, wanted) in have.iter_mut().zip(wanted) {
                restore(have, wanted);
            }
        }
        (have, wanted) => *have = wanted.clone(),
    }
}
