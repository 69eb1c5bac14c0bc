//! Objects in the store: decoded on the way out, encoded on the way in, store errors in the API's words.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::resources::Resource;
use skiff_api::status::Status;
use skiff_store::{Error, Event, Expect, Rev, Store, Write};

use crate::Result;
use crate::object::{self, Object};

/// How often a transaction starts over when others write the same object.
pub(crate) const ATTEMPTS: usize = 32;

#[derive(Clone)]
pub(crate) struct Storage(pub Arc<dyn Store>);

/// Why an object was not written.
pub(crate) enum Miss {
    /// Somebody else wrote first: read again.
    Lost,
    /// Somebody else wrote what goes together with the object, under this key.
    Companion(String),
    Failed(Status),
}

impl Storage {
    pub(crate) async fn find(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Object>> {
        let entry = self.0.get(&object::key(resource, namespace, name)).await.map_err(status)?;
        entry.as_ref().map(|entry| Object::decode(resource, entry)).transpose()
    }

    pub(crate) async fn get(&self, resource: &Resource, namespace: Option<&str>, name: &str) -> Result<Object> {
        self.find(resource, namespace, name).await?.ok_or_else(|| Status::not_found(resource, name))
    }

    /// Every object of the resource, now.
    pub(crate) async fn all(&self, resource: &Resource, namespace: Option<&str>) -> Result<(Vec<Object>, Rev)> {
        self.all_at(resource, namespace, None).await
    }

    /// Every object of the resource as of a revision (None: now).
    pub(crate) async fn all_at(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        at: Option<Rev>,
    ) -> Result<(Vec<Object>, Rev)> {
        let page = self.0.list(&object::prefix(resource, namespace), None, 0, at).await.map_err(status)?;
        let objects = page.entries.iter().map(|entry| Object::decode(resource, entry)).collect::<Result<_>>()?;
        Ok((objects, page.rev))
    }

    pub(crate) async fn put(
        &self,
        resource: &Resource,
        key: &str,
        value: Value,
        expect: Expect,
    ) -> Result<Object, Miss> {
        self.put_with(resource, key, value, expect, Vec::new()).await
    }

    /// As [`Storage::put`], together with its companions: all are written or none.
    pub(crate) async fn put_with(
        &self,
        resource: &Resource,
        key: &str,
        mut value: Value,
        expect: Expect,
        companions: Vec<Write>,
    ) -> Result<Object, Miss> {
        let write = Write { key: key.into(), value: Some(object::encode(resource, &value)), expect };
        let rev = self.commit(write, companions).await?;
        object::set_resource_version(&mut value, rev);
        Ok(Object { value, rev })
    }

    pub(crate) async fn delete(&self, key: &str, rev: Rev, companions: Vec<Write>) -> Result<Rev, Miss> {
        self.commit(Write { key: key.into(), value: None, expect: Expect::Rev(rev) }, companions).await
    }

    /// The revision of the write. It comes last, so that who watches it finds its companions done.
    async fn commit(&self, write: Write, mut companions: Vec<Write>) -> Result<Rev, Miss> {
        let own = write.key.clone();
        companions.push(write);
        let events = self.0.commit(companions).await.map_err(|error| miss(error, &own))?;
        Ok(events.last().map_or(0, Event::rev))
    }
}

fn miss(error: Error, own: &str) -> Miss {
    match error {
        Error::Conflict { key, .. } | Error::NotFound { key } if key != own => Miss::Companion(key),
        Error::Conflict { .. } | Error::NotFound { .. } => Miss::Lost,
        other => Miss::Failed(status(other)),
    }
}

pub(crate) fn status(error: Error) -> Status {
    match error {
        Error::Compacted { asked, oldest } => Status::expired(format!("too old resource version: {asked} ({oldest})")),
        Error::Future { asked, newest } => {
            Status::timeout(format!("Too large resource version: {asked}, current: {newest}"))
        }
        other => Status::internal(format!("{other}")),
    }
}
