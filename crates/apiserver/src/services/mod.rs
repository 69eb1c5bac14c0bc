//! What Services hold of the cluster: addresses and node ports. Held in memory, filled from the store at the start; an
//! address is taken before the write and given back when the write fails, so no two Services get the same one.

mod alloc;
mod plan;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use skiff_api::resources::{self, Resource};
use skiff_api::status::Status;

use crate::storage::Storage;
use crate::{Config, Error, Result, object};
pub(crate) use plan::{Holdings, Ranges};

/// What is taken, with the Service that has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pub ips: BTreeMap<IpAddr, Owner>,
    pub ports: BTreeMap<u16, Owner>,
}

/// `NAMESPACE/NAME`.
pub(crate) type Owner = Arc<str>;

pub(crate) struct Services {
    ranges: Ranges,
    taken: Arc<Mutex<Taken>>,
}

/// What a write took on top and will give back: given back when dropped, kept or let go when the write succeeded.
#[derive(Default)]
pub(crate) struct Held {
    taken: Option<Arc<Mutex<Taken>>>,
    new: Holdings,
    old: Holdings,
}

impl Services {
    pub(crate) async fn load(config: &Config, storage: &Storage) -> Result<Services, Error> {
        let ranges = Ranges::of(config)?;
        let resource = resources::find("", "v1", "services").ok_or(Error::NoServiceRange)?;
        let (all, _) = storage.all(resource, None).await.map_err(Error::Services)?;
        let mut taken = Taken::default();
        for service in &all {
            taken.add(&Holdings::of(&service.value), &owner(&service.value));
        }
        Ok(Services { ranges, taken: Arc::new(Mutex::new(taken)) })
    }

    /// Completes a Service with what it needs. Anything else passes untouched.
    pub(crate) fn reserve(
        &self,
        resource: &Resource,
        old: Option<&Value>,
        new: &mut Value,
        dry_run: bool,
    ) -> Result<Held> {
        if resource.id() != ("", "services") {
            return Ok(Held::default());
        }
        let mut taken = lock(&self.taken);
        let errors = plan::complete(&self.ranges, &taken, old, new);
        if !errors.is_empty() {
            return Err(Status::invalid(resource, object::name(new), errors));
        }
        if dry_run {
            return Ok(Held::default());
        }
        let (have, want) = (old.map(Holdings::of).unwrap_or_default(), Holdings::of(new));
        let added = want.without(&have);
        taken.add(&added, &owner(new));
        Ok(Held { taken: Some(self.taken.clone()), old: have.without(&want), new: added })
    }

    /// A removed Service gives everything back.
    pub(crate) fn release(&self, resource: &Resource, value: &Value) {
        if resource.id() == ("", "services") {
            lock(&self.taken).remove(&Holdings::of(value));
        }
    }
}

impl Held {
    /// The write happened.
    pub(crate) fn keep(mut self) {
        if let Some(taken) = self.taken.take() {
            lock(&taken).remove(&self.old);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(taken) = &self.taken {
            lock(taken).remove(&self.new);
        }
    }
}

impl Taken {
    fn add(&mut self, holdings: &Holdings, owner: &Owner) {
        self.ips.extend(holdings.ips.iter().map(|ip| (*ip, owner.clone())));
        self.ports.extend(holdings.ports.iter().map(|port| (*port, owner.clone())));
    }

    fn remove(&mut self, holdings: &Holdings) {
        for ip in &holdings.ips {
            self.ips.remove(ip);
        }
        for port in &holdings.ports {
            self.ports.remove(port);
        }
    }
}

fn owner(value: &Value) -> Owner {
    format!("{}/{}", object::namespace(value), object::name(value)).into()
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}
