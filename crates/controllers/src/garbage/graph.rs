//! Who owns whom, by uid. Kept from metadata alone.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skiff_client::cache::Key;

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// One object, as far as garbage collection looks at it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    /// Index of its resource in the collector's list.
    pub resource: usize,
    pub key: Key,
    pub owners: Vec<OwnerReference>,
    pub deleted: bool,
    pub foreground: bool,
    pub orphan: bool,
}

impl Object {
    pub(crate) fn new(resource: usize, key: Key, meta: &ObjectMeta) -> Self {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        Object {
            resource,
            key,
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleted: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Being deleted, and waits until its dependents are gone.
    pub(crate) fn waits(&self) -> bool {
        self.deleted && self.foreground
    }
}

#[derive(Debug, Default)]
pub(crate) struct Graph {
    objects: HashMap<String, Object>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = (&String, &Object)> {
        let all = self.dependents.get(uid).into_iter().flatten();
        all.filter_map(|uid| Some((uid, self.objects.get(uid)?)))
    }

    /// Puts an object in place; the uids that must be looked at because of it.
    pub(crate) fn put(&mut self, uid: &str, object: Object) -> HashSet<String> {
        let mut dirty = HashSet::new();
        let old = self.objects.get(uid);
        if old == Some(&object) {
            return dirty;
        }
        let old_owners: Vec<String> = old.iter().flat_map(|o| &o.owners).map(|o| o.uid.clone()).collect();
        for owner in &old_owners {
            self.unlink(owner, uid);
            // An owner that waits may have waited for this reference.
            dirty.insert(owner.clone());
        }
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.into());
        }
        if object.deleted {
            dirty.extend(self.dependents(uid).map(|(uid, _)| uid.clone()));
        }
        dirty.insert(uid.into());
        self.objects.insert(uid.into(), object);
        dirty
    }

    /// Takes an object out; the uids that must be looked at because of it.
    pub(crate) fn remove(&mut self, uid: &str) -> HashSet<String> {
        let mut dirty: HashSet<String> = self.dependents(uid).map(|(uid, _)| uid.clone()).collect();
        if let Some(gone) = self.objects.remove(uid) {
            for owner in &gone.owners {
                self.unlink(&owner.uid, uid);
                dirty.insert(owner.uid.clone());
            }
        }
        dirty
    }

    /// After a fresh list of a resource: the uids that were not in it.
    pub(crate) fn missing(&self, resource: usize, fresh: &HashSet<String>) -> Vec<String> {
        let of_resource = self.objects.iter().filter(|(_, o)| o.resource == resource);
        of_resource.filter(|(uid, _)| !fresh.contains(*uid)).map(|(uid, _)| uid.clone()).collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(all) = self.dependents.get_mut(owner) {
            all.remove(dependent);
            if all.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}
