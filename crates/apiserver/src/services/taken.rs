//! What is taken, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use skiff_services::alloc;

use crate::object;

/// What a Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    pub ips: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
}

impl Holdings {
    pub(super) fn of(service: &Value) -> Holdings {
        let claims = alloc::claims(service);
        Holdings { ips: claims.ips.into_iter().collect(), ports: claims.ports.into_iter().collect() }
    }

    pub(super) fn without(&self, other: &Holdings) -> Holdings {
        Holdings { ips: &self.ips - &other.ips, ports: &self.ports - &other.ports }
    }
}

/// What is taken, with the Service that has it and how many of its writes hold it: two writes of one Service may ask for
/// the same number at once, and the one that loses must not take it from the other. Beside that the IPAddress objects that
/// there are, and whether the allocator made them.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    ips: BTreeMap<IpAddr, (Owner, u32)>,
    ports: BTreeMap<u16, (Owner, u32)>,
    objects: BTreeMap<IpAddr, bool>,
}

/// `NAMESPACE/NAME`.
pub(super) type Owner = Arc<str>;

/// What anybody but one Service has.
pub(super) struct Others<'a> {
    pub taken: &'a Taken,
    pub owner: &'a Owner,
}

impl alloc::Taken for Others<'_> {
    fn ip(&self, ip: IpAddr) -> bool {
        let held = self.taken.ips.get(&ip);
        held.is_some_and(|(owner, _)| owner != self.owner) || self.taken.objects.contains_key(&ip)
    }

    fn port(&self, port: u16) -> bool {
        self.taken.ports.get(&port).is_some_and(|(owner, _)| owner != self.owner)
    }
}

impl Taken {
    pub(super) fn add(&mut self, holdings: &Holdings, owner: &Owner) {
        for ip in &holdings.ips {
            self.ips.entry(*ip).or_insert_with(|| (owner.clone(), 0)).1 += 1;
        }
        for port in &holdings.ports {
            self.ports.entry(*port).or_insert_with(|| (owner.clone(), 0)).1 += 1;
        }
    }

    pub(super) fn remove(&mut self, holdings: &Holdings) {
        holdings.ips.iter().for_each(|ip| let_go(&mut self.ips, ip));
        holdings.ports.iter().for_each(|port| let_go(&mut self.ports, port));
    }

    /// The IPAddresses of these were written.
    pub(super) fn allocate(&mut self, holdings: &Holdings) {
        self.objects.extend(holdings.ips.iter().map(|ip| (*ip, true)));
    }

    /// The IPAddresses of these are gone.
    pub(super) fn release(&mut self, holdings: &Holdings) {
        for ip in holdings.ips.iter() {
            if self.objects.get(ip) == Some(&true) {
                self.objects.remove(ip);
            }
        }
    }

    pub(super) fn learn(&mut self, address: &Value) {
        if let Ok(ip) = object::name(address).parse() {
            self.objects.insert(ip, alloc::is_managed(address));
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Ok(ip) = name.parse::<IpAddr>() {
            self.objects.remove(&ip);
        }
    }

    /// The store says who has a port. Who asks for it at the moment keeps asking.
    pub(super) fn port_given(&mut self, port: u16, owner: &Owner) {
        match self.ports.get(&port) {
            Some((holder, _)) if holder == owner => {}
            _ => drop(self.ports.insert(port, (owner.clone(), 1))),
        }
    }

    /// The store says that nobody has a port, or no more who is named.
    pub(super) fn port_returned(&mut self, port: u16, owner: Option<&Owner>) {
        if self.ports.get(&port).is_some_and(|(holder, _)| owner.is_none_or(|owner| owner == holder)) {
            self.ports.remove(&port);
        }
    }

    /// A Service is gone with all that it had.
    pub(super) fn gone(&mut self, owner: &Owner) {
        self.ips.retain(|_, (holder, _)| holder != owner);
        self.ports.retain(|_, (holder, _)| holder != owner);
    }

    pub(super) fn port_count(&self) -> usize {
        self.ports.len()
    }

    /// Addresses of Services, those of writes under way among them.
    pub(super) fn of_services(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let managed = self.objects.iter().filter(|(_, managed)| **managed).map(|(ip, _)| *ip);
        self.ips.keys().copied().chain(managed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn is_taken(taken: &Taken, owner: &Owner, port: u16) -> bool {
        alloc::Taken::port(&Others { taken, owner }, port)
    }

    #[test]
    fn two_writes_of_one_service_hold_a_port_twice() {
        let (mut taken, me, you): (_, Owner, Owner) = (Taken::default(), "d/me".into(), "d/you".into());
        let port = Holdings { ports: [31000].into(), ..Holdings::default() };
        taken.add(&port, &me);
        taken.add(&port, &me);
        taken.remove(&port);
        assert!(is_taken(&taken, &you, 31000) && !is_taken(&taken, &me, 31000));
        taken.remove(&port);
        assert!(!is_taken(&taken, &you, 31000));
    }

    #[test]
    fn an_address_object_takes_the_address_from_everybody() {
        let (mut taken, me): (_, Owner) = (Taken::default(), "d/me".into());
        let address = json!({"metadata": {"name": "10.0.0.1"}});
        taken.learn(&address);
        let ip = "10.0.0.1".parse().unwrap();
        assert!(alloc::Taken::ip(&Others { taken: &taken, owner: &me }, ip));
        assert_eq!(taken.of_services().count(), 0, "it is not the allocator's");
        taken.release(&Holdings { ips: [ip].into(), ..Holdings::default() });
        assert!(alloc::Taken::ip(&Others { taken: &taken, owner: &me }, ip), "nor does a Service take it along");
        taken.forget("10.0.0.1");
        assert!(!alloc::Taken::ip(&Others { taken: &taken, owner: &me }, ip));
    }
}
