//! From Services to rules. Pure: a Service's change in, the batch for the kernel out; and the whole table from scratch,
//! which must be the same.

mod class;
mod delta;
mod elements;
mod plan;
mod skeleton;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub use class::{Class, View};
pub use plan::{Frontend, FrontendPlan, Masquerade, NodeView, PortPlan, Route, is_served, plan};
pub use skeleton::Networks;
use skiff_nft::{Batch, Element, Family, Packed, State, TableRef, diff};
use skiff_services::{
    model::ServiceKey,
    snapshot::{Entry, Snapshot},
};

use self::{
    delta::Delta,
    elements::{Place, Rendered, frontend_elements, port_elements},
};

/// So many, with ten endpoints each, fill one message with elements.
const SERVICES_PER_PART: usize = 50;

const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// All that the rules are made of, and how many Services need each shared part.
#[derive(Clone, Debug)]
pub struct Ruleset {
    table: String,
    networks: Networks,
    node: NodeView,
    plans: HashMap<ServiceKey, Vec<PortPlan>>,
    /// Who wants a frontend, in order. The first one has it; should it go, the next one gets it.
    claims: HashMap<Frontend, Vec<ServiceKey>>,
    shared: HashMap<(Family, Place, Packed), usize>,
    classes: BTreeMap<(Family, Class), usize>,
}

impl Ruleset {
    pub fn new(table: &str, networks: Networks, node: NodeView) -> Self {
        Ruleset {
            table: table.into(),
            networks,
            node,
            plans: HashMap::new(),
            claims: HashMap::new(),
            shared: HashMap::new(),
            classes: BTreeMap::new(),
        }
    }

    pub fn node(&self) -> &NodeView {
        &self.node
    }

    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    pub fn plan(&self, key: &ServiceKey) -> &[PortPlan] {
        self.plans.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn table_refs(&self) -> [TableRef; 2] {
        FAMILIES.map(|f| TableRef::new(f, &self.table))
    }

    /// Everything anew, for a node or networks that have changed. Slots are kept.
    pub fn rebuild(&mut self, node: NodeView, networks: Networks, snapshot: &Snapshot) -> Batch {
        let mut batch = Batch::default();
        let before = FAMILIES.map(|f| self.skeleton_of(f, self.classes.keys().copied()));
        self.node = node;
        self.networks = networks;
        for (id, before) in self.table_refs().iter().zip(&before) {
            let after = self.skeleton_of(id.family, self.classes.keys().copied());
            batch.append(diff(id, Some(before), Some(&after)));
        }
        let keys: BTreeSet<ServiceKey> = self.plans.keys().chain(snapshot.iter().map(|(k, _)| k)).cloned().collect();
        batch.append(self.update(&keys, snapshot));
        batch
    }

    /// Takes over what the snapshot says about the Services named; returns what changes in the kernel.
    pub fn update<'a>(&mut self, dirty: impl IntoIterator<Item = &'a ServiceKey>, snapshot: &Snapshot) -> Batch {
        let classes_before: BTreeSet<(Family, Class)> = self.classes.keys().copied().collect();
        let mut delta = Delta::default();
        for key in dirty {
            self.update_one(key, snapshot.get(key), &mut delta);
        }
        let mut batch = self.skeleton_change(&classes_before);
        batch.append(delta.into_batch(&self.table));
        batch
    }

    /// The same for a caller that will compare whole tables anyway.
    pub fn learn<'a>(&mut self, dirty: impl IntoIterator<Item = &'a ServiceKey>, snapshot: &Snapshot) {
        let mut nobody = Delta::deaf();
        for key in dirty {
            self.update_one(key, snapshot.get(key), &mut nobody);
        }
    }

    fn update_one(&mut self, key: &ServiceKey, entry: Option<&Entry>, delta: &mut Delta) {
        let before = self.plans.get(key).cloned().unwrap_or_default();
        let after = entry.map_or_else(Vec::new, |e| plan(e, &self.node, &self.networks, &before));
        if before == after {
            return;
        }
        let others = self.rivals(key, &before, &after);
        for other in others.iter().chain([key]) {
            let rendered = self.render(other);
            self.withdraw(rendered, delta);
        }
        self.claim(key, &before, &after);
        if after.is_empty() {
            self.plans.remove(key);
        } else {
            self.plans.insert(key.clone(), after);
        }
        for other in others.iter().chain([key]) {
            let rendered = self.render(other);
            self.place(rendered, delta);
        }
    }

    /// Services that claim a frontend of this one: losing or winning it changes them too.
    fn rivals(&self, key: &ServiceKey, before: &[PortPlan], after: &[PortPlan]) -> BTreeSet<ServiceKey> {
        let frontends = before.iter().chain(after).flat_map(|p| &p.frontends);
        let claimants = frontends.filter_map(|f| self.claims.get(&f.frontend)).flatten();
        claimants.filter(|other| *other != key).cloned().collect()
    }

    fn claim(&mut self, key: &ServiceKey, before: &[PortPlan], after: &[PortPlan]) {
        for old in before.iter().flat_map(|p| &p.frontends) {
            if let Some(claimants) = self.claims.get_mut(&old.frontend) {
                claimants.retain(|k| k != key);
                if claimants.is_empty() {
                    self.claims.remove(&old.frontend);
                }
            }
        }
        for new in after.iter().flat_map(|p| &p.frontends) {
            let claimants = self.claims.entry(new.frontend).or_insert_with(|| Vec::with_capacity(1));
            if let Err(at) = claimants.binary_search(key) {
                claimants.insert(at, key.clone());
            }
        }
    }

    /// The elements of a Service as its plan and the claims stand.
    fn render(&self, key: &ServiceKey) -> Rendered {
        let mut out = Rendered::default();
        for port in self.plan(key) {
            port_elements(port, &mut out);
            let wins = |f: &&FrontendPlan| self.claims.get(&f.frontend).and_then(|c| c.first()) == Some(key);
            for frontend in port.frontends.iter().filter(wins) {
                frontend_elements(port, frontend, &mut out);
            }
        }
        out
    }

    fn withdraw(&mut self, rendered: Rendered, delta: &mut Delta) {
        for class in rendered.classes {
            let count = self.classes.entry(class).or_default();
            lower(count);
            if *count == 0 {
                self.classes.remove(&class);
            }
        }
        for (family, place, element) in rendered.elements {
            if place.is_shared() {
                let id = (family, place, element.key);
                let count = self.shared.entry(id).or_default();
                lower(count);
                if *count > 0 {
                    continue;
                }
                self.shared.remove(&id);
            }
            delta.remove(family, place, element);
        }
    }

    fn place(&mut self, rendered: Rendered, delta: &mut Delta) {
        for class in rendered.classes {
            *self.classes.entry(class).or_default() += 1;
        }
        for (family, place, element) in rendered.elements {
            if place.is_shared() {
                let count = self.shared.entry((family, place, element.key)).or_default();
                *count += 1;
                if *count > 1 {
                    continue;
                }
            }
            delta.add(family, place, element);
        }
    }

    fn skeleton_of(&self, family: Family, classes: impl IntoIterator<Item = (Family, Class)>) -> skiff_nft::Table {
        let ours = classes.into_iter().filter(|(f, _)| *f == family).map(|(_, c)| c);
        skeleton::skeleton(family, &self.networks, ours)
    }

    fn skeleton_change(&self, before: &BTreeSet<(Family, Class)>) -> Batch {
        let mut batch = Batch::default();
        let now: BTreeSet<(Family, Class)> = self.classes.keys().copied().collect();
        if now == *before {
            return batch;
        }
        for id in self.table_refs() {
            let old = self.skeleton_of(id.family, before.iter().copied());
            let new = self.skeleton_of(id.family, now.iter().copied());
            batch.append(diff(&id, Some(&old), Some(&new)));
        }
        batch
    }

    /// The tables as they ought to be, whole.
    pub fn tables(&self) -> State {
        let classes = || self.classes.keys().copied();
        let mut state: State =
            self.table_refs().into_iter().map(|id| (id.clone(), self.skeleton_of(id.family, classes()))).collect();
        for key in self.plans.keys() {
            for (family, place, Element { key, value }) in self.render(key).elements {
                let table = state.get_mut(&TableRef::new(family, &self.table));
                let set = table.and_then(|t| t.sets.get_mut(place.set()));
                set.expect("every family has a table and every place a set").elements.insert(key, value);
            }
        }
        state
    }

    /// What builds the tables where there are none, part by part: first the chains, then Services, some at a time.
    pub fn create(&self, each: &mut dyn FnMut(&Batch)) {
        let mut skeletons = Batch::default();
        for id in self.table_refs() {
            skeletons.append(diff(&id, None, Some(&self.skeleton_of(id.family, self.classes.keys().copied()))));
        }
        each(&skeletons);
        let mut seen = HashSet::new();
        let mut keys = self.plans.keys().peekable();
        while keys.peek().is_some() {
            let mut delta = Delta::default();
            for (family, place, element) in
                keys.by_ref().take(SERVICES_PER_PART).flat_map(|key| self.render(key).elements)
            {
                if !place.is_shared() || seen.insert((family, place, element.key)) {
                    delta.add(family, place, element);
                }
            }
            each(&delta.into_batch(&self.table));
        }
    }
}

fn lower(count: &mut usize) {
    debug_assert!(*count > 0, "withdrawn more often than placed");
    *count = count.saturating_sub(1);
}
