//! Who is answered. An open resolver is a weapon in others' hands, so by default only the cluster is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    base: IpAddr,
    bits: u8,
}

impl Net {
    /// None when there are more bits than the address has.
    pub fn new(base: IpAddr, bits: u8) -> Option<Self> {
        (bits <= if base.is_ipv4() { 32 } else { 128 }).then_some(Net { base, bits })
    }

    pub fn host(ip: IpAddr) -> Self {
        Net { base: ip, bits: if ip.is_ipv4() { 32 } else { 128 } }
    }

    /// `10.0.0.0/8`, or one address.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            Some((base, bits)) => Net::new(base.parse().ok()?, bits.parse().ok()?),
            None => text.parse().ok().map(Net::host),
        }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                (base.to_bits() ^ ip.to_bits()).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                (base.to_bits() ^ ip.to_bits()).checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The clients that are answered; loopback always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(Vec<Net>);

impl Allowed {
    pub fn new(nets: impl IntoIterator<Item = Net>) -> Self {
        let loopback = [Net { base: Ipv4Addr::LOCALHOST.into(), bits: 8 }, Net::host(Ipv6Addr::LOCALHOST.into())];
        Allowed(nets.into_iter().chain(loopback).collect())
    }

    /// These and not even loopback.
    pub fn only(nets: impl IntoIterator<Item = Net>) -> Self {
        Allowed(nets.into_iter().collect())
    }

    /// The ranges that are routed nowhere on the Internet: for a server that does not know its cluster's.
    pub fn private() -> Self {
        const RANGES: [&str; 7] = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "169.254.0.0/16",
            "fc00::/7",
            "fe80::/10",
        ];
        Allowed::new(RANGES.iter().filter_map(|text| Net::parse(text)))
    }

    pub fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_allowed() {
        let nets = ["10.244.0.0/16", "172.30.0.11", "fd00:244::/64"].map(|t| Net::parse(t).unwrap());
        let allowed = Allowed::new(nets);
        for (ip, expect) in [
            ("10.244.3.4", true),
            ("10.245.0.1", false),
            ("172.30.0.11", true),
            ("172.30.0.12", false),
            ("127.0.0.53", true),
            ("::1", true),
            ("fd00:244::9", true),
            ("fd00:244:0:1::9", false),
            ("::ffff:10.244.0.1", true),
            ("8.8.8.8", false),
        ] {
            assert_eq!(allowed.has(ip.parse().unwrap()), expect, "{ip}");
        }
        assert!(Allowed::private().has("192.168.1.1".parse().unwrap()));
        assert!(!Allowed::private().has("8.8.8.8".parse().unwrap()));
        assert!(Net::parse("0.0.0.0/0").unwrap().contains("8.8.8.8".parse().unwrap()));
        for wrong in ["10.0.0.0/33", "::/129", "x/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(Net::parse(wrong), None, "{wrong}");
        }
    }
}
