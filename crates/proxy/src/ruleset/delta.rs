//! Elements that come and go in one batch; what goes and comes back the same cancels out.

use std::collections::{BTreeMap, HashMap};

use skiff_nft::{Batch, Change, Element, Family, Packed, TableRef, Value};

use super::elements::Place;

#[derive(Default)]
struct PlaceDelta {
    gone: HashMap<Packed, Value>,
    new: HashMap<Packed, Value>,
}

#[derive(Default)]
pub(super) struct Delta {
    /// Ordered by place, so that endpoints come before the frontends that lead to them.
    places: BTreeMap<(Place, Family), PlaceDelta>,
    /// Nobody wants to know: then a hundred thousand elements need not be kept.
    deaf: bool,
}

impl Delta {
    pub(super) fn deaf() -> Self {
        Delta { deaf: true, ..Delta::default() }
    }

    pub(super) fn remove(&mut self, family: Family, place: Place, element: Element) {
        if self.deaf {
            return;
        }
        let delta = self.places.entry((place, family)).or_default();
        if delta.new.remove(&element.key).is_none() {
            delta.gone.insert(element.key, element.value);
        }
    }

    pub(super) fn add(&mut self, family: Family, place: Place, element: Element) {
        if self.deaf {
            return;
        }
        let delta = self.places.entry((place, family)).or_default();
        if delta.gone.get(&element.key) == Some(&element.value) {
            delta.gone.remove(&element.key);
        } else {
            delta.new.insert(element.key, element.value);
        }
    }

    /// All deletions, then all additions.
    pub(super) fn into_batch(self, table: &str) -> Batch {
        let mut deletions = Batch::default();
        let mut additions = Batch::default();
        for ((place, family), delta) in self.places {
            let id = TableRef::new(family, table);
            let (set, layout) = (place.set().into(), place.layout());
            let list = |all: HashMap<Packed, Value>| -> Vec<Element> {
                all.into_iter().map(|(key, value)| Element { key, value }).collect()
            };
            if !delta.gone.is_empty() {
                deletions.push(&id, Change::DeleteElements { set, layout, elements: list(delta.gone) });
            }
            if !delta.new.is_empty() {
                let set = place.set().into();
                additions.push(&id, Change::AddElements { set, layout, elements: list(delta.new) });
            }
        }
        deletions.append(additions);
        deletions
    }
}
