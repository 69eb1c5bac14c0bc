//! All Services and slices of the cluster, kept up to date by events. Each event names the one Service it touched, so
//! whoever plans from the snapshot (proxy rules, DNS records) does work in proportion to the change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::model::{Service, ServiceKey, Slice};

/// A Service with the slices that carry its name; either may arrive first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub service: Option<Arc<Service>>,
    /// By slice name, so that equal content has one order.
    pub slices: BTreeMap<Arc<str>, Arc<Slice>>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    entries: HashMap<ServiceKey, Entry>,
    /// Where each slice stands, since a slice may move to another Service by its label.
    slice_home: HashMap<(Arc<str>, Arc<str>), ServiceKey>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Snapshot {
    pub fn get(&self, key: &ServiceKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ServiceKey, &Entry)> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts a Service in place; the key when something changed.
    pub fn apply_service(&mut self, service: Service) -> Option<ServiceKey> {
        let key = service.key.clone();
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.service.as_deref() == Some(&service) {
            return None;
        }
        entry.service = Some(Arc::new(service));
        Some(key)
    }

    pub fn remove_service(&mut self, key: &ServiceKey) -> Option<ServiceKey> {
        let entry = self.entries.get_mut(key)?;
        let changed = entry.service.take().is_some();
        if entry.is_empty() {
            self.entries.remove(key);
        }
        changed.then(|| key.clone())
    }

    /// Puts a slice in place; the keys of the Services that changed (two when the slice moved).
    pub fn apply_slice(&mut self, slice: Slice) -> BTreeSet<ServiceKey> {
        let home = (slice.service.namespace.clone(), slice.name.clone());
        let mut dirty = BTreeSet::new();
        if self.slice_home.get(&home).is_some_and(|old| *old != slice.service) {
            dirty.extend(self.remove_slice(&home.0, &home.1));
        }
        let entry = self.entries.entry(slice.service.clone()).or_default();
        if entry.slices.get(&slice.name).is_some_and(|old| **old == slice) {
            return dirty;
        }
        dirty.insert(slice.service.clone());
        self.slice_home.insert(home, slice.service.clone());
        entry.slices.insert(slice.name.clone(), Arc::new(slice));
        dirty
    }

    pub fn remove_slice(&mut self, namespace: &Arc<str>, name: &Arc<str>) -> Option<ServiceKey> {
        let key = self.slice_home.remove(&(namespace.clone(), name.clone()))?;
        let entry = self.entries.get_mut(&key)?;
        entry.slices.remove(name);
        if entry.is_empty() {
            self.entries.remove(&key);
        }
        Some(key)
    }

    /// After a fresh list: forgets every Service and slice that the list did not hold; the keys that changed.
    pub fn retain(
        &mut self,
        keep_service: impl Fn(&ServiceKey) -> bool,
        keep_slice: impl Fn(&str, &str) -> bool,
    ) -> BTreeSet<ServiceKey> {
        let gone: Vec<ServiceKey> = self
            .entries
            .iter()
            .filter(|(k, e)| e.service.is_some() && !keep_service(k))
            .map(|(k, _)| k.clone())
            .collect();
        let mut dirty: BTreeSet<ServiceKey> = gone.iter().filter_map(|k| self.remove_service(k)).collect();
        let stale: Vec<_> = self.slice_home.keys().filter(|(ns, name)| !keep_slice(ns, name)).cloned().collect();
        dirty.extend(stale.iter().filter_map(|(ns, name)| self.remove_slice(ns, name)));
        dirty
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
