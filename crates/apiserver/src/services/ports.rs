//! The record of node ports: which Service has which, one key of the store for each, written in one commit with the
//! Service. So of two servers that give out one port at the same moment exactly one does. Not an object: the reference
//! shows nobody its port allocations either.

use bytes::Bytes;
use serde_json::Value;
use skiff_api::resources;
use skiff_store::{Error as StoreError, Expect, Write};

use super::taken::{Holdings, Owner};
use super::{Services, lock, owner};
use crate::storage::{self, Storage};
use crate::{Error, Result};

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

/// Gives records to the ports of Services that are older than the record, and takes those away that no Service has.
pub(super) async fn complete(storage: &Storage) -> Result<(), Error> {
    let services = resources::find("", "v1", "services").ok_or(Error::NoServiceRange)?;
    let records = storage.0.list(PREFIX, None, 0, None).await?;
    let (all, _) = storage.all_at(services, None, Some(records.rev)).await.map_err(Error::Services)?;
    let mut records: std::collections::BTreeMap<_, _> =
        records.entries.into_iter().filter_map(|record| Some((port_of(&record.key)?, record))).collect();
    let mut writes = Vec::new();
    for service in &all {
        let owner = owner(&service.value);
        for port in Holdings::of(&service.value).ports {
            match records.remove(&port) {
                Some(record) if record.value == owner.as_bytes() => {}
                // Two Services with one port, in a store that was edited: the record stays with whom it names.
                Some(_) => {}
                None => writes.push(allocation(port, &owner)),
            }
        }
    }
    let orphans = records.into_values();
    writes.extend(orphans.map(|record| Write { key: record.key, value: None, expect: Expect::Rev(record.modified) }));
    for write in writes {
        match storage.0.commit(vec![write]).await {
            // Another server was faster, or a port has two Services.
            Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
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
