//! Keeps the zone as the cluster is: Services and slices from the feed, namespaces, and pods where they matter.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::{api::core::v1 as core, jiff::Timestamp};
use kube::{Client, ResourceExt};
use skiff_client::{
    feed::{self, Change, Feed, Touched},
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
            let touched = lists.apply(zone, seen);
            server.metrics.zone_is(zone.serial(), zone.services());
            if let Some(after) = programmed(zone, &touched, SystemTime::now()) {
                server.metrics.programmed(after);
            }
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

/// How long ago the change was triggered, where names of endpoints followed it.
fn programmed(zone: &Zone, touched: &Touched, now: SystemTime) -> Option<Duration> {
    let trigger: Timestamp = touched.trigger.as_deref()?.parse().ok()?;
    let of_endpoints = |key| {
        let service = zone.entry(key).and_then(|entry| entry.service.as_deref());
        service.is_some_and(|service| service.headless && service.has_selector)
    };
    if !touched.dirty.iter().any(of_endpoints) {
        return None;
    }
    // Of a clock that is ahead, nothing can be said.
    now.duration_since(trigger.into()).ok()
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

    fn apply(&mut self, zone: &mut Zone, seen: Seen) -> Touched {
        let mut touched = Touched::default();
        match seen {
            Seen::Change(change) => zone.update(|snapshot| {
                touched = self.services.apply(snapshot, change);
                touched.dirty.clone()
            }),
            Seen::Namespace(event) => self.namespace(zone, event),
            Seen::Pod(event) => self.pod(zone, event),
        }
        touched
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_services::model::Service;

    use super::*;
    use crate::wire::Name;

    #[test]
    fn how_long_names_took_to_follow() {
        let mut zone = Zone::new(Name::parse("cluster.local").unwrap(), vec![]);
        let made = [
            ("db", "None", json!({"app": "db"})),
            ("own", "None", json!(null)),
            ("web", "10.96.0.5", json!({"app": "web"})),
        ];
        for (name, ip, selector) in &made {
            let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": ip, "selector": selector}});
            zone.update(|s| {
                Service::from_api(&serde_json::from_value(object).unwrap()).and_then(|v| s.apply_service(v))
            });
        }
        let at = |text: &str| SystemTime::from(text.parse::<Timestamp>().unwrap());
        let took = |name: &str, trigger: Option<&str>| {
            let dirty = [skiff_services::model::ServiceKey::new("default", name)].into();
            let touched = Touched { dirty, trigger: trigger.map(Into::into) };
            programmed(&zone, &touched, at("2030-01-01T00:00:02.5Z")).map(|d| d.as_millis())
        };
        assert_eq!(took("db", Some("2030-01-01T00:00:00Z")), Some(2500));
        for (name, trigger) in [
            ("db", None),
            ("db", Some("yesterday")),
            ("db", Some("2030-01-01T00:00:03Z")),
            ("own", Some("2030-01-01T00:00:00Z")),
            ("web", Some("2030-01-01T00:00:00Z")),
            ("missing", Some("2030-01-01T00:00:00Z")),
        ] {
            assert_eq!(took(name, trigger), None, "{name} {trigger:?}");
        }
    }
}
