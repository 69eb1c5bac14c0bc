//! Keeps the zone as the cluster is: Services and slices from the feed, namespaces, and pods where they matter.

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as core;
use kube::{Client, ResourceExt};
use skiff_client::{
    feed::{self, Change, Feed},
    life::Ready,
    watch::{Config, Event, Watch},
};
use tokio::time::{sleep, timeout};

use crate::{
    server::Server,
    zone::{Pod, PodKey, Zone},
};

/// How often the API is asked whether it is there.
const LOOK: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// Which pods are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodScope {
    None,
    All,
    /// Those that can ask this server.
    Node(String),
}

/// What comes next from any watch.
#[expect(clippy::large_enum_variant, reason = "one at a time, and straight into the zone")]
enum Seen {
    Change(Change),
    Namespace(Event<core::Namespace>),
    Pod(Event<core::Pod>),
}

struct Watches {
    feed: Feed,
    namespaces: Watch<core::Namespace>,
    pods: Option<Watch<core::Pod>>,
}

impl Watches {
    fn open(client: &Client, scope: &PodScope) -> Self {
        let pods = match scope {
            PodScope::None => None,
            PodScope::All => Some(Config::default()),
            PodScope::Node(name) => Some(Config::default().fields(&format!("spec.nodeName={name}"))),
        };
        Watches {
            feed: Feed::open(client, Config::default(), Config::default()),
            namespaces: Watch::all(client, Config::default()),
            pods: pods.map(|which| Watch::all(client, which)),
        }
    }

    async fn next(&mut self) -> Seen {
        let pods = async {
            match &mut self.pods {
                Some(pods) => pods.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = self.feed.next() => Seen::Change(change),
            event = self.namespaces.next() => Seen::Namespace(event),
            event = pods => Seen::Pod(event),
        }
    }
}

/// Keeps the zone up to date for ever. It is shown to clients from when it is complete.
pub(crate) async fn follow(server: &Server, zone: Zone, client: Client, scope: PodScope, ready: Ready) {
    let mut watches = Watches::open(&client, &scope);
    let mut lists =
        Lists { pods: Listing { complete: scope == PodScope::None, ..Listing::default() }, ..Lists::default() };
    let mut growing = Some((zone, ready));
    loop {
        let seen = watches.next().await;
        server.metrics.saw_api();
        if let Some((zone, _)) = &mut growing {
            lists.apply(zone, seen);
        } else if let Some(zone) = &mut *server.zone_mut() {
            lists.apply(zone, seen);
            server.metrics.zone_is(zone.serial(), zone.services());
        }
        if lists.is_complete()
            && let Some((zone, ready)) = growing.take()
        {
            server.metrics.zone_is(zone.serial(), zone.services());
            *server.zone_mut() = Some(zone);
            ready.set();
        }
    }
}

/// Asks the API now and then whether it is there: a cluster in which nothing changes is not an API that is gone.
pub(crate) async fn look_for_api(server: &Server, client: Client) {
    loop {
        sleep(LOOK).await;
        match timeout(PATIENCE, client.apiserver_version()).await {
            Ok(Ok(_)) => server.metrics.saw_api(),
            Ok(Err(error)) => tracing::debug!("the API does not answer: {error}"),
            Err(_) => tracing::debug!("the API does not answer in {PATIENCE:?}"),
        }
    }
}

/// One kind of object while its list is being read.
#[derive(Debug)]
struct Listing<T> {
    /// What the list has shown.
    seen: HashSet<T>,
    complete: bool,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Listing { seen: HashSet::new(), complete: false }
    }
}

#[derive(Default)]
struct Lists {
    services: feed::Lists,
    namespaces: Listing<Arc<str>>,
    pods: Listing<PodKey>,
}

impl Lists {
    fn is_complete(&self) -> bool {
        self.services.is_complete() && self.namespaces.complete && self.pods.complete
    }

    fn apply(&mut self, zone: &mut Zone, seen: Seen) {
        match seen {
            Seen::Change(change) => zone.update(|snapshot| self.services.apply(snapshot, change).dirty),
            Seen::Namespace(event) => self.namespace(zone, event),
            Seen::Pod(event) => self.pod(zone, event),
        }
    }

    fn namespace(&mut self, zone: &mut Zone, event: Event<core::Namespace>) {
        let listing = &mut self.namespaces;
        match event {
            Event::Init => listing.seen.clear(),
            Event::InitApply(object) => {
                listing.seen.insert(object.name_any().into());
            }
            Event::InitDone => {
                zone.set_namespaces(std::mem::take(&mut listing.seen));
                listing.complete = true;
            }
            Event::Apply(object) => zone.add_namespace(&object.name_any()),
            Event::Delete(object) => zone.remove_namespace(&object.name_any()),
        }
    }

    fn pod(&mut self, zone: &mut Zone, event: Event<core::Pod>) {
        let listing = &mut self.pods;
        match event {
            Event::Init => listing.seen.clear(),
            Event::InitApply(object) => {
                listing.seen.insert(pod_key(&object));
                apply_pod(zone, &object);
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut listing.seen);
                zone.pods_mut().retain(|key| seen.contains(key));
                listing.complete = true;
            }
            Event::Apply(object) => apply_pod(zone, &object),
            Event::Delete(object) => zone.pods_mut().remove(&pod_key(&object)),
        }
    }
}

fn pod_key(object: &core::Pod) -> PodKey {
    (object.namespace().unwrap_or_default().into(), object.name_any().into())
}

/// A pod that has ended has no address any more.
fn apply_pod(zone: &mut Zone, object: &core::Pod) {
    match Pod::from_api(object) {
        Some(pod) => zone.pods_mut().apply(pod),
        None => zone.pods_mut().remove(&pod_key(object)),
    }
}
