//! What the feed has told since the last sync.

use std::{collections::BTreeSet, net::IpAddr};

use skiff_client::feed::{Change, Lists};
use skiff_services::{model::ServiceKey, snapshot::Snapshot};

#[derive(Debug, Default)]
pub struct Observed {
    pub snapshot: Snapshot,
    pub dirty: BTreeSet<ServiceKey>,
    /// When the changes since the last sync were triggered (RFC 3339), as their slices say.
    pub triggers: Vec<String>,
    pub service_changes: usize,
    pub endpoint_changes: usize,
    lists: Lists,
}

/// More are not kept: they only feed a metric.
const MAX_TRIGGERS: usize = 1000;

impl Observed {
    /// Both lists have arrived: before that, absence means nothing.
    pub fn is_complete(&self) -> bool {
        self.lists.is_complete()
    }

    /// Whether new connections may come to this address: it stands in a slice, ready and not on its way out.
    pub fn is_ready(&self, ip: IpAddr) -> bool {
        let slices = self.snapshot.iter().flat_map(|(_, entry)| entry.slices.values());
        slices.flat_map(|s| &s.endpoints).any(|e| e.ip == ip && e.ready && !e.terminating)
    }

    pub fn take(&mut self, change: Change) {
        let counter = match &change {
            Change::Service(_) => &mut self.service_changes,
            Change::Slice(_) => &mut self.endpoint_changes,
        };
        let touched = self.lists.apply(&mut self.snapshot, change);
        *counter += touched.dirty.len();
        if self.triggers.len() < MAX_TRIGGERS {
            self.triggers.extend(touched.trigger);
        }
        self.dirty.extend(touched.dirty);
    }
}
