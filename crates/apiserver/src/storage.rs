//! Objects in the store: decoded on the way out, encoded on the way in, store errors in the API's words.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::resources::Resource;
use skiff_api::status::Status;
use skiff_store::{Error, Expect, Rev, Store};

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
        let page = self.0.list(&object::prefix(resource, namespace), None, 0, None).await.map_err(status)?;
        let objects = page.entries.iter().map(|entry| Object::decode(resource, entry)).collect::<Result<_>>()?;
        Ok((objects, page.rev))
    }

    pub(crate) async fn put(
        &self,
        resource: &Resource,
        key: &str,
        mut value: Value,
        expect: Expect,
    ) -> Result<Object, Miss> {
        let entry = self.0.put(key, object::encode(resource, &value), expect).await.map_err(miss)?;
        object::set_resource_version(&mut value, entry.modified);
        Ok(Object { value, rev: entry.modified })
    }

    pub(crate) async fn delete(&self, key: &str, rev: Rev) -> Result<Rev, Miss> {
        match self.0.delete(key, Expect::Rev(rev)).await {
            Ok((rev, _)) => Ok(rev),
            Err(Error::NotFound { .. }) => Err(Miss::Lost),
            Err(e) => Err(miss(e)),
        }
    }
}

fn miss(error: Error) -> Miss {
    match error {
        Error::Conflict { .. } => Miss::Lost,
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
