//! Watch events into the snapshot, and the names of the Services that they touched.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::runtime::watcher::Event;
use skiff_services::{
    model::{Service, ServiceKey, Slice},
    snapshot::Snapshot,
};

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

#[derive(Debug, Default)]
pub struct Observed {
    pub snapshot: Snapshot,
    pub dirty: BTreeSet<ServiceKey>,
    /// When the changes since the last sync were triggered (RFC 3339), as their slices say.
    pub triggers: Vec<String>,
    pub service_changes: usize,
    pub endpoint_changes: usize,
    services: Listing<ServiceKey>,
    slices: Listing<SliceName>,
}

/// More are not kept: they only feed a metric.
const MAX_TRIGGERS: usize = 1000;

impl Observed {
    /// Both lists have arrived: before that, absence means nothing.
    pub fn is_complete(&self) -> bool {
        self.services.complete && self.slices.complete
    }

    pub fn service(&mut self, event: Event<core::Service>) {
        match event {
            Event::Init => self.services.seen = Some(HashSet::new()),
            Event::InitApply(object) => {
                let key = self.apply_service(&object);
                if let (Some(seen), Some(key)) = (&mut self.services.seen, key) {
                    seen.insert(key);
                }
            }
            Event::InitDone => {
                if let Some(seen) = self.services.seen.take() {
                    self.dirty.extend(self.snapshot.retain(|key| seen.contains(key), |_, _| true));
                }
                self.services.complete = true;
            }
            Event::Apply(object) => {
                self.apply_service(&object);
            }
            Event::Delete(object) => {
                if let Some(service) = Service::from_api(&object) {
                    self.dirty.extend(self.snapshot.remove_service(&service.key));
                    self.service_changes += 1;
                }
            }
        }
    }

    fn apply_service(&mut self, object: &core::Service) -> Option<ServiceKey> {
        let service = Service::from_api(object)?;
        let key = service.key.clone();
        let changed = self.snapshot.apply_service(service);
        self.service_changes += usize::from(changed.is_some());
        self.dirty.extend(changed);
        Some(key)
    }

    pub fn slice(&mut self, event: Event<EndpointSlice>) {
        match event {
            Event::Init => self.slices.seen = Some(HashSet::new()),
            Event::InitApply(object) => {
                let name = slice_name(&object);
                self.apply_slice(&object);
                if let (Some(seen), Some(name)) = (&mut self.slices.seen, name) {
                    seen.insert(name);
                }
            }
            Event::InitDone => {
                if let Some(seen) = self.slices.seen.take() {
                    let keep = |ns: &str, name: &str| seen.contains(&(ns.into(), name.into()));
                    self.dirty.extend(self.snapshot.retain(|_| true, keep));
                }
                self.slices.complete = true;
            }
            Event::Apply(object) => {
                let trigger = self.apply_slice(&object);
                if self.triggers.len() < MAX_TRIGGERS {
                    self.triggers.extend(trigger);
                }
            }
            Event::Delete(object) => {
                if let Some((namespace, name)) = slice_name(&object) {
                    self.dirty.extend(self.snapshot.remove_slice(&namespace, &name));
                    self.endpoint_changes += 1;
                }
            }
        }
    }

    /// A slice that names no Service any more is as good as deleted.
    fn apply_slice(&mut self, object: &EndpointSlice) -> Option<String> {
        let Some(slice) = Slice::from_api(object) else {
            let (namespace, name) = slice_name(object)?;
            self.dirty.extend(self.snapshot.remove_slice(&namespace, &name));
            return None;
        };
        let trigger = slice.trigger_time.clone();
        let changed = self.snapshot.apply_slice(slice);
        self.endpoint_changes += usize::from(!changed.is_empty());
        let touched = !changed.is_empty();
        self.dirty.extend(changed);
        trigger.filter(|_| touched)
    }
}

fn slice_name(object: &EndpointSlice) -> Option<SliceName> {
    Some((object.metadata.namespace.as_deref()?.into(), object.metadata.name.as_deref()?.into()))
}
