//! Which pod has which address of the node's range. Pure: the owners of the addresses are recovered by the caller from
//! the pods that still run.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("the node's pod range {0} has no free address: delete pods or give the cluster a larger range per node")]
    Exhausted(Ipv4Net),
    #[error("the node's pod range {0} is not an IPv4 range of at most /29 to /8")]
    Range(IpNet),
}

/// The first address of the range is the gateway's; network and broadcast addresses stay unused.
#[derive(Debug)]
pub(super) struct Ipam {
    range: Ipv4Net,
    taken: BTreeMap<u32, String>,
    /// Addresses are handed out in turn, so that one just released stays quiet for as long as possible.
    next: u32,
}

impl Ipam {
    pub(super) fn new(range: IpNet) -> Result<Self, Error> {
        match range {
            IpNet::V4(range) if (8..=29).contains(&range.prefix_len()) => {
                let range = range.trunc();
                Ok(Ipam { range, taken: BTreeMap::new(), next: u32::from(range.network()) + 2 })
            }
            other => Err(Error::Range(other)),
        }
    }

    pub(super) fn gateway(&self) -> IpAddr {
        Ipv4Addr::from(u32::from(self.range.network()) + 1).into()
    }

    pub(super) fn prefix(&self) -> u8 {
        self.range.prefix_len()
    }

    /// Notes an address that a pod has already.
    pub(super) fn keep(&mut self, address: IpAddr, owner: &str) {
        if let IpAddr::V4(a) = address
            && self.range.contains(&a)
        {
            self.taken.insert(a.into(), owner.to_string());
            self.next = self.next.max(u32::from(a) + 1);
        }
    }

    pub(super) fn allocate(&mut self, owner: &str) -> Result<IpAddr, Error> {
        let first = u32::from(self.range.network()) + 2;
        let last = u32::from(self.range.broadcast()) - 1;
        let start = if (first..=last).contains(&self.next) { self.next } else { first };
        let free = (start..=last).chain(first..start).find(|a| !self.taken.contains_key(a));
        let address = free.ok_or(Error::Exhausted(self.range))?;
        self.taken.insert(address, owner.to_string());
        self.next = address + 1;
        Ok(Ipv4Addr::from(address).into())
    }

    pub(super) fn release(&mut self, owner: &str) {
        self.taken.retain(|_, o| o != owner);
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
    fn recovered_addresses_are_not_given_twice() {
        let mut ipam = ipam("10.244.0.0/24");
        ipam.keep("10.244.0.2".parse().unwrap(), "a");
        ipam.keep("10.244.0.9".parse().unwrap(), "b");
        ipam.keep("192.0.2.1".parse().unwrap(), "host");
        assert_eq!(ipam.allocate("c").unwrap().to_string(), "10.244.0.10");
    }

    #[test]
    fn too_small_and_ipv6_ranges_are_refused() {
        assert!(Ipam::new("10.0.0.0/30".parse().unwrap()).is_err());
        assert!(Ipam::new("fd00::/64".parse().unwrap()).is_err());
    }
}
