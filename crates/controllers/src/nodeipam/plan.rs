//! Which range a node gets.

use ipnet::IpNet;

/// The first free range of `mask` bits; None when all are taken.
pub(crate) fn choose(cluster: IpNet, mask: u8, taken: &[IpNet]) -> Option<IpNet> {
    let free = |range: &IpNet| !taken.iter().any(|t| t.contains(range) || range.contains(t));
    match cluster {
        IpNet::V4(net) => net.subnets(mask).ok()?.map(IpNet::V4).find(free),
        IpNet::V6(net) => net.subnets(mask).ok()?.map(IpNet::V6).find(free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, mask: u8, taken: &[&str], expect: Option<&str>) {
        let taken: Vec<IpNet> = taken.iter().map(|t| t.parse().unwrap()).collect();
        assert_eq!(choose(cluster.parse().unwrap(), mask, &taken), expect.map(|e| e.parse().unwrap()));
    }

    #[test]
    fn table() {
        check("10.244.0.0/16", 24, &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/23"], Some("10.244.2.0/24"));
        check("10.244.0.0/23", 24, &["10.244.0.0/24", "10.244.1.128/25"], None);
        check("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64"));
        check("10.244.0.0/24", 16, &[], None);
    }
}
