//! The addresses that load balancers may have: networks and ranges of both families, in the order they were given.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

/// From the first address to the last, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    last: IpAddr,
    /// As what it was given, if not by its ends.
    net: Option<IpNet>,
}

/// Several ranges, written `172.31.255.0/24,192.0.2.10-192.0.2.20,fd00:1::/112`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool(Vec<Range>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{0:?} is neither a network such as 172.31.255.0/24 nor a range such as 192.0.2.10-192.0.2.20")]
    NoRange(String),
    #[error("the range {0:?} ends before it begins, or changes the address family on the way")]
    Backwards(String),
}

impl FromStr for Pool {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.split(',').map(|part| range(part.trim())).collect::<Result<_, _>>().map(Pool)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.0.iter().map(|r| match r.net {
            Some(net) => net.to_string(),
            None => format!("{}-{}", r.first, r.last),
        });
        f.write_str(&ranges.collect::<Vec<_>>().join(","))
    }
}

fn range(text: &str) -> Result<Range, Error> {
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(of_network(net));
    }
    let wrong = || Error::NoRange(text.into());
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?),
        None => text.parse().map(|ip: IpAddr| (ip, ip)).map_err(|_| wrong())?,
    };
    if first.is_ipv6() != last.is_ipv6() || first > last {
        return Err(Error::Backwards(text.into()));
    }
    Ok(Range { first, last, net: None })
}

/// Without the network's own address and, in IPv4, the broadcast address: hosts treat them in ways of their own.
fn of_network(net: IpNet) -> Range {
    let net = net.trunc();
    let (first, last) = (net.network(), net.broadcast());
    if net.max_prefix_len() - net.prefix_len() < 2 {
        return Range { first, last, net: Some(net) };
    }
    let last = if net.addr().is_ipv4() { step(last, -1) } else { last };
    Range { first: step(first, 1), last, net: Some(net) }
}

fn step(ip: IpAddr, by: i8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add_signed(by.into())).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add_signed(by.into())).into(),
    }
}

impl Range {
    fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv6() == ip.is_ipv6() && (self.first..=self.last).contains(&ip)
    }

    fn free(&self, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let mut at = self.first;
        while taken(at) {
            if at == self.last {
                return None;
            }
            at = step(at, 1);
        }
        Some(at)
    }
}

impl Pool {
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|r| r.contains(ip))
    }

    pub fn has_family(&self, ipv6: bool) -> bool {
        self.0.iter().any(|r| r.first.is_ipv6() == ipv6)
    }

    /// The first address of the family that is not taken. Looks at no more addresses than are taken.
    pub fn free(&self, ipv6: bool, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        self.0.iter().filter(|r| r.first.is_ipv6() == ipv6).find_map(|r| r.free(&taken))
    }

    /// The networks that the pool was given as, and the fewest that make up its other ranges: for routes.
    pub fn networks(&self) -> Vec<IpNet> {
        let all = self.0.iter().flat_map(|r| match (r.first, r.last) {
            _ if r.net.is_some() => r.net.into_iter().collect(),
            (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)).collect(),
            (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::V6(Ipv6Subnets::new(first, last, 0)).collect(),
            _ => vec![],
        });
        IpNet::aggregate(&all.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Pool {
        text.parse().unwrap()
    }

    #[test]
    fn is_written_as_networks_and_ranges() {
        for (text, shown) in [
            ("172.31.255.7/24", "172.31.255.0/24"),
            ("192.0.2.4/32, 192.0.2.6/31", "192.0.2.4/32,192.0.2.6/31"),
            ("192.0.2.9-192.0.2.11,192.0.2.20", "192.0.2.9-192.0.2.11,192.0.2.20-192.0.2.20"),
            ("fd00:1::/112", "fd00:1::/112"),
        ] {
            assert_eq!(pool(text).to_string(), shown);
            assert_eq!(pool(shown), pool(text), "what is shown can be read");
        }
        for wrong in ["", "172.31.255.0/33", "a-b", "192.0.2.1-", "pool"] {
            assert!(matches!(wrong.parse::<Pool>(), Err(Error::NoRange(_))), "{wrong}");
        }
        for wrong in ["192.0.2.9-192.0.2.8", "192.0.2.9-fd00::1"] {
            assert!(matches!(wrong.parse::<Pool>(), Err(Error::Backwards(_))), "{wrong}");
        }
    }

    #[test]
    fn gives_the_first_free_address() {
        let pool = pool("192.0.2.1-192.0.2.2,192.0.2.7,fd00::5/128");
        let free =
            |taken: &[&str]| pool.free(false, |ip| taken.contains(&ip.to_string().as_str())).map(|ip| ip.to_string());
        assert_eq!(free(&[]).as_deref(), Some("192.0.2.1"));
        assert_eq!(free(&["192.0.2.1"]).as_deref(), Some("192.0.2.2"));
        assert_eq!(free(&["192.0.2.1", "192.0.2.2"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(free(&["192.0.2.1", "192.0.2.2", "192.0.2.7"]), None);
        assert_eq!(pool.free(true, |_| false).map(|ip| ip.to_string()).as_deref(), Some("fd00::5"));
        let net: Pool = "192.0.2.0/30".parse().unwrap();
        let ends = [net.contains([192, 0, 2, 0].into()), net.contains([192, 0, 2, 3].into())];
        assert_eq!(ends, [false, false], "hosts treat a network's ends in ways of their own");
        let whole: Pool = "::/0".parse().unwrap();
        assert!(whole.free(true, |_| false).is_some() && whole.free(false, |_| false).is_none());
    }

    #[test]
    fn networks_for_routes() {
        let nets = |text| pool(text).networks().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(nets("192.0.2.8-192.0.2.12"), "192.0.2.8/30 192.0.2.12/32");
        assert_eq!(nets("172.31.255.0/24,fd00:1::/112"), "172.31.255.0/24 fd00:1::/112");
    }
}
