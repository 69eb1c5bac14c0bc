//! What a server is told at its start.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::future::BoxFuture;
use ipnet::IpNet;
use tokio::net::TcpStream;

use crate::audit::Log;

/// The reference's default, in seconds.
const TOLERATION: i64 = 300;

/// How this server connects to pods and nodes. It may stand where their addresses lead elsewhere (two clusters of one host
/// may have pods of the same address).
pub type Dial = Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// From where this server stands.
pub(crate) fn dial_from_here() -> Dial {
    Arc::new(|host, port| Box::pin(async move { TcpStream::connect((host.as_str(), port)).await }))
}

/// The cluster and this server's place in it.
#[derive(Clone)]
pub struct Config {
    pub cluster_name: String,
    pub service_cidrs: Vec<IpNet>,
    pub node_port_range: RangeInclusive<u16>,
    pub dns_ip: IpAddr,
    pub domain: String,
    /// Where clients in the cluster reach this server: the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Requests without credentials are those of system:anonymous; otherwise they are refused.
    pub anonymous: bool,
    /// How long pods stay on a node that is not ready, and on one that is not reachable, unless they say otherwise.
    pub not_ready_toleration: i64,
    pub unreachable_toleration: i64,
    /// Signs the tokens of ServiceAccounts: PKCS #8, PEM, as `Pki::service_account_key` gives it.
    pub service_account_key: String,
    /// Other servers write to the same store.
    pub shared: bool,
    /// How this server speaks to nodes; None: it cannot (logs, exec and the like are refused with the reason).
    pub node_tls: Option<NodeTls>,
    /// Where requests are written down, if at all.
    pub audit: Option<Log>,
    /// For logs, exec and the like, and for the proxy subresources.
    pub dial: Dial,
}

/// The TLS client of connections to nodes.
#[derive(Clone)]
pub struct NodeTls(pub Arc<rustls::ClientConfig>);

impl Config {
    /// The usual ranges and names for a server reached at `advertise`.
    pub fn new(cluster_name: &str, advertise: SocketAddr, service_account_key: &str) -> Self {
        Config {
            cluster_name: cluster_name.into(),
            service_cidrs: vec![IpNet::V4(ipnet::Ipv4Net::new_assert([10, 96, 0, 0].into(), 12))],
            node_port_range: 30000..=32767,
            dns_ip: [10, 96, 0, 10].into(),
            domain: "cluster.local".into(),
            advertise,
            anonymous: true,
            not_ready_toleration: TOLERATION,
            unreachable_toleration: TOLERATION,
            service_account_key: service_account_key.into(),
            shared: false,
            node_tls: None,
            audit: None,
            dial: dial_from_here(),
        }
    }

    /// Who tokens are from.
    pub fn issuer(&self) -> String {
        format!("https://kubernetes.default.svc.{}", self.domain)
    }
}
