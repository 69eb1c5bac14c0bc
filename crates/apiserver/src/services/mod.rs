//! What Services hold of the cluster: addresses and node ports. What is given out is decided in `skiff_services::alloc`.
//!
//! The truth about addresses is the IPAddress objects: one is written together with the Service that gets the address, all
//! or nothing, so of two writers of one address exactly one wins, whoever they are. What is taken is also held in memory,
//! filled from the store at the start: it makes choosing cheap, and is taken before the write and given back when that
//! fails. Node ports have no objects but records of their own (`ports`), written in the same way. Of what other servers on
//! the store give out memory is told by `follow`.

mod keeper;
pub(crate) mod ports;
mod taken;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use skiff_api::resources::{self, Resource};
use skiff_api::status::Status;
use skiff_services::alloc::{self, Pools, Ranges};
use skiff_store::{Expect, Write};
use tokio::sync::Notify;

use crate::call::Call;
use crate::metrics::Page;
use crate::storage::Storage;
use crate::{Config, Error, Result, object};

pub(crate) use keeper::{keep, look};
use taken::{Holdings, Others, Taken};

pub(crate) const GROUP: &str = "networking.k8s.io";

pub(crate) struct Services {
    node_ports: std::ops::RangeInclusive<u16>,
    state: Arc<Mutex<State>>,
    /// Something changed that the keeper has to look at.
    dirty: Arc<Notify>,
    /// The keeper has been through once.
    tidied: AtomicBool,
}

#[derive(Default)]
struct State {
    taken: Taken,
    ranges: Ranges,
}

/// What a write took on top and will give back: given back when dropped, kept or let go when the write succeeded.
#[derive(Default)]
pub(crate) struct Held {
    state: Option<Arc<Mutex<State>>>,
    new: Holdings,
    old: Holdings,
    /// What is to be written together with the Service.
    pub writes: Vec<Write>,
}

impl Services {
    pub(crate) async fn load(config: &Config, storage: &Storage) -> Result<Services, Error> {
        if config.service_cidrs.is_empty() {
            return Err(Error::NoServiceRange);
        }
        let state = Arc::new(Mutex::new(State::default()));
        let services = Services {
            node_ports: config.node_port_range.clone(),
            state,
            dirty: Arc::default(),
            tidied: AtomicBool::new(false),
        };
        for (group, plural) in [("", "services"), (GROUP, "servicecidrs"), (GROUP, "ipaddresses")] {
            let resource = resources::find(group, "v1", plural).ok_or(Error::NoServiceRange)?;
            let (all, _) = storage.all(resource, None).await.map_err(Error::Services)?;
            all.iter().for_each(|o| services.load_one(resource, &o.value));
        }
        Ok(services)
    }

    fn load_one(&self, resource: &Resource, value: &Value) {
        match resource.plural {
            "services" => lock(&self.state).taken.add(&Holdings::of(value), &owner(value)),
            _ => self.learn(resource, value),
        }
    }

    pub(crate) fn is_tidied(&self) -> bool {
        self.tidied.load(Ordering::Acquire)
    }

    /// A range or an address was written. What a Service has is known from its own write.
    pub(crate) fn learn(&self, resource: &Resource, value: &Value) {
        match resource.id() {
            (GROUP, "servicecidrs") => lock(&self.state).ranges.learn(value),
            (GROUP, "ipaddresses") => lock(&self.state).taken.learn(value),
            _ => return,
        }
        self.dirty.notify_one();
    }

    /// A range, an address or a Service is gone.
    pub(crate) fn forget(&self, resource: &Resource, value: &Value) {
        let mut state = lock(&self.state);
        match resource.id() {
            ("", "services") => {
                let holdings = Holdings::of(value);
                state.taken.remove(&holdings);
                state.taken.release(&holdings);
                if state.ranges.terminating().is_empty() {
                    return;
                }
            }
            (GROUP, "servicecidrs") => state.ranges.forget(object::name(value)),
            (GROUP, "ipaddresses") => state.taken.forget(object::name(value)),
            _ => return,
        }
        self.dirty.notify_one();
    }

    /// Another server gave an address away or took it back, or a client did so by hand: what the store has under the key is
    /// what counts.
    pub(crate) async fn relearn(&self, storage: &Storage, key: &str) -> Result<()> {
        if let Some(port) = ports::port_of(key) {
            return self.relearn_port(storage, port).await;
        }
        let resource = addresses()?;
        let Some(name) = key.strip_prefix(&object::resource_prefix(resource)) else { return Ok(()) };
        match storage.find(resource, None, name).await? {
            Some(address) => lock(&self.state).taken.learn(&address.value),
            None => lock(&self.state).taken.forget(name),
        }
        Ok(())
    }

    /// Completes a Service with what it needs. Anything else passes untouched.
    pub(crate) async fn reserve(&self, call: &Call, old: Option<&Value>, new: &mut Value) -> Result<Held> {
        if call.resource().id() != ("", "services") {
            return Ok(Held::default());
        }
        let mut held = self.choose_knowing(call, old, new).await?;
        let (service, owner) = (&*new, owner(new));
        for ip in &held.new.ips {
            held.writes.push(allocation(call, *ip, service)?);
        }
        held.writes.extend(held.new.ports.iter().map(|port| ports::allocation(*port, &owner)));
        let mut released = ends(call, &held.old, service).await?;
        held.writes.append(&mut released);
        Ok(held)
    }

    /// A refusal is as true as the memory is new: among several servers it is made sure of first.
    async fn choose_knowing(&self, call: &Call, old: Option<&Value>, new: &mut Value) -> Result<Held> {
        let wanted = call.server.config.shared.then(|| new.clone());
        match (self.choose(call, old, new), wanted) {
            (Err(_), Some(wanted)) => {
                call.server.followed.catch_up(call.storage()).await?;
                *new = wanted;
                self.choose(call, old, new)
            }
            (chosen, _) => chosen,
        }
    }

    /// Everything in memory, at once: nobody else can choose in between.
    fn choose(&self, call: &Call, old: Option<&Value>, new: &mut Value) -> Result<Held> {
        let owner = owner(new);
        let mut state = lock(&self.state);
        let pools = Pools { service_cidrs: state.ranges.usable(), node_ports: self.node_ports.clone() };
        let others = Others { taken: &state.taken, owner: &owner };
        if let Err(errors) = alloc::fill(new, old, &pools, &others, &mut rand::random) {
            return Err(refusal(call.resource(), object::name(new), errors));
        }
        if call.dry_run {
            return Ok(Held::default());
        }
        let (have, want) = (old.map(Holdings::of).unwrap_or_default(), Holdings::of(new));
        let (new, old) = (want.without(&have), have.without(&want));
        state.taken.add(&new, &owner);
        Ok(Held { state: Some(self.state.clone()), new, old, writes: Vec::new() })
    }

    /// The allocators, under the names of the reference.
    pub(crate) fn write_metrics(&self, page: &mut Page) {
        let state = lock(&self.state);
        let allocated = |range: &ipnet::IpNet| {
            state.taken.of_services().filter(|ip| range.contains(ip)).collect::<BTreeSet<_>>().len()
        };
        let name = "kube_apiserver_clusterip_allocator_allocated_ips";
        page.head(name, "gauge", "Addresses of a range that Services have.");
        for range in state.ranges.usable() {
            page.line(format_args!("{name}{{cidr=\"{range}\"}} {}", allocated(&range)));
        }
        let name = "kube_apiserver_clusterip_allocator_available_ips";
        page.head(name, "gauge", "Addresses of a range that are left.");
        for range in state.ranges.usable() {
            let left = alloc::size(&range).saturating_sub(allocated(&range) as u128);
            page.line(format_args!("{name}{{cidr=\"{range}\"}} {left}"));
        }
        let (held, all) = (state.taken.port_count(), self.node_ports.clone().count());
        page.gauge("kube_apiserver_nodeport_allocator_allocated_ports", "Node ports that Services have.", held);
        page.gauge(
            "kube_apiserver_nodeport_allocator_available_ports",
            "Node ports that are left.",
            all.saturating_sub(held),
        );
    }

    /// What goes together with a Service.
    pub(crate) async fn releases(&self, call: &Call, service: &Value) -> Result<Vec<Write>> {
        if call.resource().id() != ("", "services") {
            return Ok(Vec::new());
        }
        ends(call, &Holdings::of(service), service).await
    }
}

/// The ends of the IPAddresses and records of what a Service had.
async fn ends(call: &Call, holdings: &Holdings, service: &Value) -> Result<Vec<Write>> {
    let (mut writes, owner) = (Vec::new(), owner(service));
    for ip in &holdings.ips {
        writes.extend(release(call, *ip, service).await?);
    }
    for port in &holdings.ports {
        writes.extend(ports::release(call.storage(), *port, &owner).await?);
    }
    Ok(writes)
}

fn addresses() -> Result<&'static Resource> {
    resources::find(GROUP, "v1", "ipaddresses").ok_or_else(|| Status::internal("ipaddresses are not served"))
}

fn address_key(ip: IpAddr) -> Result<String> {
    Ok(object::key(addresses()?, None, &ip.to_string()))
}

/// The IPAddress of a Service's new address; nobody may have one for it.
fn allocation(call: &Call, ip: IpAddr, service: &Value) -> Result<Write> {
    let mut address = alloc::ip_address(ip, object::namespace(service), object::name(service));
    let meta = object::meta_mut(&mut address);
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), object::time(call.now));
    let value = object::encode(addresses()?, &address);
    Ok(Write { key: address_key(ip)?.into(), value: Some(value), expect: Expect::Absent })
}

/// The end of an address's IPAddress, if there is one and it is the Service's.
async fn release(call: &Call, ip: IpAddr, service: &Value) -> Result<Option<Write>> {
    let found = call.storage().find(addresses()?, None, &ip.to_string()).await?;
    let own = Some((object::namespace(service), object::name(service)));
    let found = found.filter(|address| alloc::service_of(&address.value) == own);
    let key = address_key(ip)?;
    Ok(found.map(|address| Write { key: key.into(), value: None, expect: Expect::Rev(address.rev) }))
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
        if let Some(state) = self.state.take() {
            let mut state = lock(&state);
            state.taken.remove(&self.old);
            state.taken.release(&self.old);
            state.taken.allocate(&self.new);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            lock(state).taken.remove(&self.new);
        }
    }
}

fn owner(value: &Value) -> taken::Owner {
    format!("{}/{}", object::namespace(value), object::name(value)).into()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
