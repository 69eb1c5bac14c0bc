//! The addresses that a node or a pod has.

use std::{fmt, net::IpAddr};

/// The first address, and one of the other family where there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ips {
    pub first: IpAddr,
    pub second: Option<IpAddr>,
}

impl Ips {
    /// A second address of the first one's family is none.
    pub fn new(first: IpAddr, second: Option<IpAddr>) -> Self {
        Ips { first, second: second.filter(|s| s.is_ipv4() != first.is_ipv4()) }
    }

    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        [self.first].into_iter().chain(self.second)
    }

    pub fn of_family_of(self, other: IpAddr) -> Option<IpAddr> {
        self.iter().find(|ip| ip.is_ipv4() == other.is_ipv4())
    }
}

impl From<IpAddr> for Ips {
    fn from(first: IpAddr) -> Self {
        Ips { first, second: None }
    }
}

/// As the downward API writes them.
impl fmt::Display for Ips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.second.map_or(Ok(()), |ip| write!(f, ",{ip}"))
    }
}
