//! One number out of a range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::RangeError;

/// The first address that may be given out; the `kubernetes` Service has it.
pub fn first_ip(range: &IpNet) -> Option<IpAddr> {
    let (first, last) = usable(range);
    (first <= last).then(|| address(range, first))
}

/// How many addresses a range has to give.
pub fn size(range: &IpNet) -> u128 {
    let (first, last) = usable(range);
    if first > last { 0 } else { (last - first).saturating_add(1) }
}

/// How many addresses at the start of a range are the static band.
pub fn static_ips(range: &IpNet) -> u128 {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    match 1u128.checked_shl(host_bits).unwrap_or(u128::MAX) {
        ..=16 => 0,
        size => (size / 16).clamp(16, 256),
    }
}

/// How many ports at the start of a range are the static band.
pub fn static_ports(range: &RangeInclusive<u16>) -> u128 {
    match u128::from(*range.end()).saturating_sub(u128::from(*range.start())) + 1 {
        ..=16 => 0,
        size => (size / 32).clamp(16, 128),
    }
}

/// The wish if it can be had; without one, an address from the dynamic band, or from the static one if that is full.
/// Ranges are tried in order.
pub fn choose_ip(
    ranges: &[IpNet],
    wish: Option<IpAddr>,
    taken: &dyn Fn(IpAddr) -> bool,
    random: u64,
) -> Result<IpAddr, RangeError> {
    let Some(ip) = wish else {
        return ranges.iter().find_map(|r| free_ip(r, taken, random)).ok_or(RangeError::Full);
    };
    let fits = |range: &IpNet| range.contains(&ip) && (usable(range).0..=usable(range).1).contains(&number(ip));
    if !ranges.iter().any(fits) {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        return Err(RangeError::IpNotInRange { ip, ranges: ranges.join(",") });
    }
    if taken(ip) { Err(RangeError::IpTaken) } else { Ok(ip) }
}

fn free_ip(range: &IpNet, taken: &dyn Fn(IpAddr) -> bool, random: u64) -> Option<IpAddr> {
    let (first, last) = usable(range);
    let n = free(first, last, static_ips(range), &|n| taken(address(range, n)), random)?;
    Some(address(range, n))
}

/// As [`choose_ip`], for a port.
pub fn choose_port(
    range: &RangeInclusive<u16>,
    wish: Option<u16>,
    taken: &dyn Fn(u16) -> bool,
    random: u64,
) -> Result<u16, RangeError> {
    let (first, last) = (*range.start(), *range.end());
    match wish {
        Some(port) if !range.contains(&port) => Err(RangeError::PortNotInRange { first, last }),
        Some(port) if taken(port) => Err(RangeError::PortTaken),
        Some(port) => Ok(port),
        None => {
            let port = |n: u128| n as u16;
            let n = free(u128::from(first), u128::from(last), static_ports(range), &|n| taken(port(n)), random);
            n.map(port).ok_or(RangeError::Full)
        }
    }
}

/// A free number of `first..=last`: from a random place behind the band round to it, then inside the band.
fn free(first: u128, last: u128, band: u128, taken: &dyn Fn(u128) -> bool, random: u64) -> Option<u128> {
    let dynamic = first.checked_add(band)?;
    if dynamic <= last {
        let size = (last - dynamic).saturating_add(1);
        let start = dynamic + u128::from(random) % size;
        if let Some(n) = (start..=last).chain(dynamic..start).find(|n| !taken(*n)) {
            return Some(n);
        }
    }
    (first..dynamic.min(last.saturating_add(1))).find(|n| !taken(*n))
}

/// First and last usable address: not the network's own, and in IPv4 not the broadcast address.
fn usable(range: &IpNet) -> (u128, u128) {
    let (network, broadcast) = (number(range.network()), number(range.broadcast()));
    match range {
        IpNet::V4(_) => (network + 1, broadcast.saturating_sub(1)),
        IpNet::V6(_) => (network.saturating_add(1), broadcast),
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// A number of `range` as an address of its family.
fn address(range: &IpNet, n: u128) -> IpAddr {
    match range {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(n as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(n)),
    }
}
