//! Which pod has which address of one of the node's ranges. Pure: the owners of the addresses are recovered by the caller
//! from the pods that still run.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("the node's pod range {0} has no free address: delete pods or give the cluster a larger range per node")]
    Exhausted(IpNet),
    #[error("the node's pod range {0} is neither an IPv4 range of /8 to /29 nor an IPv6 range of /16 to /120")]
    Range(IpNet),
}

/// Of a larger range no more than these are used: enough for any node.
const MOST: u128 = 1 << 24;

/// The first address of the range is the gateway's; the first and the last number stay unused.
#[derive(Debug)]
pub(super) struct Ipam {
    range: IpNet,
    usable: RangeInclusive<u128>,
    taken: BTreeMap<u128, String>,
    /// Addresses are handed out in turn, so that one just released stays quiet for as long as possible.
    next: u128,
}

impl Ipam {
    pub(super) fn new(range: IpNet) -> Result<Self, Error> {
        let lengths = if range.addr().is_ipv4() { 8..=29 } else { 16..=120 };
        if !lengths.contains(&range.prefix_len()) {
            return Err(Error::Range(range));
        }
        let range = range.trunc();
        let first = number(range.network()) + 2;
        let last = (number(range.broadcast()) - 1).min(first + MOST);
        Ok(Ipam { range, usable: first..=last, taken: BTreeMap::new(), next: first })
    }

    pub(super) fn gateway(&self) -> IpAddr {
        self.address(number(self.range.network()) + 1)
    }

    pub(super) fn prefix(&self) -> u8 {
        self.range.prefix_len()
    }

    /// Notes an address that a pod has already.
    pub(super) fn keep(&mut self, address: IpAddr, owner: &str) {
        if self.range.contains(&address) {
            self.taken.insert(number(address), owner.to_string());
            self.next = self.next.max(number(address) + 1);
        }
    }

    pub(super) fn allocate(&mut self, owner: &str) -> Result<IpAddr, Error> {
        let (first, last) = (*self.usable.start(), *self.usable.end());
        let start = if self.usable.contains(&self.next) { self.next } else { first };
        let free = (start..=last).chain(first..start).find(|a| !self.taken.contains_key(a));
        let address = free.ok_or(Error::Exhausted(self.range))?;
        self.taken.insert(address, owner.to_string());
        self.next = address + 1;
        Ok(self.address(address))
    }

    pub(super) fn release(&mut self, owner: &str) {
        self.taken.retain(|_, o| o != owner);
    }

    fn address(&self, number: u128) -> IpAddr {
        match (self.range, u32::try_from(number)) {
            (IpNet::V4(_), Ok(number)) => Ipv4Addr::from(number).into(),
            _ => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(range: &str) -> Ipam {
        Ipam::new(range.parse().unwrap()).unwrap()
    }

    #[test]
    fn addresses_come_in_turn_and_return() {
        let mut ipam = ipam("10.244.3.0/29");
        assert_eq!(ipam.gateway().to_string(), "10.244.3.1");
        let got: Vec<_> = (0..5).map(|i| ipam.allocate(&format!("p{i}")).unwrap().to_string()).collect();
        assert_eq!(got, ["10.244.3.2", "10.244.3.3", "10.244.3.4", "10.244.3.5", "10.244.3.6"]);
        assert!(matches!(ipam.allocate("p5"), Err(Error::Exhausted(_))));
        ipam.release("p1");
        assert_eq!(ipam.allocate("p5").unwrap().to_string(), "10.244.3.3");
    }

    #[test]
    fn both_families() {
        let mut ipam = ipam("fd00:0:0:3::/64");
        assert_eq!(ipam.gateway().to_string(), "fd00:0:0:3::1");
        ipam.keep("fd00:0:0:3::2".parse().unwrap(), "a");
        assert_eq!(ipam.allocate("b").unwrap().to_string(), "fd00:0:0:3::3");
    }

    #[test]
    fn recovered_addresses_are_not_given_twice() {
        let mut ipam = ipam("10.244.0.0/24");
        ipam.keep("10.244.0.2".parse().unwrap(), "a");
        ipam.keep("10.244.0.9".parse().unwrap(), "b");
        ipam.keep("192.0.2.1".parse().unwrap(), "host");
        assert_eq!(ipam.allocate("c").unwrap().to_string(), "10.244.0.10");
    }

    #[test]
    fn ranges_of_no_use_are_refused() {
        assert!(Ipam::new("10.0.0.0/30".parse().unwrap()).is_err());
        assert!(Ipam::new("fd00::/124".parse().unwrap()).is_err());
    }
}
