//! Carries the rules to the kernel. Remembers only what the kernel accepted: after a refusal, or when somebody else has
//! been at the tables, it reads them and commits the difference.

use std::{cell::Cell, collections::BTreeSet};

use skiff_nft::{Batch, Error, Kernel, Table, TableRef, diff};
use skiff_services::{model::ServiceKey, snapshot::Snapshot};

use crate::{
    conntrack::Cleanup,
    ruleset::{Networks, NodeView, Ruleset},
};

/// Elements in one message where the socket's buffer may not grow (in a user namespace).
const PIECE: usize = 1000;

#[derive(Debug)]
pub struct Syncer<K> {
    kernel: K,
    rules: Ruleset,
    /// The kernel holds exactly what `rules` say.
    in_step: bool,
    /// The number of the last transaction that we know of.
    generation: u32,
}

/// What a sync did.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    pub full: bool,
    pub elements: usize,
    /// None when any flow may be stale.
    pub cleanup: Option<Cleanup>,
}

impl<K: Kernel> Syncer<K> {
    pub fn new(kernel: K, rules: Ruleset) -> Self {
        Syncer { kernel, rules, in_step: false, generation: 0 }
    }

    pub fn rules(&self) -> &Ruleset {
        &self.rules
    }

    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// On an error the next call reads the tables and repairs everything, so nothing is lost by dropping `dirty`.
    pub fn sync(&mut self, dirty: &BTreeSet<ServiceKey>, snapshot: &Snapshot) -> Result<Report, Error> {
        if !self.in_step {
            self.rules.learn(dirty, snapshot);
            return self.settle(Batch::default(), None);
        }
        let mut cleanup = Cleanup::default();
        let before: Vec<_> = dirty.iter().map(|key| self.rules.plan(key).to_vec()).collect();
        let batch = self.rules.update(dirty, snapshot);
        for (key, before) in dirty.iter().zip(&before) {
            cleanup.compare(before, self.rules.plan(key));
        }
        self.settle(batch, Some(cleanup))
    }

    /// The same for a node or networks that have changed, which may change every Service.
    pub fn sync_node(&mut self, node: NodeView, networks: Networks, snapshot: &Snapshot) -> Result<Report, Error> {
        let batch = self.rules.rebuild(node, networks, snapshot);
        self.settle(batch, None)
    }

    fn settle(&mut self, batch: Batch, cleanup: Option<Cleanup>) -> Result<Report, Error> {
        if !self.in_step {
            let elements = self.full()?;
            return Ok(Report { full: true, elements, cleanup: None });
        }
        let elements = batch.element_count();
        if let Err(e) = self.commit(&batch) {
            self.in_step = false;
            return Err(e);
        }
        Ok(Report { full: false, elements, cleanup })
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let whole = self.kernel.commit(batch);
        if !matches!(whole, Err(Error::TooLong(_))) {
            return whole.map(|()| self.count_commit());
        }
        // Only without privileges: in order and from the inside out, so that every step on the way makes sense.
        batch.clone().split(PIECE).iter().try_for_each(|piece| self.commit_piece(piece))
    }

    fn commit_piece(&mut self, piece: &Batch) -> Result<(), Error> {
        self.kernel.commit(piece)?;
        self.count_commit();
        Ok(())
    }

    fn count_commit(&mut self) {
        // The kernel skips zero when it comes round.
        self.generation = self.generation.wrapping_add(1).max(1);
    }

    /// Makes the kernel's tables what they should be, whatever they are. How much there was to change.
    pub fn full(&mut self) -> Result<usize, Error> {
        self.generation = self.kernel.generation()?;
        self.in_step = false;
        let ids = self.rules.table_refs();
        let mut have: Vec<Option<Table>> = vec![];
        for id in &ids {
            have.push(self.kernel.dump(id)?);
        }
        let elements = if have.iter().all(Option::is_none) { self.create()? } else { self.repair(&ids, &have)? };
        self.in_step = true;
        Ok(elements)
    }

    fn create(&mut self) -> Result<usize, Error> {
        let (rules, elements) = (&self.rules, Cell::new(0));
        let whole = self.kernel.commit_parts(&|each| {
            elements.set(0);
            rules.create(&mut |part| {
                elements.set(elements.get() + part.element_count());
                each(part);
            });
        });
        if !matches!(whole, Err(Error::TooLong(_))) {
            whole?;
            self.count_commit();
            return Ok(elements.get());
        }
        // Only without privileges: Services appear a few at a time.
        let mut parts = vec![];
        self.rules.create(&mut |part| parts.extend(part.clone().split(PIECE)));
        parts.iter().try_for_each(|piece| self.commit_piece(piece))?;
        Ok(elements.get())
    }

    fn repair(&mut self, ids: &[TableRef], have: &[Option<Table>]) -> Result<usize, Error> {
        let want = self.rules.tables();
        let mut batch = Batch::default();
        for (id, have) in ids.iter().zip(have) {
            batch.append(diff(id, have.as_ref(), want.get(id)));
        }
        self.commit(&batch)?;
        Ok(batch.change_count())
    }

    /// Cheap enough for every quarter second: one number tells whether anybody has committed anything. True when the
    /// tables had to be repaired.
    pub fn check(&mut self) -> Result<bool, Error> {
        let now = self.kernel.generation()?;
        if !self.in_step || now == self.generation {
            return Ok(false);
        }
        let mut ours_alone = true;
        for id in self.rules.table_refs() {
            ours_alone &= self.kernel.exclusive(&id)?;
        }
        if ours_alone {
            self.generation = now;
            return Ok(false);
        }
        self.full().map(|changed| changed > 0)
    }
}
