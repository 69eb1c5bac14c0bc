//! Host ports: connections to a port of this node that lead to a pod. One nftables table of its own, in which a port is
//! one element of a map; the table is there only while a pod has host ports.
//!
//! A client on this node that sends from a loopback address is left alone: the kernel lets such packets leave for a pod
//! only where `route_localnet` is set, and that would open the node's loopback services to pods. `127.0.0.1:PORT` is
//! reached by clients that send from another address of the node.

mod plan;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use skiff_nft::{Batch, Kernel, Netlink, Ownership, conntrack, conntrack::Conntrack, diff};
use tracing::warn;

pub use plan::{Surroundings, wanted};

/// A port of this node and the pod's port behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// None: every address of the node.
    pub ip: Option<IpAddr>,
    /// The number in the IP header.
    pub protocol: u8,
    pub port: u16,
    pub to: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            6 => "TCP",
            17 => "UDP",
            _ => "SCTP",
        };
        write!(f, "{}/{protocol}", self.port)?;
        self.ip.map_or(Ok(()), |ip| write!(f, " of {ip}"))
    }
}

/// What one pod has of the node's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Namespace and name, for messages.
    pub pod: String,
    pub ip: IpAddr,
    pub ports: Vec<HostPort>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "host port {port} is taken by pod {by} on this node: delete that pod, choose another hostPort, or leave \
         spec.nodeName to the scheduler"
    )]
    Taken { port: HostPort, by: String },
    #[error("host ports: {0}")]
    Kernel(#[from] skiff_nft::Error),
}

type Owner = String;

/// The node's ports of all its pods. Methods block for about a millisecond; call them in the node's namespace.
#[derive(Debug)]
pub struct HostPorts {
    surroundings: Surroundings,
    published: Mutex<BTreeMap<Owner, Published>>,
    kernel: Mutex<Option<Netlink>>,
}

impl HostPorts {
    /// Takes over what pods of a former agent have, and removes what nobody has any more.
    pub fn open(kept: BTreeMap<Owner, Published>, surroundings: Surroundings) -> Self {
        let ports = HostPorts { surroundings, published: Mutex::new(kept), kernel: Mutex::default() };
        if let Err(e) = ports.apply(&ports.all()) {
            warn!("{e}; tried again with the next pod that has host ports");
        }
        ports
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<Owner, Published>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn publish(&self, owner: &str, wanted: Published) -> Result<(), Error> {
        let mut all = self.all();
        if wanted.ports.is_empty() && !all.contains_key(owner) {
            return Ok(());
        }
        if let Some((port, by)) = plan::conflict(&all, owner, &wanted.ports) {
            return Err(Error::Taken { port: port.clone(), by: by.into() });
        }
        let mut next = all.clone();
        next.insert(owner.into(), wanted.clone());
        self.apply(&next)?;
        *all = next;
        drop(all);
        forget(|flow| plan::bypasses(&wanted, &self.surroundings, flow));
        Ok(())
    }

    /// Fine for a pod that has none.
    pub fn withdraw(&self, owner: &str) -> Result<(), Error> {
        let mut all = self.all();
        let Some(former) = all.get(owner).cloned() else { return Ok(()) };
        let mut next = all.clone();
        next.remove(owner);
        self.apply(&next)?;
        *all = next;
        drop(all);
        forget(|flow| plan::used(&former, flow));
        Ok(())
    }

    /// Reads the tables each time: they are small and change with pods only.
    fn apply(&self, published: &BTreeMap<Owner, Published>) -> Result<(), Error> {
        let mut slot = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = match &mut *slot {
            Some(kernel) => kernel,
            None => slot.insert(Netlink::open(Ownership::Exclusive)?),
        };
        let applied = apply(kernel, published, &self.surroundings);
        if applied.is_err() {
            *slot = None;
        }
        applied
    }
}

fn apply(
    kernel: &mut impl Kernel,
    published: &BTreeMap<Owner, Published>,
    surroundings: &Surroundings,
) -> Result<(), Error> {
    let mut batch = Batch::default();
    for (id, want) in plan::tables(published.values(), surroundings) {
        batch.append(diff(&id, kernel.dump(&id)?.as_ref(), want.as_ref()));
    }
    if batch.is_empty() { Ok(()) } else { Ok(kernel.commit(&batch)?) }
}

/// Datagrams follow their first one's way for as long as they keep coming, so flows that the rules no longer mean are
/// forgotten. A failure only means that they end by themselves, minutes later.
fn forget(condemned: impl Fn(&conntrack::Flow) -> bool) {
    let cleaned = Conntrack::open().and_then(|mut c| c.clean(condemned));
    if let Err(e) = cleaned {
        warn!("host ports: {e}");
    }
}
