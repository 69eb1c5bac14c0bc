//! What Services hold of the cluster: addresses and node ports. Held in memory, filled from the store at the start; an
//! address is taken before the write and given back when the write fails, so no two Services get the same one. What is
//! given out is decided in `skiff_services::alloc`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use skiff_api::resources::{self, Resource};
use skiff_api::status::Status;
use skiff_services::alloc::{self, Pools};

use crate::storage::Storage;
use crate::{Config, Error, Result, object};

/// What a Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub ips: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
}

impl Holdings {
    fn of(service: &Value) -> Holdings {
        let claims = alloc::claims(service);
        Holdings { ips: claims.ips.into_iter().collect(), ports: claims.ports.into_iter().collect() }
    }

    fn without(&self, other: &Holdings) -> Holdings {
        Holdings { ips: &self.ips - &other.ips, ports: &self.ports - &other.ports }
    }
}

/// What is taken, with the Service that has it and how many of its writes hold it: two writes of one Service may ask for
/// the same number at once, and the one that loses must not take it from the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    ips: BTreeMap<IpAddr, (Owner, u32)>,
    ports: BTreeMap<u16, (Owner, u32)>,
}

/// `NAMESPACE/NAME`.
pub(crate) type Owner = Arc<str>;

pub(crate) struct Services {
    pools: Pools,
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
        if config.service_cidrs.is_empty() {
            return Err(Error::NoServiceRange);
        }
        let pools = Pools { service_cidrs: config.service_cidrs.clone(), node_ports: config.node_port_range.clone() };
        let resource = resources::find("", "v1", "services").ok_or(Error::NoServiceRange)?;
        let (all, _) = storage.all(resource, None).await.map_err(Error::Services)?;
        let mut taken = Taken::default();
        for service in &all {
            taken.add(&Holdings::of(&service.value), &owner(&service.value));
        }
        Ok(Services { pools, taken: Arc::new(Mutex::new(taken)) })
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
        let owner = owner(new);
        let mut taken = lock(&self.taken);
        let others = Others { taken: &taken, owner: &owner };
        if let Err(errors) = alloc::fill(new, old, &self.pools, &others, &mut rand::random) {
            return Err(refusal(resource, object::name(new), errors));
        }
        if dry_run {
            return Ok(Held::default());
        }
        let (have, want) = (old.map(Holdings::of).unwrap_or_default(), Holdings::of(new));
        let added = want.without(&have);
        taken.add(&added, &owner);
        Ok(Held { taken: Some(self.taken.clone()), old: have.without(&want), new: added })
    }

    /// A removed Service gives everything back.
    pub(crate) fn release(&self, resource: &Resource, value: &Value) {
        if resource.id() == ("", "services") {
            lock(&self.taken).remove(&Holdings::of(value));
        }
    }
}

/// The client's mistakes if there are any, otherwise what the cluster has run out of.
fn refusal(resource: &Resource, name: &str, errors: Vec<alloc::Error>) -> Status {
    let (mut invalid, mut exhausted) = (Vec::new(), None);
    for error in errors {
        match error {
            alloc::Error::Invalid(error) => invalid.push(error),
            alloc::Error::Exhausted(why) => exhausted = Some(why),
        }
    }
    match exhausted {
        Some(why) if invalid.is_empty() => Status::internal(why),
        _ => Status::invalid(resource, name, invalid),
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

/// What anybody but one Service has.
struct Others<'a> {
    taken: &'a Taken,
    owner: &'a Owner,
}

impl alloc::Taken for Others<'_> {
    fn ip(&self, ip: IpAddr) -> bool {
        self.taken.ips.get(&ip).is_some_and(|(owner, _)| owner != self.owner)
    }

    fn port(&self, port: u16) -> bool {
        self.taken.ports.get(&port).is_some_and(|(owner, _)| owner != self.owner)
    }
}

impl Taken {
    fn add(&mut self, holdings: &Holdings, owner: &Owner) {
        for ip in &holdings.ips {
            self.ips.entry(*ip).or_insert_with(|| (owner.clone(), 0)).1 += 1;
        }
        for port in &holdings.ports {
            self.ports.entry(*port).or_insert_with(|| (owner.clone(), 0)).1 += 1;
        }
    }

    fn remove(&mut self, holdings: &Holdings) {
        holdings.ips.iter().for_each(|ip| let_go(&mut self.ips, ip));
        holdings.ports.iter().for_each(|port| let_go(&mut self.ports, port));
    }
}

fn let_go<K: Ord>(taken: &mut BTreeMap<K, (Owner, u32)>, key: &K) {
    if let Some((_, holds)) = taken.get_mut(key) {
        *holds -= 1;
        if *holds == 0 {
            taken.remove(key);
        }
    }
}

fn owner(value: &Value) -> Owner {
    format!("{}/{}", object::namespace(value), object::name(value)).into()
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writes_of_one_service_hold_a_port_twice() {
        let (mut taken, me, you): (_, Owner, Owner) = (Taken::default(), "d/me".into(), "d/you".into());
        let port = Holdings { ports: [31000].into(), ..Holdings::default() };
        taken.add(&port, &me);
        taken.add(&port, &me);
        taken.remove(&port);
        assert!(alloc::Taken::port(&Others { taken: &taken, owner: &you }, 31000));
        assert!(!alloc::Taken::port(&Others { taken: &taken, owner: &me }, 31000));
        taken.remove(&port);
        assert!(!alloc::Taken::port(&Others { taken: &taken, owner: &you }, 31000));
    }
}
