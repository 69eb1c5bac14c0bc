//! The command line. Its help is the first page that a user reads.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ipnet::{IpNet, Ipv4Net};

const LONG: &str = "\
Kubernetes Services in one small binary: a complete cluster on this machine in about a second.

  sudo skiff up                       start a cluster
  skiff kubectl get pods -A           use it (or: export KUBECONFIG=$(skiff kubeconfig --path) and any kubectl)
  sudo skiff image load app.tar       give it an image
  sudo skiff down                     stop it and leave nothing behind

`skiff demo` shows what Services are, on a throw-away cluster.";

#[derive(Debug, Parser)]
#[command(name = "skiff", version, about = "Kubernetes Services in one small binary", long_about = LONG)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which of this machine's clusters is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// The cluster's name
    #[arg(long, short = 'c', env = "SKIFF_CLUSTER", default_value = "skiff")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster and wait until its API, its DNS and a ClusterIP answer
    Up(Up),
    /// Stop a cluster: its pods, namespaces, links, routes and mounts are gone afterwards, its objects and images kept
    Down(Down),
    /// Show whether the clusters of this machine run, and how
    Status(Status),
    /// Print the address of a node
    Ip {
        #[command(flatten)]
        which: Which,
        /// The node (default: the first)
        node: Option<String>,
    },
    /// Open a shell (or run a command) on a node: in its network namespace
    Shell {
        #[command(flatten)]
        which: Which,
        /// The node (default: the first)
        #[arg(long)]
        node: Option<String>,
        /// The command and its arguments (default: your shell)
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Print the administrator's kubeconfig
    Kubeconfig {
        #[command(flatten)]
        which: Which,
        /// Print the file's path instead of its content
        #[arg(long)]
        path: bool,
        /// Make and print a kubeconfig for `skiff agent` on another machine: the node's name
        #[arg(long, requires = "address")]
        node: Option<String>,
        /// The address of that node
        #[arg(long, requires = "node")]
        address: Option<IpAddr>,
    },
    /// Save a cluster's objects and keys to a file, while it runs or not
    Backup(BackUp),
    /// Make a cluster of a saved one, or replace a stopped cluster's objects and keys
    Restore(Restore),
    /// Load, list and remove the cluster's images
    #[command(subcommand)]
    Image(Image),
    /// A guided tour of Services on a throw-away cluster, with real commands and their real output
    Demo(Demo),
    /// kubectl, speaking to the cluster (also when this program is called by the name kubectl)
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Tell why a Service works or not: walk a connection's way hop by hop and name the first that is broken
    ///
    /// What is explained: `svc/NAME` (every way into a Service), or what a client would connect to (NAME:PORT, IP:PORT,
    /// http://NAME:PORT, udp://NAME:PORT), with the client before it: POD (or the beginning of its name), node, node/NAME,
    /// outside. Exit code 0: it works; 1: a hop is broken; 2: it could not be explained.
    Explain(Explain),
    /// Run a cluster in the foreground (what `up` starts in the background)
    Server(Server),
    /// Run a node of a cluster whose API server is elsewhere
    Agent(Agent),
    /// Run the service proxy alone, in kube-proxy's place on a node of any Kubernetes cluster
    ///
    /// Flags are named as kube-proxy's where they mean the same. See deploy/skiff-proxy.yaml for a DaemonSet.
    Proxy(Proxy),
    /// Run the cluster DNS server alone, for any Kubernetes API server (in CoreDNS's place), or ask it (`dns query`)
    Dns(Box<crate::dns::Dns>),
    /// Switch a node off and on, as if its power failed: see what the cluster makes of it
    #[command(subcommand)]
    Node(Power),
    /// Print the version
    Version,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 60)]
    pub(crate) timeout: u64,
}

/// What a new cluster is made of; an existing cluster keeps its shape.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shape {
    /// How many nodes the cluster has on this machine, each with its own agent, proxy and DNS; 0: only the control plane,
    /// which needs no root, for nodes elsewhere (`skiff agent`) [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=i64::from(crate::cluster::config::MAX_NODES)))]
    pub(crate) nodes: Option<u8>,
    /// Spread the nodes over this many zones (label topology.kubernetes.io/zone)
    #[arg(long)]
    pub(crate) zones: Option<u8>,
    /// The API server's port on 127.0.0.1 [default: the first free one from 6443]
    #[arg(long)]
    pub(crate) api_port: Option<u16>,
    /// ClusterIPs come from here [default: 10.96.0.0/12]
    #[arg(long)]
    pub(crate) service_cidr: Option<Ipv4Net>,
    /// Pods' addresses come from here, a /24 for each node [default: 10.244.0.0/16]
    #[arg(long)]
    pub(crate) pod_cidr: Option<Ipv4Net>,
    /// Services of type LoadBalancer get their addresses from these networks and ranges (192.0.2.10-192.0.2.20), separated
    /// by commas; kept until given anew [default: 172.31.255.0/24]
    #[arg(long, value_name = "RANGES")]
    pub(crate) lb_pool: Option<skiff_controllers::Pool>,
    /// Who resolves names outside the cluster: IP or IP:PORT, may be given several times; kept until given anew
    /// [default: the resolvers of the host's /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]", value_parser = resolver)]
    pub(crate) dns_upstream: Vec<SocketAddr>,
    /// End a pod's walk through its DNS search path at its first question: an outside name costs one round trip instead
    /// of five (see docs/dns.md); kept until given anew [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) dns_end_search_walks: Option<bool>,
    /// Write down who asks the API server for what: one audit.k8s.io/v1 Event at level Metadata a line, in this file (mode
    /// 0600; at 100 MB it is kept as FILE.1 and begun anew); kept until given anew, `--audit-log-path=` ends it
    /// [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Nodes and pods have IPv6 addresses too, and Services that ask for both families get both
    /// [default: true where the host has IPv6]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv6: Option<bool>,
    /// A node that was not heard of for so long is not ready, and its pods are no endpoints (such as 40s or 1m30s); kept
    /// until given anew [default: 40s]
    #[arg(long, value_name = "DURATION", value_parser = grace)]
    pub(crate) node_monitor_grace_period: Option<Duration>,
    /// How long pods that do not say otherwise stay on a node that is not ready; kept until given anew [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) default_not_ready_toleration_seconds: Option<i64>,
    /// How long pods that do not say otherwise stay on a node that is not heard of; kept until given anew [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) default_unreachable_toleration_seconds: Option<i64>,
    /// With --nodes 0: the address of this machine at which nodes and other clients reach the API server, on --api-port;
    /// kept until given anew [default: only 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<Ipv4Addr>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Where a new cluster's objects are.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StoreArgs {
    /// Where the objects are kept: in files of this machine, or in an etcd that several servers share [default: embedded]
    #[arg(long, value_enum)]
    pub(crate) store: Option<StoreKind>,
    /// The etcd's endpoints (http://HOST:PORT or https://HOST:PORT), separated by commas; kept until given anew
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub(crate) etcd_endpoints: Vec<String>,
    /// Where the objects lie in etcd: the servers of one cluster have the same [default: /registry/skiff/NAME]
    #[arg(long, value_name = "KEY")]
    pub(crate) etcd_prefix: Option<String>,
    /// The certificate of the authority that signed etcd's (PEM); kept until given anew
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// This server's client certificate for etcd (PEM); kept until given anew
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// The key of that certificate (PEM); kept until given anew
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
}

impl StoreArgs {
    pub(crate) fn names_etcd(&self) -> bool {
        let files = [&self.etcd_cafile, &self.etcd_certfile, &self.etcd_keyfile];
        !self.etcd_endpoints.is_empty() || self.etcd_prefix.is_some() || files.iter().any(|file| file.is_some())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StoreKind {
    Embedded,
    Etcd,
}

/// As the reference writes durations: numbers with units, such as `1m30s`, `40s`, `500ms`.
fn grace(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_secs(1);
    match duration(text) {
        Some(long) if long >= SHORTEST => Ok(long),
        Some(_) => Err(format!("{text} is too short: nodes say every quarter of it that they live, 1s is the least")),
        None => Err(format!("{text:?} is no duration such as 40s or 1m30s")),
    }
}

fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (mut rest, mut millis) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
        millis = millis.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = &tail[unit.len()..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// A resolver's address; its port is 53 unless said otherwise.
pub(crate) fn resolver(text: &str) -> Result<SocketAddr, String> {
    let with_port = |ip: IpAddr| SocketAddr::new(ip, 53);
    let address = text.parse().or_else(|_| text.parse().map(with_port));
    address.map_err(|_| {
        format!("{text:?} is neither an IP address nor IP:PORT, such as 192.0.2.53 or [2001:db8::53]:5353")
    })
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Delete the cluster's objects, images and volumes too
    #[arg(long)]
    pub(crate) delete: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BackUp {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The file to make (mode 0600: it holds the cluster's keys); `-` writes to standard output
    pub(crate) file: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Restore {
    /// The restored cluster's name [default: the saved one's]
    #[arg(long, short = 'c')]
    pub(crate) name: Option<String>,
    /// Replace the objects and keys of the cluster of that name
    #[arg(long)]
    pub(crate) force: bool,
    /// What `skiff backup` made; `-` reads standard input
    pub(crate) file: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Status {
    /// Only this cluster
    #[arg(long, short = 'c', env = "SKIFF_CLUSTER")]
    pub(crate) name: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    Yaml,
}

/// Whose images are meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImagesOf {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Those of the `skiff agent` of this node, on this machine
    #[arg(long, value_name = "NODE")]
    pub(crate) agent: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Power {
    /// Cut the node's link, end everything that runs there; nothing says good-bye
    Stop {
        #[command(flatten)]
        which: Which,
        /// The node's name, as `kubectl get nodes` shows it
        node: String,
    },
    /// Start the node again, with the disk it had
    Start {
        #[command(flatten)]
        which: Which,
        /// The node's name, as `kubectl get nodes` shows it
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Load images from an OCI or docker archive (.tar, .tar.gz)
    Load {
        #[command(flatten)]
        of: ImagesOf,
        /// The archive; `-` reads standard input
        archive: PathBuf,
    },
    /// List the images
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        of: ImagesOf,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Remove images
    Rm {
        #[command(flatten)]
        of: ImagesOf,
        /// Names, as `skiff image list` shows them
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Demo {
    /// Leave the cluster running at the end
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) which: Which,
    /// [CLIENT] TARGET, such as `svc/web`, or `web-6f7d http://db:5432`
    #[arg(required = true, num_args = 1..=2, value_names = ["CLIENT", "TARGET"])]
    pub(crate) what: Vec<String>,
    /// Who connects: POD, node, node/NAME or outside [default: the first node]
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// The namespace of the Service and of the pod
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Report progress on standard output as JSON lines (used by `up`)
    #[arg(long, hide = true)]
    pub(crate) report: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Agent {
    /// A kubeconfig whose user is system:node:NAME in group system:nodes (`skiff kubeconfig --node NAME --address IP`)
    #[arg(long, required_unless_present = "cleanup")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The node's name [default: the host's name]
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Remove what an agent that will not come back left on this machine: its pods, links, rules and mounts
    #[arg(long)]
    pub(crate) cleanup: bool,
    /// The node's address [default: the one that reaches the API server]
    #[arg(long)]
    pub(crate) node_ip: Option<IpAddr>,
    /// The cluster DNS address that pods are told
    #[arg(long, default_value = "10.96.0.10")]
    pub(crate) cluster_dns: IpAddr,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Where all pods' addresses come from
    #[arg(long, default_value = "10.244.0.0/16")]
    pub(crate) cluster_cidr: Ipv4Net,
    /// Who resolves names outside the cluster: IP or IP:PORT, may be given several times
    /// [default: the resolvers of the host's /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]", value_parser = resolver)]
    pub(crate) dns_upstream: Vec<SocketAddr>,
    /// End a pod's walk through its DNS search path at its first question (see docs/dns.md)
    #[arg(long)]
    pub(crate) dns_end_search_walks: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Proxy {
    /// How to reach the API server [default: as the service account of this pod]
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The name of this machine's Node object [default: the host's name]
    #[arg(long, visible_alias = "node-name", env = "NODE_NAME")]
    pub(crate) hostname_override: Option<String>,
    /// This node's address, if not those of its Node object
    #[arg(long)]
    pub(crate) bind_address: Option<IpAddr>,
    /// Where pods' addresses come from (one for each family, separated by a comma): other clients of ClusterIPs are
    /// masqueraded
    #[arg(long, value_delimiter = ',')]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// How this node's own pods are told from other clients
    #[arg(long, value_enum, default_value = "ClusterCIDR", ignore_case = true)]
    pub(crate) detect_local_mode: DetectLocalMode,
    /// Where ClusterIPs come from, in clusters without ServiceCIDR objects: connections to unused ones are refused
    #[arg(long, value_delimiter = ',')]
    pub(crate) service_cluster_ip_range: Vec<IpNet>,
    /// Serve NodePorts on this machine's addresses in these networks, or on the Node's own ones (primary) [default: primary]
    #[arg(long, value_delimiter = ',', value_parser = node_port_network)]
    pub(crate) nodeport_addresses: Vec<NodePortNetwork>,
    /// Masquerade every client of a ClusterIP
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) masquerade_all: bool,
    /// Let conntrack accept TCP packets out of their window
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) conntrack_tcp_be_liberal: bool,
    /// Where /healthz and /livez are served; empty: nowhere
    #[arg(long, default_value = "0.0.0.0:10256", value_parser = |text: &str| bind_address(text, 10256))]
    pub(crate) healthz_bind_address: Bind,
    /// Where /metrics and /proxyMode are served; empty: nowhere
    #[arg(long, default_value = "127.0.0.1:10249", value_parser = |text: &str| bind_address(text, 10249))]
    pub(crate) metrics_bind_address: Bind,
    /// Only nftables
    #[arg(long, value_enum, default_value_t = ProxyMode::Nftables)]
    pub(crate) proxy_mode: ProxyMode,
    /// Remove the rules of a proxy that will not come back, and end
    #[arg(long)]
    pub(crate) cleanup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DetectLocalMode {
    /// Clients of --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// Clients of the Node object's podCIDRs
    #[value(name = "NodeCIDR")]
    NodeCidr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProxyMode {
    Nftables,
    #[value(hide = true)]
    Iptables,
    #[value(hide = true)]
    Ipvs,
}

impl std::fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ProxyMode::Nftables => "nftables",
            ProxyMode::Iptables => "iptables",
            ProxyMode::Ipvs => "ipvs",
        })
    }
}

/// Where to listen, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind(pub(crate) Option<SocketAddr>);

/// As in kube-proxy an address alone means the usual port.
fn bind_address(text: &str, usual: u16) -> Result<Bind, String> {
    let alone = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, usual));
    match text {
        "" => Ok(Bind(None)),
        text => {
            text.parse().or_else(|_| alone()).map(|at| Bind(Some(at))).map_err(|_| format!("{text:?} is not IP:PORT"))
        }
    }
}

/// A network, or the word for the node's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodePortNetwork(pub(crate) Option<IpNet>);

fn node_port_network(text: &str) -> Result<NodePortNetwork, String> {
    match text {
        "primary" => Ok(NodePortNetwork(None)),
        text => text
            .parse()
            .map(|net| NodePortNetwork(Some(net)))
            .map_err(|_| format!("{text:?} is neither a network such as 192.0.2.0/24 nor `primary`")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn resolvers() {
        let read = |text| super::resolver(text).map(|a| a.to_string());
        assert_eq!(read("192.0.2.53").unwrap(), "192.0.2.53:53");
        assert_eq!(read("127.0.0.1:5353").unwrap(), "127.0.0.1:5353");
        assert_eq!(read("2001:db8::53").unwrap(), "[2001:db8::53]:53");
        assert_eq!(read("[2001:db8::53]:5353").unwrap(), "[2001:db8::53]:5353");
        for wrong in ["", "dns.example.org", "192.0.2.53:", "192.0.2.53:99999"] {
            assert!(read(wrong).unwrap_err().contains("IP:PORT"), "{wrong}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        let read = |text| super::bind_address(text, 10256).map(|b| b.0.map(|at| at.to_string()));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("127.0.0.1:1"), Ok(Some("127.0.0.1:1".into())));
        assert_eq!(read("0.0.0.0"), Ok(Some("0.0.0.0:10256".into())));
        assert_eq!(read("::"), Ok(Some("[::]:10256".into())));
        assert!(read("localhost").is_err());
    }

    #[test]
    fn is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
