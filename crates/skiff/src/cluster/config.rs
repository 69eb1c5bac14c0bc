//! What a cluster is, as decided when it was first started; kept in its data directory so that the next start is the
//! same cluster.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use skiff_controllers::{NODE_MONITOR_GRACE_PERIOD, Pool};
use skiff_node::network::Ips;

use super::store::InEtcd;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) name: String,
    /// Which of the subnets 172.30.INDEX.0/24 the nodes live in; unique among the clusters of this machine.
    pub(crate) index: u8,
    pub(crate) nodes: u8,
    /// Nodes are spread over this many zones; 0: nodes carry no zone label.
    pub(crate) zones: u8,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) node_ports: (u16, u16),
    pub(crate) domain: String,
    /// On the host's loopback.
    pub(crate) api_port: u16,
    /// Who resolves names outside the cluster, seen from the host; none: the host's resolv.conf says.
    #[serde(default)]
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    /// Whether the nodes' DNS servers end pods' walks through their search paths.
    #[serde(default)]
    pub(crate) dns_end_walks: bool,
    /// Services of type LoadBalancer get their addresses from here.
    #[serde(default = "default_lb_pool", with = "as_text")]
    pub(crate) lb_pool: Pool,
    /// The /48 of which nodes, pods and Services have their IPv6 addresses; none: the cluster has no IPv6.
    #[serde(default)]
    pub(crate) ipv6: Option<Ipv6Net>,
    #[serde(default)]
    pub(crate) patience: Patience,
    /// Where the API server writes down what it is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audit_log: Option<PathBuf>,
    /// Where a control plane without nodes is reached from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) advertise: Option<Ipv4Addr>,
    /// Where the objects are, if not in the embedded store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etcd: Option<InEtcd>,
}

/// How long the cluster bears with a silent node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Patience {
    pub(crate) node_monitor_grace: Duration,
    /// Seconds, what pods tolerate that do not say otherwise.
    pub(crate) not_ready: i64,
    pub(crate) unreachable: i64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { node_monitor_grace: NODE_MONITOR_GRACE_PERIOD, not_ready: 300, unreachable: 300 }
    }
}

impl Patience {
    /// Nodes give signs of life often enough for a short grace period.
    pub(crate) fn lease(&self) -> Duration {
        skiff_node::LEASE.min(self.node_monitor_grace)
    }
}

fn default_lb_pool() -> Pool {
    "172.31.255.0/24".parse().expect("a well-formed pool")
}

/// A value that is kept as what it is written as.
mod as_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The first part of every address of a node subnet: 172.30.INDEX.x.
const NODE_SUBNETS: [u8; 2] = [172, 30];
/// The first node's last octet; the host's end is 1.
const FIRST_NODE: u8 = 11;
pub(crate) const MAX_NODES: u8 = 100;
/// Where the API server listens on the host's end of the link, for pods and agents.
const ADVERTISED_PORT: u16 = 6443;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error(
        "{path} is not a cluster's configuration: {source}; `skiff down --delete` removes the cluster with its data"
    )]
    Parse { path: String, source: serde_json::Error },
}

impl Config {
    pub(crate) fn new(name: &str, index: u8, nodes: u8, api_port: u16) -> Self {
        let net = |a, b, len| Ipv4Net::new_assert(Ipv4Addr::new(10, a, b, 0), len);
        Config {
            name: name.into(),
            index,
            nodes,
            zones: 0,
            service_cidr: net(96, 0, 12),
            pod_cidr: net(244, 0, 16),
            node_ports: (30_000, 32_767),
            domain: "cluster.local".into(),
            api_port,
            dns_upstreams: vec![],
            dns_end_walks: false,
            lb_pool: default_lb_pool(),
            ipv6: None,
            patience: Patience::default(),
            audit_log: None,
            advertise: None,
            etcd: None,
        }
    }

    /// None when there is no such file: the cluster has never been started.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, Error> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path: path.display().to_string(), source }),
            Ok(bytes) => bytes,
        };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|source| Error::Parse { path: path.display().to_string(), source })
    }

    /// Replaces the file as a whole, so that a crash leaves the old or the new one.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).expect("a configuration is plain data");
        let failed = |source| Error::Io { path: path.display().to_string(), source };
        let dir = path.parent().expect("a file's path has a parent");
        fs::create_dir_all(dir).map_err(failed)?;
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(failed)
    }

    /// Whether the ranges can serve: big enough, and apart from each other and from the nodes.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.nodes > 0 && self.advertise.is_some() {
            return Err("--advertise-address is for a control plane alone (--nodes 0)".into());
        }
        let (services, pods, nodes) = (self.service_cidr, self.pod_cidr, self.node_subnet());
        if services.prefix_len() > 24 {
            return Err(format!("--service-cidr {services}: a /24 or larger is needed"));
        }
        if pods.prefix_len() > 24 || 1u32 << (24 - pods.prefix_len()) < u32::from(self.nodes) {
            return Err(format!("--pod-cidr {pods}: every one of {} nodes needs a /24 of it", self.nodes));
        }
        let overlap = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
        let [services, pods, nodes] = [services, pods, nodes].map(IpNet::V4);
        for (a, b) in [(services, pods), (services, nodes), (pods, nodes)] {
            if overlap(a, b) {
                return Err(format!("the ranges {a} and {b} overlap: services, pods and nodes each need their own"));
            }
        }
        let balancers = self.lb_pool.networks();
        let shared = |net: &IpNet| balancers.iter().any(|b| overlap(*b, *net));
        match [services, pods, nodes].into_iter().chain(self.ipv6.map(IpNet::V6)).find(shared) {
            Some(net) => Err(format!("--lb-pool {} overlaps with {net}: load balancers need their own", self.lb_pool)),
            None => Ok(()),
        }
    }

    pub(crate) fn node_name(&self, number: u8) -> String {
        if self.nodes == 1 { self.name.clone() } else { format!("{}-{}", self.name, number + 1) }
    }

    pub(crate) fn node_ip(&self, number: u8) -> Ipv4Addr {
        self.subnet_address(FIRST_NODE + number)
    }

    /// Where the API server is reached from elsewhere: by pods and agents, and by whoever is given a kubeconfig.
    pub(crate) fn advertised(&self) -> SocketAddr {
        match (self.nodes, self.advertise) {
            (0, ip) => (ip.unwrap_or(Ipv4Addr::LOCALHOST), self.api_port).into(),
            _ => (self.host_ip(), ADVERTISED_PORT).into(),
        }
    }

    pub(crate) fn host_ip(&self) -> Ipv4Addr {
        self.subnet_address(1)
    }

    pub(crate) fn node_ips(&self, number: u8) -> Ips {
        Ips::new(self.node_ip(number).into(), self.node_ip6(number).map(Into::into))
    }

    pub(crate) fn node_ip6(&self, number: u8) -> Option<Ipv6Addr> {
        Some(in_subnet(self.node_subnet6()?, (FIRST_NODE + number).into()))
    }

    pub(crate) fn host_ip6(&self) -> Option<Ipv6Addr> {
        Some(in_subnet(self.node_subnet6()?, 1))
    }

    pub(crate) fn node_subnet6(&self) -> Option<Ipv6Net> {
        self.part6(0, 64)
    }

    /// A /64 for each of 256 nodes.
    pub(crate) fn pod_cidr6(&self) -> Option<Ipv6Net> {
        self.part6(0x100, 56)
    }

    pub(crate) fn service_cidr6(&self) -> Option<Ipv6Net> {
        self.part6(0x200, 112)
    }

    /// The network that begins with the sixteen bits `subnet` after the cluster's prefix.
    fn part6(&self, subnet: u128, prefix: u8) -> Option<Ipv6Net> {
        let first = u128::from(self.ipv6?.network()) | subnet << 64;
        Some(Ipv6Net::new_assert(first.into(), prefix))
    }

    /// Where pods get their addresses from, by family; IPv4 first.
    pub(crate) fn pod_cidrs(&self) -> Vec<IpNet> {
        [IpNet::V4(self.pod_cidr)].into_iter().chain(self.pod_cidr6().map(IpNet::V6)).collect()
    }

    pub(crate) fn service_cidrs(&self) -> Vec<IpNet> {
        [IpNet::V4(self.service_cidr)].into_iter().chain(self.service_cidr6().map(IpNet::V6)).collect()
    }

    fn subnet_address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(NODE_SUBNETS[0], NODE_SUBNETS[1], self.index, last)
    }

    pub(crate) fn node_subnet(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.subnet_address(0), 24)
    }

    /// The pool's networks that the host can have routes to.
    pub(crate) fn reachable_lb_pool(&self) -> Vec<IpNet> {
        let all = self.lb_pool.networks().into_iter();
        all.filter(|net| matches!(net, IpNet::V4(_)) || self.ipv6.is_some()).collect()
    }

    pub(crate) fn zone(&self, number: u8) -> Option<String> {
        (self.zones > 0).then(|| format!("zone-{}", number % self.zones + 1))
    }

    /// The `kubernetes` Service's address: the range's first.
    pub(crate) fn kubernetes_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 1)
    }

    /// The cluster DNS address: the range's tenth.
    pub(crate) fn dns_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 10)
    }

    pub(crate) fn node_port_range(&self) -> RangeInclusive<u16> {
        self.node_ports.0..=self.node_ports.1
    }
}

/// A unique local prefix (RFC 4193): fd and forty random bits.
pub(crate) fn random_prefix() -> Ipv6Net {
    let bits = u128::from(rand::random::<u64>() >> 24);
    Ipv6Net::new_assert((0xfd << 120 | bits << 80).into(), 48)
}

/// Whether this machine can have IPv6 addresses; or what says that it cannot.
pub(crate) fn ipv6_here() -> Result<(), String> {
    const SWITCHES: [&str; 2] = ["all", "default"];
    for file in SWITCHES.map(|s| format!("/proc/sys/net/ipv6/conf/{s}/disable_ipv6")) {
        match fs::read_to_string(&file) {
            Ok(value) if value.trim() == "0" => {}
            Ok(_) => return Err(format!("{file} is on")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err("the kernel has no IPv6".into()),
            Err(e) => return Err(format!("{file}: {e}")),
        }
    }
    Ok(())
}

fn in_subnet(net: Ipv6Net, n: u128) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(net.network()) | n)
}

fn nth(net: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()) + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/cluster.json");
        assert!(Config::load(&path).unwrap().is_none());
        let mut config = Config::new("a", 3, 2, 6443);
        config.dns_upstreams = vec!["192.0.2.53:53".parse().unwrap()];
        config.lb_pool = "192.0.2.0/28,192.0.2.30-192.0.2.31".parse().unwrap();
        config.save(&path).unwrap();
        assert_eq!(Config::load(&path).unwrap(), Some(config));
        fs::write(&path, "{").unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("skiff down --delete"));
    }

    #[test]
    fn load_balancers_have_a_range_of_their_own() {
        let with = |pool: &str| Config { lb_pool: pool.parse().unwrap(), ..Config::new("a", 3, 2, 6443) };
        assert_eq!(Config::new("a", 3, 2, 6443).check(), Ok(()));
        assert_eq!(with("192.0.2.0/24,fd00::/112").check(), Ok(()));
        let within = Config { ipv6: "fd00::/48".parse().ok(), ..with("192.0.2.0/24,fd00::9:0/112") };
        assert!(within.check().unwrap_err().contains("--lb-pool"));
        for wrong in ["10.96.3.0/24", "192.0.2.0/24,172.30.3.200-172.30.3.220", "10.244.7.7"] {
            assert!(with(wrong).check().unwrap_err().contains("--lb-pool"), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        let config = Config::new("a", 3, 2, 6443);
        assert_eq!(config.node_ip(1).to_string(), "172.30.3.12");
        assert_eq!(config.node_name(1), "a-2");
        assert_eq!(Config::new("a", 3, 1, 6443).node_name(0), "a");
        assert_eq!(config.dns_ip().to_string(), "10.96.0.10");
        assert_eq!(config.kubernetes_ip().to_string(), "10.96.0.1");
        assert_eq!(config.node_ips(1).second, None);
    }

    #[test]
    fn both_families() {
        let prefix = random_prefix();
        assert!(prefix.to_string().starts_with("fd") && prefix != random_prefix(), "{prefix}");
        let config = Config { ipv6: "fd01:2:3::/48".parse().ok(), ..Config::new("a", 3, 2, 6443) };
        assert_eq!(config.node_ips(1).to_string(), "172.30.3.12,fd01:2:3::c");
        assert_eq!(config.pod_cidr6().unwrap().to_string(), "fd01:2:3:100::/56");
        assert_eq!(config.service_cidr6().unwrap().to_string(), "fd01:2:3:200::/112");
    }
}
