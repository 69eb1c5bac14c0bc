//! A free address or port of a range: above the static band while there is one, then inside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Error {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    IpTaken,
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")]
    IpOutside { ip: IpAddr, range: IpNet },
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {first}-{last}")]
    PortOutside { first: u16, last: u16 },
}

/// How many usable addresses; of very large ranges the first 2^32.
fn size(range: &IpNet) -> u64 {
    let bits = range.max_prefix_len() - range.prefix_len();
    (1u64 << bits.min(32)).saturating_sub(2)
}

/// The usable address at a place counted from 0; the network's own is none.
fn at(range: &IpNet, place: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(place as u32 + 1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(u128::from(place) + 1)).into(),
    }
}

/// The first free place of `size`, looked for from a random one above the band, then in the band.
fn pick(size: u64, band: u64, random: u64, taken: impl Fn(u64) -> bool) -> Option<u64> {
    let above = size - band;
    let start = if above > 0 { random % above } else { 0 };
    let upper = (0..above).map(|i| band + (start + i) % above);
    let lower = (0..band).map(|i| (random % band.max(1) + i) % band);
    upper.chain(lower).find(|place| !taken(*place))
}

pub(super) fn cluster_ip(range: &IpNet, taken: impl Fn(IpAddr) -> bool, random: u64) -> Result<IpAddr, Error> {
    let size = size(range);
    let band = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
    pick(size, band, random, |place| taken(at(range, place))).map(|place| at(range, place)).ok_or(Error::Full)
}

pub(super) fn wish_cluster_ip(range: &IpNet, taken: impl Fn(IpAddr) -> bool, ip: IpAddr) -> Result<(), Error> {
    let usable = range.contains(&ip) && ip != range.network() && (ip.is_ipv6() || ip != range.broadcast());
    match () {
        () if !usable => Err(Error::IpOutside { ip, range: *range }),
        () if taken(ip) => Err(Error::IpTaken),
        () => Ok(()),
    }
}

pub(super) fn node_port(range: &RangeInclusive<u16>, taken: impl Fn(u16) -> bool, random: u64) -> Result<u16, Error> {
    let size = range.len() as u64;
    let band = if size <= 16 { 0 } else { (size / 32).clamp(16, 128).min(size) };
    let port = |place: u64| range.start() + place as u16;
    pick(size, band, random, |place| taken(port(place))).map(port).ok_or(Error::Full)
}

pub(super) fn wish_node_port(range: &RangeInclusive<u16>, taken: impl Fn(u16) -> bool, port: u16) -> Result<(), Error> {
    match () {
        () if !range.contains(&port) => Err(Error::PortOutside { first: *range.start(), last: *range.end() }),
        () if taken(port) => Err(Error::PortTaken),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_range_is_used_up_without_repeats() {
        let range: IpNet = "10.0.0.0/27".parse().unwrap();
        let mut taken = BTreeSet::new();
        for random in 0..30 {
            let ip = cluster_ip(&range, |ip| taken.contains(&ip), random * 7919).unwrap();
            assert!(taken.insert(ip) && range.contains(&ip));
        }
        assert_eq!(cluster_ip(&range, |ip| taken.contains(&ip), 1), Err(Error::Full));
        assert!(!taken.contains(&range.network()) && !taken.contains(&range.broadcast()));
    }

    #[test]
    fn the_band_is_left_for_wishes() {
        for random in [0, 1, u64::MAX] {
            assert!(node_port(&(30000..=32767), |_| false, random).unwrap() >= 30086);
            let IpAddr::V4(ip) = cluster_ip(&"10.96.0.0/12".parse().unwrap(), |_| false, random).unwrap() else {
                panic!()
            };
            assert!(ip > Ipv4Addr::new(10, 96, 1, 0));
        }
    }
}
