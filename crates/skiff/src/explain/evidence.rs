//! What was found out, as plain data: everything that the diagnosis reads, and nothing that it decides.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::{
    core::v1::{Event, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use skiff_nft::trace::Outcome;
use skiff_services::model::Protocol;

use super::question::Question;

/// Either what was seen, or why it could not be looked at.
pub(crate) type Seen<T> = Result<T, String>;

#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    pub(crate) question: Question,
    pub(crate) domain: String,
    /// What the cluster DNS address is.
    pub(crate) dns: IpAddr,
    pub(crate) client: Client,
    pub(crate) cluster: Cluster,
    /// Where a name was asked for.
    pub(crate) lookup: Option<Lookup>,
    pub(crate) attempts: Vec<Attempt>,
    /// What is listened on in the network namespace of a pod, by NAMESPACE/POD.
    pub(crate) sockets: BTreeMap<String, Seen<Vec<Socket>>>,
}

/// The API's objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<EndpointSlice>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) events: Vec<Event>,
    pub(crate) service_cidrs: Vec<ServiceCIDR>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Node,
    Outside,
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) kind: Kind,
    /// The pod's or the node's name.
    pub(crate) name: String,
    /// The pod's namespace; for others the one that short names mean.
    pub(crate) namespace: String,
    pub(crate) ip: IpAddr,
    /// The node whose rules its packets meet first.
    pub(crate) node: String,
    /// A pod of the node's network is the node, as its rules see it.
    pub(crate) host_network: bool,
    /// The pod's dnsPolicy.
    pub(crate) dns_policy: String,
}

/// A name asked for as the client's resolver would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) server: String,
    /// The names tried, in their order; the last one is the answer if there is any.
    pub(crate) asked: Vec<(String, Answered)>,
    /// What the zone, made anew of the API's objects, says to the last name. None: not a name of the zone.
    pub(crate) zone: Option<Answered>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The aliases on the way, and the addresses at its end (perhaps none).
    Found {
        aliases: Vec<String>,
        addresses: Vec<IpAddr>,
    },
    NoSuchName,
    Failed(String),
}

impl Lookup {
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match self.asked.last() {
            Some((_, Answered::Found { addresses, .. })) => addresses,
            _ => &[],
        }
    }
}

/// One way to try: who sends, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) from: Client,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
}

#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) way: Way,
    /// What the kernel of the client's node does to the first packet, by its own copy of the rules. None: it has none.
    pub(crate) kernel: Seen<Option<Outcome>>,
    /// What it ought to do, by rules made anew of the API's objects.
    pub(crate) wanted: Outcome,
    /// The element of the kernel's map that says so.
    pub(crate) element: Option<String>,
    pub(crate) connected: Seen<Connected>,
}

/// What came of a real connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Connected {
    After(std::time::Duration),
    Refused,
    TimedOut,
    Failed(String),
}

/// A socket that waits for clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Socket {
    pub(crate) protocol: Protocol,
    pub(crate) at: SocketAddr,
}
