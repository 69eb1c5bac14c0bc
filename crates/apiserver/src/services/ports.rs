//! The record of node ports: which Service has which, one key of the store for each, written in one commit with the
//! Service. So of two servers that give out one port at the same moment exactly one does. Not an object: the reference
//! shows nobody its port allocations either.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use skiff_store::{Entry, Error as StoreError, Expect, Rev, Write};

use super::taken::Owner;
use super::{Services, lock, owner};
use crate::Result;
use crate::storage::{self, Storage};

const PREFIX: &str = "/skiff/nodeports/";

fn key(port: u16) -> String {
    format!("{PREFIX}{port}")
}

pub(crate) fn port_of(key: &str) -> Option<u16> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

/// The record of a Service's new port; nobody may have one for it.
pub(super) fn allocation(port: u16, owner: &Owner) -> Write {
    Write { key: key(port).into(), value: Some(Bytes::copy_from_slice(owner.as_bytes())), expect: Expect::Absent }
}

/// The end of a port's record, if there is one and it is the Service's.
pub(super) async fn release(storage: &Storage, port: u16, owner: &Owner) -> Result<Option<Write>> {
    let found = storage.0.get(&key(port)).await.map_err(storage::status)?;
    let found = found.filter(|record| record.value == owner.as_bytes());
    Ok(found.map(|record| Write { key: record.key, value: None, expect: Expect::Rev(record.modified) }))
}

/// Who has which port as of a revision, as `NAMESPACE/NAME`.
pub(super) async fn records(storage: &Storage, at: Rev) -> Result<BTreeMap<u16, String>> {
    let page = storage.0.list(PREFIX, None, 0, Some(at)).await.map_err(storage::status)?;
    let record = |record: &Entry| Some((port_of(&record.key)?, String::from_utf8_lossy(&record.value).into_owned()));
    Ok(page.entries.iter().filter_map(record).collect())
}

/// Puts a record right: its owner's, or nobody's. Whatever comes in between is looked at the next time.
pub(super) async fn mend(storage: &Storage, port: u16, owner: Option<&str>) -> Result<()> {
    let found = storage.0.get(&key(port)).await.map_err(storage::status)?;
    let expect = found.as_ref().map_or(Expect::Absent, |record| Expect::Rev(record.modified));
    if found.is_none() && owner.is_none() {
        return Ok(());
    }
    let value = owner.map(|owner| Bytes::copy_from_slice(owner.as_bytes()));
    match storage.0.commit(vec![Write { key: key(port).into(), value, expect }]).await {
        Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(storage::status(error)),
    }
}

impl Services {
    /// A port was recorded, here or by another server.
    pub(crate) fn port_given(&self, port: u16, owner: &[u8]) {
        lock(&self.state).taken.port_given(port, &String::from_utf8_lossy(owner).as_ref().into());
    }

    /// A record is gone; it named `owner` if that is known.
    pub(crate) fn port_returned(&self, port: u16, owner: Option<&[u8]>) {
        let owner = owner.map(|owner| String::from_utf8_lossy(owner).as_ref().into());
        lock(&self.state).taken.port_returned(port, owner.as_ref());
    }

    /// What the store says of a port whose record was not as expected.
    pub(super) async fn relearn_port(&self, storage: &Storage, port: u16) -> Result<()> {
        match storage.0.get(&key(port)).await.map_err(storage::status)? {
            Some(record) => self.port_given(port, &record.value),
            None => self.port_returned(port, None),
        }
        Ok(())
    }

    /// A Service is gone, perhaps through another server.
    pub(crate) fn gone_elsewhere(&self, service: &Value) {
        lock(&self.state).taken.gone(&owner(service));
        self.dirty.notify_one();
    }
}
