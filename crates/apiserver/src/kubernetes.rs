//! The `kubernetes` Service: how pods find this server. It, its Endpoints and its EndpointSlice are kept as they must be.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_api::status::Status;
use skiff_services::alloc::DEFAULT_RANGE;
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::call::Call;
use crate::verbs::write::{self, How};
use crate::{Config, Error, Result, Server, aggregation, bootstrap, object};

const EVERY: Duration = Duration::from_secs(10);

/// What must be.
fn objects(config: &Config, servers: &[SocketAddr]) -> Vec<Value> {
    let meta = |extra: Value| {
        let mut meta = json!({"name": "kubernetes", "namespace": "default"});
        meta["labels"] = extra;
        meta
    };
    let port = config.advertise.port();
    let family = if config.advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let (mut subsets, mut endpoints) = (json!([]), json!([]));
    let here = |server: &&SocketAddr| server.port() == port && server.is_ipv4() == config.advertise.is_ipv4();
    let reached: Vec<String> =
        servers.iter().filter(here).map(SocketAddr::ip).filter(is_reachable).map(|ip| ip.to_string()).collect();
    if !reached.is_empty() {
        let addresses: Vec<_> = reached.iter().map(|ip| json!({"ip": ip})).collect();
        subsets = json!([{"addresses": addresses, "ports": ports}]);
        let endpoint = |ip| json!({"addresses": [ip], "conditions": {"ready": true}});
        endpoints = reached.into_iter().map(endpoint).collect();
    }
    vec![
        json!({"kind": "Service", "apiVersion": "v1",
            "metadata": meta(json!({"component": "apiserver", "provider": "kubernetes"})),
            "spec": {"type": "ClusterIP", "clusterIP": first_ip(config), "sessionAffinity": "None",
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]}}),
        json!({"kind": "Endpoints", "apiVersion": "v1",
            "metadata": meta(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
            "subsets": subsets}),
        json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": meta(json!({"kubernetes.io/service-name": "kubernetes"})),
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports}),
    ]
}

/// The first address of the first service range.
fn first_ip(config: &Config) -> String {
    config.service_cidrs.first().and_then(|c| c.hosts().next()).map(|ip| ip.to_string()).unwrap_or_default()
}

/// Pods reach no address of the host's own loopback: a server that has no other is one without endpoints.
fn is_reachable(ip: &IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified()
}

/// The ranges of the configuration as objects: at most one of each family in one object.
fn ranges(config: &Config) -> Vec<Value> {
    let (fours, sixes): (Vec<_>, Vec<_>) = config.service_cidrs.iter().partition(|cidr| matches!(cidr, IpNet::V4(_)));
    let first = config.service_cidrs.first().copied();
    let of = |list: &[IpNet], i: usize| list.get(i).copied();
    let object = |i: usize| {
        let mut cidrs: Vec<IpNet> = [of(&fours, i), of(&sixes, i)].into_iter().flatten().collect();
        cidrs.sort_by_key(|cidr| i == 0 && Some(*cidr) != first);
        let name = if i == 0 { DEFAULT_RANGE.to_string() } else { format!("{DEFAULT_RANGE}-{}", i + 1) };
        json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": name},
            "spec": {"cidrs": cidrs.iter().map(ToString::to_string).collect::<Vec<_>>()}})
    };
    (0..fours.len().max(sixes.len())).map(object).collect()
}

pub(crate) async fn reconcile(server: &Arc<Server>) -> Result<(), Error> {
    together(ranges(&server.config), |wanted| Box::pin(start_with(server, wanted))).await?;
    let servers = match server.config.shared {
        true => server.others.alive(&server.storage, server.config.advertise).await?,
        false => vec![server.config.advertise],
    };
    together(objects(&server.config, &servers), |wanted| Box::pin(ensure(server, wanted))).await
}

/// All at once, so that the store makes them durable in one go; the first failure ends it.
async fn together<'a>(objects: Vec<Value>, write: impl Fn(Value) -> BoxFuture<'a, Result<()>>) -> Result<(), Error> {
    let named = objects.into_iter().map(|wanted| {
        let what = format!("{} {}", wanted["kind"].as_str().unwrap_or_default(), object::name(&wanted));
        let written = write(wanted);
        async move { written.await.map_err(|status| Error::Bootstrap { what, status }) }
    });
    try_join_all(named).await.map(|_| ())
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
    let (namespaces, others) = bootstrap::objects().into_iter().partition(|o| o["kind"] == "Namespace");
    together(namespaces, |wanted| Box::pin(start_with(server, wanted))).await?;
    together(others, |wanted| Box::pin(start_with(server, wanted))).await?;
    aggregation::begin(server).await;
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
