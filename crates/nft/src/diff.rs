//! What must change for one table to become another: `apply(have, diff(have, want)) == want`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    batch::{Batch, Change},
    value::{Chain, Element, Set, Table, TableRef},
};

/// `None` means that the table does not exist. Elements of dynamic sets are left to the packets that make them.
pub fn diff(id: &TableRef, have: Option<&Table>, want: Option<&Table>) -> Batch {
    let mut batch = Batch::default();
    match (have, want) {
        (None, None) => {}
        (Some(_), None) => batch.push(id, Change::DeleteTable),
        (None, Some(want)) => create(&mut batch, id, want),
        (Some(have), Some(want)) if alterable(have, want) => alter(&mut batch, id, have, want),
        // A set or a hook cannot change its nature: one transaction takes the old table away and puts the new one there.
        (Some(_), Some(want)) => {
            batch.push(id, Change::DeleteTable);
            create(&mut batch, id, want);
        }
    }
    batch
}

fn alterable(have: &Table, want: &Table) -> bool {
    let sets = want.sets.iter().all(|(name, set)| have.sets.get(name).is_none_or(|h| h.spec == set.spec));
    let chains = want.chains.iter().all(|(name, c)| have.chains.get(name).is_none_or(|h| h.hook == c.hook));
    sets && chains
}

fn create(batch: &mut Batch, id: &TableRef, want: &Table) {
    batch.push(id, Change::CreateTable);
    alter(batch, id, &Table::default(), want);
}

/// Order matters to the kernel: nothing may refer to what is not there any more or not there yet.
fn alter(batch: &mut Batch, id: &TableRef, have: &Table, want: &Table) {
    let old_elements = |name: &String| have.sets.get(name).map(|s| &s.elements);
    for (name, set) in &have.sets {
        delete_elements(batch, id, name, set, want.sets.get(name));
    }
    for (name, set) in want.sets.iter().filter(|(name, _)| !have.sets.contains_key(*name)) {
        batch.push(id, Change::CreateSet { name: name.clone(), spec: set.spec.clone() });
    }
    batch.append(diff_chains(id, &have.chains, &want.chains));
    for name in have.sets.keys().filter(|name| !want.sets.contains_key(*name)) {
        batch.push(id, Change::DeleteSet { name: name.clone() });
    }
    for (name, set) in want.sets.iter().filter(|(_, set)| !set.spec.is_dynamic()) {
        let old = old_elements(name);
        let new = set.elements.iter().filter(|(k, v)| old.and_then(|o| o.get(*k)) != Some(*v));
        let elements: Vec<Element> = new.map(|(k, v)| Element { key: *k, value: v.clone() }).collect();
        if !elements.is_empty() {
            batch.push(id, Change::AddElements { set: name.as_str().into(), layout: set.spec.layout, elements });
        }
    }
}

fn delete_elements(batch: &mut Batch, id: &TableRef, name: &str, have: &Set, want: Option<&Set>) {
    if have.spec.is_dynamic() {
        return;
    }
    let keeps = |k, v| want.is_some_and(|w| w.elements.get(k) == Some(v));
    let gone = have.elements.iter().filter(|(k, v)| !keeps(*k, *v));
    let elements: Vec<Element> = gone.map(|(k, v)| Element { key: *k, value: v.clone() }).collect();
    if !elements.is_empty() {
        batch.push(id, Change::DeleteElements { set: name.into(), layout: have.spec.layout, elements });
    }
}

/// Only the chains and their rules, for a caller that knows the elements to be right but for verdicts to new chains.
pub fn diff_chains(id: &TableRef, have: &BTreeMap<String, Chain>, want: &BTreeMap<String, Chain>) -> Batch {
    let mut batch = Batch::default();
    let gone: BTreeSet<&String> = have.keys().filter(|name| !want.contains_key(*name)).collect();
    let differs = |(name, chain): &(&String, &Chain)| have.get(*name).is_none_or(|h| h.rules != chain.rules);
    let rewritten: Vec<(&String, &Chain)> = want.iter().filter(differs).collect();
    let flushed = rewritten.iter().map(|(name, _)| *name).filter(|name| have.contains_key(*name));
    for name in gone.iter().copied().chain(flushed) {
        batch.push(id, Change::FlushChain { name: name.clone() });
    }
    for name in gone {
        batch.push(id, Change::DeleteChain { name: name.clone() });
    }
    for (name, chain) in want.iter().filter(|(name, _)| !have.contains_key(*name)) {
        batch.push(id, Change::CreateChain { name: name.clone(), hook: chain.hook });
    }
    for (name, chain) in rewritten {
        for rule in &chain.rules {
            batch.push(id, Change::AddRule { chain: name.clone(), rule: rule.clone() });
        }
    }
    batch
}
