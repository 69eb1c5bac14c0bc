//! The server's life: bind, follow the cluster, serve until told to stop.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Namespace, Service as ApiService},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use skiff_client::life::{Ready, Stop};
use skiff_services::model::{Service, ServiceKey, Slice};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::Handle,
    task::JoinSet,
};

use crate::{
    forward::{Forwarder, Upstreams},
    server::Server,
    wire::Name,
    zone::Zone,
};

#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, UDP and TCP.
    pub bind: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Who answers all other names.
    pub upstreams: Upstreams,
    /// The runtime on which resolvers are asked, where that is not the one that serves; its sockets may be in another
    /// network namespace.
    pub outside: Option<Handle>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cluster domain {0:?} is not a DNS name")]
    Domain(String),
    #[error("listen for DNS on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("a DNS socket failed: {0}")]
    Socket(io::Error),
}

/// Serves until `stop`. Ready as soon as the first lists of Services, slices and namespaces have arrived.
pub async fn run(config: Config, client: Client, ready: Ready, stop: Stop) -> Result<(), Error> {
    let domain = Name::parse(&config.domain).ok_or_else(|| Error::Domain(config.domain.clone()))?;
    let own = config.bind.iter().map(|a| a.ip()).collect();
    let outside = config.outside.clone().unwrap_or_else(Handle::current);
    let forwarder = Forwarder::new(config.upstreams.clone(), own, outside);
    let server = Arc::new(Server { zone: RwLock::new(None), domain: domain.clone(), forwarder });
    let mut sockets = JoinSet::new();
    for address in &config.bind {
        let failed = |source| Error::Bind { address: *address, source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        sockets.spawn(server.clone().serve_udp(udp));
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        sockets.spawn(server.clone().serve_tcp(tcp));
    }
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = follow(&server, Zone::new(domain), client, ready) => Ok(()),
        Some(Ok(Err(error))) = sockets.join_next() => Err(Error::Socket(error)),
    }
}

/// What the watches say, in one stream.
enum Seen {
    Service(Event<ApiService>),
    Slice(Event<EndpointSlice>),
    Namespace(Event<Namespace>),
}

fn watch_all(client: Client) -> BoxStream<'static, Seen> {
    let every = watcher::Config::default;
    let services = watcher(Api::<ApiService>::all(client.clone()), every()).map_ok(Seen::Service);
    let slices = watcher(Api::<EndpointSlice>::all(client.clone()), every()).map_ok(Seen::Slice);
    let namespaces = watcher(Api::<Namespace>::all(client), every()).map_ok(Seen::Namespace);
    let all = [services.boxed(), slices.boxed(), namespaces.boxed()].map(|s| s.default_backoff().boxed());
    let logged = |seen: Result<Seen, watcher::Error>| async {
        seen.inspect_err(|error| tracing::warn!("DNS: watch of the API: {error}; the zone is served as last seen")).ok()
    };
    futures::stream::select_all(all).filter_map(logged).boxed()
}

/// Keeps the zone up to date for ever.
async fn follow(server: &Server, zone: Zone, client: Client, ready: Ready) {
    let mut events = watch_all(client);
    let mut lists = Lists::default();
    let mut first = zone;
    let mut ready = Some(ready);
    while let Some(seen) = events.next().await {
        let mut shared = server.zone.write().unwrap_or_else(PoisonError::into_inner);
        match shared.as_mut() {
            Some(zone) => lists.apply(zone, seen),
            None => {
                lists.apply(&mut first, seen);
                if lists.complete() {
                    *shared = Some(std::mem::replace(&mut first, Zone::new(server.domain.clone())));
                    ready.take().into_iter().for_each(Ready::set);
                }
            }
        }
    }
}

/// What a list under way has shown so far: when it ends, everything else is gone.
#[derive(Default)]
struct Lists {
    services: HashSet<ServiceKey>,
    slices: HashSet<(String, String)>,
    namespaces: HashSet<Arc<str>>,
    services_done: bool,
    slices_done: bool,
    namespaces_done: bool,
}

impl Lists {
    fn complete(&self) -> bool {
        self.services_done && self.slices_done && self.namespaces_done
    }

    fn apply(&mut self, zone: &mut Zone, seen: Seen) {
        match seen {
            Seen::Service(event) => self.service(zone, event),
            Seen::Slice(event) => self.slice(zone, event),
            Seen::Namespace(event) => self.namespace(zone, event),
        }
    }

    fn service(&mut self, zone: &mut Zone, event: Event<ApiService>) {
        match event {
            Event::Init => self.services.clear(),
            Event::InitApply(object) | Event::Apply(object) => {
                if let Some(service) = Service::from_api(&object) {
                    self.services.insert(service.key.clone());
                    zone.update(|s| s.apply_service(service));
                }
            }
            Event::InitDone => {
                let keep = std::mem::take(&mut self.services);
                zone.update(|s| s.retain(|key| keep.contains(key), |_, _| true));
                self.services_done = true;
            }
            Event::Delete(object) => {
                let key = ServiceKey::new(&object.namespace().unwrap_or_default(), &object.name_any());
                zone.update(|s| s.remove_service(&key));
            }
        }
    }

    fn slice(&mut self, zone: &mut Zone, event: Event<EndpointSlice>) {
        let id = |o: &EndpointSlice| (o.namespace().unwrap_or_default(), o.name_any());
        match event {
            Event::Init => self.slices.clear(),
            Event::InitApply(object) | Event::Apply(object) => {
                self.slices.insert(id(&object));
                match Slice::from_api(&object) {
                    Some(slice) => zone.update(|s| s.apply_slice(slice)),
                    None => remove_slice(zone, id(&object)),
                }
            }
            Event::InitDone => {
                let keep = std::mem::take(&mut self.slices);
                let known = |ns: &str, name: &str| keep.contains(&(ns.to_owned(), name.to_owned()));
                zone.update(|s| s.retain(|_| true, known));
                self.slices_done = true;
            }
            Event::Delete(object) => remove_slice(zone, id(&object)),
        }
    }

    fn namespace(&mut self, zone: &mut Zone, event: Event<Namespace>) {
        match event {
            Event::Init => self.namespaces.clear(),
            Event::InitApply(object) => {
                self.namespaces.insert(object.name_any().into());
            }
            Event::InitDone => {
                zone.set_namespaces(std::mem::take(&mut self.namespaces));
                self.namespaces_done = true;
            }
            Event::Apply(object) => zone.add_namespace(&object.name_any()),
            Event::Delete(object) => zone.remove_namespace(&object.name_any()),
        }
    }
}

fn remove_slice(zone: &mut Zone, (namespace, name): (String, String)) {
    zone.update(|s| s.remove_slice(&namespace.into(), &name.into()));
}
