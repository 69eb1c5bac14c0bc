//! The command line of `skiff dns`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use skiff_dns::{
    acl::Net,
    wire::Name,
    zone::{self, LONGEST_TTL, TTL},
};

use crate::cli::{Which, resolver};

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Dns {
    #[command(subcommand)]
    pub(super) command: Option<DnsCommand>,
    #[command(flatten)]
    pub(crate) serve: DnsServe,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DnsCommand {
    /// Ask for a name as a pod's resolver would: each step of the search path, its answer, and why
    Query(DnsQuery),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DnsQuery {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The name, or an address (which is asked for its name)
    #[arg(value_name = "NAME")]
    pub(crate) what: String,
    /// The type of records
    #[arg(value_name = "TYPE", default_value = "A")]
    pub(crate) rtype: String,
    /// The pod whose search path is taken: POD or NAMESPACE/POD [default: a pod without a dnsConfig]
    #[arg(long, value_name = "POD")]
    pub(crate) from: Option<String>,
    /// The namespace of the pod that asks
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
}

/// The server's flags; `docs/dns.md` has them in context.
#[derive(Args, Clone, Debug)]
pub(crate) struct DnsServe {
    /// How to reach the API server [default: as a pod of the cluster, by its service account]
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where to answer, UDP and TCP; may be given several times [default: port 53 of every address]
    #[arg(long, value_name = "IP[:PORT]", value_parser = resolver)]
    pub(crate) listen: Vec<SocketAddr>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// How many seconds clients may keep an answer about the cluster
    #[arg(long, default_value_t = TTL, value_parser = clap::value_parser!(u32).range(0..=i64::from(LONGEST_TTL)))]
    pub(crate) ttl: u32,
    /// What names such as 10-244-0-7.NAMESPACE.pod.cluster.local mean
    #[arg(long, value_enum, default_value_t = PodNames::Insecure)]
    pub(crate) pods: PodNames,
    /// Who resolves other names; may be given several times [default: those of --resolv-conf]
    #[arg(long, value_name = "IP[:PORT]", value_parser = resolver)]
    pub(crate) upstream: Vec<SocketAddr>,
    /// Who resolves the names of one domain: DOMAIN=IP[:PORT],...; may be given several times
    #[arg(long, value_name = "DOMAIN=IP[:PORT],...", value_parser = stub)]
    pub(crate) stub: Vec<(Name, Vec<SocketAddr>)>,
    /// Names other resolvers and search domains; followed when it changes
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,
    /// Who is answered, beside this machine; may be given several times [default: private addresses]
    #[arg(long, value_name = "IP[/BITS]", value_parser = net)]
    pub(crate) allow: Vec<Net>,
    /// End a pod's walk through its search path at its first question (see docs/dns.md)
    #[arg(long)]
    pub(crate) end_search_walks: bool,
    /// Only pods of this node ask this server (with --end-search-walks, only they are watched)
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// UDP sockets per address, each with a thread [default: one per core, at least 2]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) lanes: Option<u8>,
    /// Where /health is answered
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub(crate) health: Option<SocketAddr>,
    /// Where /ready is answered
    #[arg(long, default_value = "0.0.0.0:8181")]
    pub(crate) ready: Option<SocketAddr>,
    /// Where /metrics is answered
    #[arg(long, default_value = "0.0.0.0:9153")]
    pub(crate) metrics: Option<SocketAddr>,
    /// How many seconds to go on answering after SIGTERM
    #[arg(long, default_value_t = 5)]
    pub(crate) drain: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PodNames {
    /// They do not exist
    Disabled,
    /// The address that stands in the name
    Insecure,
    /// The same, when a pod of that namespace has the address
    Verified,
}

impl From<PodNames> for zone::PodNames {
    fn from(names: PodNames) -> Self {
        match names {
            PodNames::Disabled => Self::Disabled,
            PodNames::Insecure => Self::Insecure,
            PodNames::Verified => Self::Verified,
        }
    }
}

fn net(text: &str) -> Result<Net, String> {
    Net::parse(text).ok_or_else(|| format!("{text:?} is neither an IP address nor IP/BITS"))
}

fn stub(text: &str) -> Result<(Name, Vec<SocketAddr>), String> {
    let (domain, at) = text.split_once('=').ok_or_else(|| format!("{text:?} is not DOMAIN=IP[:PORT],..."))?;
    let name = Name::parse(domain).ok_or_else(|| format!("{domain:?} is not a DNS name"))?;
    Ok((name, at.split(',').map(resolver).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_with_resolvers() {
        let (domain, at) = stub("corp.example=192.0.2.1,192.0.2.2:5353").unwrap();
        assert_eq!((domain.to_string().as_str(), at.len()), ("corp.example.", 2));
        for wrong in ["corp.example", "corp.example=", "a..b=192.0.2.1", "corp.example=dns"] {
            assert!(stub(wrong).is_err(), "{wrong}");
        }
        assert!(net("10.0.0.0/8").is_ok() && net("10.0.0.0/99").unwrap_err().contains("IP/BITS"));
    }
}
