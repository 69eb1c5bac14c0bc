//! What a cluster is, as decided when it was first started; kept in its data directory so that the next start is the
//! same cluster.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use skiff_controllers::Pool;

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
pub(crate) const ADVERTISED_PORT: u16 = 6443;

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
        let (services, pods, nodes) = (self.service_cidr, self.pod_cidr, self.node_subnet());
        if services.prefix_len() > 24 {
            return Err(format!("--service-cidr {services}: a /24 or larger is needed"));
        }
        if pods.prefix_len() > 24 || 1u32 << (24 - pods.prefix_len()) < u32::from(self.nodes) {
            return Err(format!("--pod-cidr {pods}: every one of {} nodes needs a /24 of it", self.nodes));
        }
        let overlap = |a: Ipv4Net, b: Ipv4Net| a.contains(&b) || b.contains(&a);
        for (a, b) in [(services, pods), (services, nodes), (pods, nodes)] {
            if overlap(a, b) {
                return Err(format!("the ranges {a} and {b} overlap: services, pods and nodes each need their own"));
            }
        }
        let balancers = self.lb_pool_v4();
        let shared = |net: &Ipv4Net| balancers.iter().any(|b| overlap(*b, *net));
        match [services, pods, nodes].into_iter().find(shared) {
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

    pub(crate) fn host_ip(&self) -> Ipv4Addr {
        self.subnet_address(1)
    }

    fn subnet_address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(NODE_SUBNETS[0], NODE_SUBNETS[1], self.index, last)
    }

    pub(crate) fn node_subnet(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.subnet_address(0), 24)
    }

    /// The pool's networks that the host can have routes to.
    pub(crate) fn lb_pool_v4(&self) -> Vec<Ipv4Net> {
        let v4 = |net| if let IpNet::V4(net) = net { Some(net) } else { None };
        self.lb_pool.networks().into_iter().filter_map(v4).collect()
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
    }
}
