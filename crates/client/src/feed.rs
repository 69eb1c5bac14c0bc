//! The feed of Services and EndpointSlices: two watches that keep a snapshot up to date and name the Services that each
//! event touched. Proxy and DNS both live on it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::Client;
use skiff_services::{
    model::{Service, ServiceKey, Slice},
    snapshot::Snapshot,
};

use crate::watch::{Config, Event, Watch};

/// One event of either watch.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and straight into the snapshot")]
pub enum Change {
    Service(Event<core::Service>),
    Slice(Event<EndpointSlice>),
}

/// What a change did to the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The Services that mean something else now.
    pub dirty: BTreeSet<ServiceKey>,
    /// When the change was triggered, as its slice says (RFC 3339).
    pub trigger: Option<String>,
}

impl Touched {
    fn services(dirty: impl IntoIterator<Item = ServiceKey>) -> Self {
        Touched { dirty: dirty.into_iter().collect(), trigger: None }
    }
}

/// The two watches. They repair themselves for ever; what the snapshot holds meanwhile is what was seen last.
pub struct Feed {
    services: Watch<core::Service>,
    slices: Watch<EndpointSlice>,
}

impl Feed {
    /// The configurations select which objects are looked at.
    pub fn open(client: &Client, services: Config, slices: Config) -> Self {
        Feed { services: Watch::all(client, services), slices: Watch::all(client, slices) }
    }

    /// The next change. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Change {
        tokio::select! {
            event = self.services.next() => Change::Service(event),
            event = self.slices.next() => Change::Slice(event),
        }
    }
}

type SliceName = (Arc<str>, Arc<str>);

/// One kind of object while its list is being read: what the list held. What it did not hold is gone.
#[derive(Debug)]
struct Listing<T> {
    seen: Option<HashSet<T>>,
    complete: bool,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Listing { seen: None, complete: false }
    }
}

/// Carries changes into a snapshot. A list that is read again is compared with what is there: nothing flickers.
#[derive(Debug, Default)]
pub struct Lists {
    services: Listing<ServiceKey>,
    slices: Listing<SliceName>,
}

impl Lists {
    /// Both lists have arrived: before that, absence means nothing.
    pub fn is_complete(&self) -> bool {
        self.services.complete && self.slices.complete
    }

    pub fn apply(&mut self, snapshot: &mut Snapshot, change: Change) -> Touched {
        match change {
            Change::Service(event) => Touched::services(self.service(snapshot, event)),
            Change::Slice(event) => self.slice(snapshot, event),
        }
    }

    fn service(&mut self, snapshot: &mut Snapshot, event: Event<core::Service>) -> BTreeSet<ServiceKey> {
        let listing = &mut self.services;
        match event {
            Event::Init => listing.seen = Some(HashSet::new()),
            Event::Apply(object) => {
                return Service::from_api(&object).and_then(|s| snapshot.apply_service(s)).into_iter().collect();
            }
            Event::InitApply(object) => {
                let Some(service) = Service::from_api(&object) else { return BTreeSet::new() };
                listing.seen.get_or_insert_default().insert(service.key.clone());
                return snapshot.apply_service(service).into_iter().collect();
            }
            Event::InitDone => {
                listing.complete = true;
                let Some(seen) = listing.seen.take() else { return BTreeSet::new() };
                return snapshot.retain(|key| seen.contains(key), |_, _| true);
            }
            Event::Delete(object) => {
                let gone = Service::from_api(&object).and_then(|s| snapshot.remove_service(&s.key));
                return gone.into_iter().collect();
            }
        }
        BTreeSet::new()
    }

    fn slice(&mut self, snapshot: &mut Snapshot, event: Event<EndpointSlice>) -> Touched {
        let listing = &mut self.slices;
        match event {
            Event::Init => {
                listing.seen = Some(HashSet::new());
                Touched::default()
            }
            Event::Apply(object) => apply_slice(snapshot, &object),
            Event::InitApply(object) => {
                listing.seen.get_or_insert_default().extend(slice_name(&object));
                // How long ago a change of before our time was triggered says nothing about us.
                Touched { trigger: None, ..apply_slice(snapshot, &object) }
            }
            Event::InitDone => {
                listing.complete = true;
                let Some(seen) = listing.seen.take() else { return Touched::default() };
                let keep = |ns: &str, name: &str| seen.contains(&(ns.into(), name.into()));
                Touched::services(snapshot.retain(|_| true, keep))
            }
            Event::Delete(object) => Touched::services(remove_slice(snapshot, &object)),
        }
    }
}

/// A slice that names no Service any more is as good as deleted.
fn apply_slice(snapshot: &mut Snapshot, object: &EndpointSlice) -> Touched {
    let Some(slice) = Slice::from_api(object) else {
        return Touched::services(remove_slice(snapshot, object));
    };
    let trigger = slice.trigger_time.clone();
    let dirty = snapshot.apply_slice(slice);
    let trigger = trigger.filter(|_| !dirty.is_empty());
    Touched { dirty, trigger }
}

fn remove_slice(snapshot: &mut Snapshot, object: &EndpointSlice) -> Option<ServiceKey> {
    let (namespace, name) = slice_name(object)?;
    snapshot.remove_slice(&namespace, &name)
}

fn slice_name(object: &EndpointSlice) -> Option<SliceName> {
    Some((object.metadata.namespace.as_deref()?.into(), object.metadata.name.as_deref()?.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, ip: &str) -> core::Service {
        let object = json!({
            "metadata": {"namespace": "ns", "name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
        });
        serde_json::from_value(object).unwrap()
    }

    fn slice(name: &str, service: Option<&str>, ip: &str) -> EndpointSlice {
        let labels = service.map(|s| json!({"kubernetes.io/service-name": s})).unwrap_or_default();
        let object = json!({
            "metadata": {
                "namespace": "ns", "name": name, "labels": labels,
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
            },
            "addressType": "IPv4", "endpoints": [{"addresses": [ip]}],
        });
        serde_json::from_value(object).unwrap()
    }

    #[derive(Default)]
    struct Place {
        lists: Lists,
        snapshot: Snapshot,
    }

    impl Place {
        /// The names of the Services that became dirty.
        fn take(&mut self, changes: impl IntoIterator<Item = Change>) -> String {
            let mut dirty = BTreeSet::new();
            for change in changes {
                dirty.extend(self.lists.apply(&mut self.snapshot, change).dirty);
            }
            dirty.iter().map(|k| &*k.name).collect::<Vec<_>>().join(" ")
        }
    }

    fn service_list(objects: &[core::Service]) -> Vec<Change> {
        let all = objects.iter().cloned().map(Event::InitApply);
        [Event::Init].into_iter().chain(all).chain([Event::InitDone]).map(Change::Service).collect()
    }

    fn slice_list(objects: &[EndpointSlice]) -> Vec<Change> {
        let all = objects.iter().cloned().map(Event::InitApply);
        [Event::Init].into_iter().chain(all).chain([Event::InitDone]).map(Change::Slice).collect()
    }

    #[test]
    fn is_complete_after_both_lists() {
        let mut place = Place::default();
        assert_eq!(place.take(service_list(&[service("a", "10.96.0.1")])), "a");
        assert!(!place.lists.is_complete());
        assert_eq!(place.take(slice_list(&[slice("b-1", Some("b"), "10.244.0.1")])), "b");
        assert!(place.lists.is_complete());
    }

    #[test]
    fn a_second_list_touches_only_what_differs() {
        let mut place = Place::default();
        let (a, b) = (service("a", "10.96.0.1"), service("b", "10.96.0.2"));
        let (a1, b1) = (slice("a-1", Some("a"), "10.244.0.1"), slice("b-1", Some("b"), "10.244.0.2"));
        place.take(service_list(&[a.clone(), b.clone()]));
        place.take(slice_list(&[a1.clone(), b1]));
        // Applied between the lists: the next list must have it too, or it is gone.
        place.take([Change::Service(Event::Apply(service("c", "10.96.0.3")))]);
        assert_eq!(place.take(service_list(&[a, b])), "c");
        assert_eq!(place.take(slice_list(&[a1])), "b");
        assert_eq!(place.snapshot.len(), 2);
    }

    #[test]
    fn single_events() {
        let mut place = Place::default();
        let a = service("a", "10.96.0.1");
        let applied = |s: &EndpointSlice| Change::Slice(Event::Apply(s.clone()));
        assert_eq!(place.take([Change::Service(Event::Apply(a.clone()))]), "a");
        assert_eq!(place.take([Change::Service(Event::Apply(a.clone()))]), "", "nothing new");
        assert_eq!(place.take([applied(&slice("1", Some("a"), "10.244.0.1"))]), "a");
        assert_eq!(place.take([applied(&slice("1", Some("b"), "10.244.0.1"))]), "a b", "moved");
        assert_eq!(place.take([applied(&slice("1", None, "10.244.0.1"))]), "b", "belongs to nobody");
        assert_eq!(place.take([Change::Slice(Event::Delete(slice("1", None, "10.244.0.1")))]), "");
        assert_eq!(place.take([Change::Service(Event::Delete(a))]), "a");
        assert!(place.snapshot.is_empty());
    }

    #[test]
    fn tells_triggers_of_changes_after_the_list() {
        let mut place = Place::default();
        let one = slice("1", Some("a"), "10.244.0.1");
        let mut apply = |event| place.lists.apply(&mut place.snapshot, Change::Slice(event)).trigger;
        assert_eq!(apply(Event::InitApply(one.clone())), None);
        assert_eq!(apply(Event::Apply(one)), None, "nothing changed");
        assert!(apply(Event::Apply(slice("1", Some("a"), "10.244.0.2"))).is_some());
    }
}
