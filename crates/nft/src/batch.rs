//! Changes that happen all together or not at all, and what they do to tables as values: the kernel's own rules.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

use crate::{
    expr::Expr,
    value::{Chain, Data, Element, Hook, Layout, Rule, Set, SetSpec, Table, TableRef, Verdict},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Fine when it exists already.
    CreateTable,
    DeleteTable,
    CreateChain {
        name: String,
        hook: Option<Hook>,
    },
    FlushChain {
        name: String,
    },
    DeleteChain {
        name: String,
    },
    AddRule {
        chain: String,
        rule: Rule,
    },
    CreateSet {
        name: String,
        spec: SetSpec,
    },
    DeleteSet {
        name: String,
    },
    AddElements {
        set: Arc<str>,
        layout: Layout,
        elements: Vec<Element>,
    },
    DeleteElements {
        set: Arc<str>,
        layout: Layout,
        elements: Vec<Element>,
    },
}

impl Change {
    fn element_count(&self) -> usize {
        match self {
            Change::AddElements { elements, .. } | Change::DeleteElements { elements, .. } => elements.len(),
            _ => 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    pub changes: Vec<(TableRef, Change)>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn push(&mut self, table: &TableRef, change: Change) {
        self.changes.push((table.clone(), change));
    }

    pub fn append(&mut self, mut other: Batch) {
        self.changes.append(&mut other.changes);
    }

    /// How many single things change: every element counts, and every chain, rule and set.
    pub fn change_count(&self) -> usize {
        self.changes.iter().map(|(_, c)| c.element_count().max(1)).sum()
    }

    pub fn element_count(&self) -> usize {
        self.changes.iter().map(|(_, c)| c.element_count()).sum()
    }

    /// The same changes in several batches of at most `limit` elements (as far as single changes allow), in order. Only
    /// for changes that are right half done, such as filling a new table from the inside out.
    pub fn split(self, limit: usize) -> Vec<Batch> {
        let mut out = vec![];
        let mut current = Batch::default();
        let mut count = 0;
        for (table, change) in self.changes {
            for piece in pieces(change, limit) {
                let size = piece.element_count();
                if count + size > limit && count > 0 {
                    out.push(std::mem::take(&mut current));
                    count = 0;
                }
                count += size;
                current.push(&table, piece);
            }
        }
        out.push(current);
        out.retain(|b| !b.is_empty());
        out
    }
}

fn pieces(change: Change, limit: usize) -> Vec<Change> {
    match change {
        Change::AddElements { set, layout, elements } if elements.len() > limit => {
            let piece = |c: &[Element]| Change::AddElements { set: set.clone(), layout, elements: c.to_vec() };
            elements.chunks(limit).map(piece).collect()
        }
        Change::DeleteElements { set, layout, elements } if elements.len() > limit => {
            let piece = |c: &[Element]| Change::DeleteElements { set: set.clone(), layout, elements: c.to_vec() };
            elements.chunks(limit).map(piece).collect()
        }
        other => vec![other],
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::CreateTable => write!(f, "create table"),
            Change::DeleteTable => write!(f, "delete table"),
            Change::CreateChain { name, .. } => write!(f, "create chain {name}"),
            Change::FlushChain { name } => write!(f, "flush chain {name}"),
            Change::DeleteChain { name } => write!(f, "delete chain {name}"),
            Change::AddRule { chain, rule } => write!(f, "add rule \"{}\" to chain {chain}", rule.comment),
            Change::CreateSet { name, .. } => write!(f, "create set {name}"),
            Change::DeleteSet { name } => write!(f, "delete set {name}"),
            Change::AddElements { set, elements, .. } => write!(f, "add {} elements to {set}", elements.len()),
            Change::DeleteElements { set, elements, .. } => write!(f, "delete {} elements from {set}", elements.len()),
        }
    }
}

/// Every table of a network namespace that we know of.
pub type State = BTreeMap<TableRef, Table>;

/// What the kernel answers to a change that does not fit the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("{0} does not exist")]
    Absent(String),
    #[error("{0} exists already with other content")]
    Exists(String),
    #[error("{0} is still in use")]
    Busy(String),
}

/// The state after the batch; on an error nothing has changed.
pub fn apply(state: &State, batch: &Batch) -> Result<State, StateError> {
    let mut next = state.clone();
    for (table, change) in &batch.changes {
        apply_one(&mut next, table, change)?;
    }
    Ok(next)
}

fn apply_one(state: &mut State, id: &TableRef, change: &Change) -> Result<(), StateError> {
    match change {
        Change::CreateTable => {
            state.entry(id.clone()).or_default();
            return Ok(());
        }
        Change::DeleteTable => {
            return state.remove(id).map(|_| ()).ok_or_else(|| StateError::Absent(format!("table {id}")));
        }
        _ => {}
    }
    let table = state.get_mut(id).ok_or_else(|| StateError::Absent(format!("table {id}")))?;
    match change {
        Change::CreateChain { name, hook } => create_chain(table, name, *hook),
        Change::FlushChain { name } => chain_mut(table, name).map(|c| c.rules.clear()),
        Change::DeleteChain { name } => delete_chain(table, name),
        Change::AddRule { chain, rule } => {
            references_exist(table, rule)?;
            chain_mut(table, chain).map(|c| c.rules.push(rule.clone()))
        }
        Change::CreateSet { name, spec } => create_set(table, name, spec),
        Change::DeleteSet { name } => delete_set(table, name),
        Change::AddElements { set, elements, .. } => elements.iter().try_for_each(|e| add_element(table, set, e)),
        Change::DeleteElements { set, elements, .. } => {
            let target = table.sets.get_mut(&**set).ok_or_else(|| StateError::Absent(format!("set {set}")))?;
            let absent = |e: &Element| StateError::Absent(format!("element {:?} of {set}", e.key));
            elements.iter().try_for_each(|e| target.elements.remove(&e.key).map(|_| ()).ok_or_else(|| absent(e)))
        }
        Change::CreateTable | Change::DeleteTable => Ok(()),
    }
}

fn create_chain(table: &mut Table, name: &str, hook: Option<Hook>) -> Result<(), StateError> {
    match table.chains.entry(name.to_owned()) {
        Entry::Occupied(old) if old.get().hook != hook => Err(StateError::Exists(format!("chain {name}"))),
        Entry::Occupied(_) => Ok(()),
        Entry::Vacant(slot) => {
            slot.insert(Chain { hook, rules: vec![] });
            Ok(())
        }
    }
}

fn chain_mut<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut Chain, StateError> {
    table.chains.get_mut(name).ok_or_else(|| StateError::Absent(format!("chain {name}")))
}

fn create_set(table: &mut Table, name: &str, spec: &SetSpec) -> Result<(), StateError> {
    let set = table.sets.entry(name.to_owned()).or_insert_with(|| Set { spec: spec.clone(), ..Set::default() });
    if set.spec == *spec { Ok(()) } else { Err(StateError::Exists(format!("set {name}"))) }
}

fn delete_set(table: &mut Table, name: &str) -> Result<(), StateError> {
    let used = |r: &Rule| r.exprs.iter().any(|e| set_of(e) == Some(name));
    if table.chains.values().flat_map(|c| &c.rules).any(used) {
        return Err(StateError::Busy(format!("set {name}")));
    }
    table.sets.remove(name).map(|_| ()).ok_or_else(|| StateError::Absent(format!("set {name}")))
}

fn delete_chain(table: &mut Table, name: &str) -> Result<(), StateError> {
    let to_it = |v: &Verdict| chain_of(v) == Some(name);
    let by_rule = |r: &Rule| r.exprs.iter().any(|e| matches!(e, Expr::Verdict(v) if to_it(v)));
    let by_element = |s: &Set| s.elements.values().any(|v| matches!(&v.data, Data::Verdict(v) if to_it(v)));
    if table.chains.values().flat_map(|c| &c.rules).any(by_rule) || table.sets.values().any(by_element) {
        return Err(StateError::Busy(format!("chain {name}")));
    }
    table.chains.remove(name).map(|_| ()).ok_or_else(|| StateError::Absent(format!("chain {name}")))
}

fn set_of(e: &Expr) -> Option<&str> {
    match e {
        Expr::Lookup { set, .. } | Expr::Dynset { set, .. } => Some(set),
        _ => None,
    }
}

fn chain_of(v: &Verdict) -> Option<&str> {
    match v {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

fn references_exist(table: &Table, rule: &Rule) -> Result<(), StateError> {
    for e in &rule.exprs {
        if let Some(set) = set_of(e).filter(|s| !table.sets.contains_key(*s)) {
            return Err(StateError::Absent(format!("set {set}")));
        }
        if let Expr::Verdict(v) = e {
            target_exists(table, v)?;
        }
    }
    Ok(())
}

fn target_exists(table: &Table, v: &Verdict) -> Result<(), StateError> {
    match chain_of(v) {
        Some(chain) if !table.chains.contains_key(chain) => Err(StateError::Absent(format!("chain {chain}"))),
        _ => Ok(()),
    }
}

fn add_element(table: &mut Table, set: &str, e: &Element) -> Result<(), StateError> {
    if let Data::Verdict(v) = &e.value.data {
        target_exists(table, v)?;
    }
    let target = table.sets.get_mut(set).ok_or_else(|| StateError::Absent(format!("set {set}")))?;
    match target.elements.entry(e.key) {
        Entry::Occupied(old) if old.get().data != e.value.data || old.get().end != e.value.end => {
            Err(StateError::Exists(format!("element {:?} of {set}", e.key)))
        }
        // As in the kernel: adding what is there is fine and does not touch its comment.
        Entry::Occupied(_) => Ok(()),
        Entry::Vacant(slot) => {
            slot.insert(e.value.clone());
            Ok(())
        }
    }
}
