//! The server's life: bind, follow the cluster, serve until told to stop.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use skiff_client::{
    feed::{self, Change, Feed},
    life::{Ready, Stop},
};
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
    let nameservers = config.bind.iter().map(|a| a.ip()).collect();
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
        () = follow(&server, Zone::new(domain, nameservers), client, ready) => Ok(()),
        Some(Ok(Err(error))) = sockets.join_next() => Err(Error::Socket(error)),
    }
}

type Namespaces = BoxStream<'static, Result<Event<Namespace>, watcher::Error>>;

/// What comes next from any watch.
#[expect(clippy::large_enum_variant, reason = "one at a time, and straight into the zone")]
enum Seen {
    Change(Change),
    Namespace(Event<Namespace>),
}

async fn next(feed: &mut Feed, namespaces: &mut Namespaces) -> Seen {
    loop {
        tokio::select! {
            change = feed.next() => return Seen::Change(change),
            Some(event) = namespaces.next() => match event {
                Ok(event) => return Seen::Namespace(event),
                Err(error) => tracing::warn!(%error, "watch of namespaces failed; trying again"),
            },
        }
    }
}

/// Keeps the zone up to date for ever. It is shown to clients from when it is complete.
async fn follow(server: &Server, zone: Zone, client: Client, ready: Ready) {
    let mut feed = Feed::open(&client, Default::default(), Default::default());
    let mut namespaces = watcher(Api::all(client), Default::default()).default_backoff().boxed();
    let mut lists = Lists::default();
    let mut growing = Some((zone, ready));
    loop {
        let seen = next(&mut feed, &mut namespaces).await;
        if let Some((zone, _)) = &mut growing {
            lists.apply(zone, seen);
        } else if let Some(zone) = &mut *write(server) {
            lists.apply(zone, seen);
        }
        if lists.is_complete()
            && let Some((zone, ready)) = growing.take()
        {
            *write(server) = Some(zone);
            ready.set();
        }
    }
}

fn write(server: &Server) -> RwLockWriteGuard<'_, Option<Zone>> {
    server.zone.write().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Lists {
    services: feed::Lists,
    /// What a list of namespaces under way has shown.
    listed: HashSet<Arc<str>>,
    namespaces_done: bool,
}

impl Lists {
    fn is_complete(&self) -> bool {
        self.services.is_complete() && self.namespaces_done
    }

    fn apply(&mut self, zone: &mut Zone, seen: Seen) {
        match seen {
            Seen::Change(change) => zone.update(|snapshot| self.services.apply(snapshot, change).dirty),
            Seen::Namespace(event) => self.namespace(zone, event),
        }
    }

    fn namespace(&mut self, zone: &mut Zone, event: Event<Namespace>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(object.name_any().into());
            }
            Event::InitDone => {
                zone.set_namespaces(std::mem::take(&mut self.listed));
                self.namespaces_done = true;
            }
            Event::Apply(object) => zone.add_namespace(&object.name_any()),
            Event::Delete(object) => zone.remove_namespace(&object.name_any()),
        }
    }
}
