//! The pod network of one node: a bridge with the first address of the node's pod range, a network namespace and a veth
//! pair for each pod, routes to the other nodes' ranges.
//!
//! A pod's own address is a /32 and everything leaves by the gateway, also towards a pod beside it: what the proxy
//! translated on the way out must come back through it, and on one Ethernet the answer would take the short cut.
//!
//! Namespaces with their links are made ahead of use ([`POOL`]), so a new pod only needs its address and routes.

mod ipam;
mod ips;
mod link;
mod messages;
mod namespace;
mod netlink;
pub mod routes;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use ipnet::IpNet;
use rtnetlink::packet_route::{RouteNetlinkMessage, link::LinkAttribute};
use serde::{Deserialize, Serialize};
use tracing::warn;

use self::{ipam::Ipam, namespace::Namespace, netlink::Netlink};
pub use self::{
    ips::Ips,
    link::{Link, link_of},
};
use crate::hostports::HostPort;

pub const BRIDGE: &str = "skiff0";
/// Namespaces that stand ready.
const POOL: usize = 3;
/// eth0 is the first device after lo in a fresh namespace; asked from the kernel, not assumed.
const POD_DEVICE: &str = "eth0";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Address(#[from] ipam::Error),
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error("the device {0} is missing although it was just made")]
    Missing(String),
    #[error("no Ethernet interface has the node's address {0}: give the address of one with --node-ip")]
    NoLink(IpAddr),
    #[error("{path}: {cause}")]
    File { path: PathBuf, cause: io::Error },
}

/// What a pod has of the network; kept in the pod's record so that the next agent finds it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub ip: IpAddr,
    /// Of the other family, in a cluster that has both.
    #[serde(default)]
    pub second_ip: Option<IpAddr>,
    pub netns: PathBuf,
    /// The host's end of the veth pair.
    pub link: String,
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

impl Attachment {
    pub fn ips(&self) -> Ips {
        Ips::new(self.ip, self.second_ip)
    }
}

#[derive(Debug)]
struct Spare {
    namespace: Namespace,
    link: String,
    device: u32,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    bridge: u32,
    mtu: u32,
    gateways: Ips,
    ipams: Mutex<Ipams>,
    node: Mutex<Netlink>,
    spares: Mutex<Vec<Spare>>,
}

/// One for each family, the first one's address being the first of a pod.
#[derive(Debug)]
struct Ipams {
    first: Ipam,
    second: Option<Ipam>,
}

impl Ipams {
    fn iter(&self) -> impl Iterator<Item = &Ipam> {
        [&self.first].into_iter().chain(&self.second)
    }

    fn keep(&mut self, owner: &str, attachment: &Attachment) {
        for ip in attachment.ips().iter() {
            self.first.keep(ip, owner);
            self.second.iter_mut().for_each(|s| s.keep(ip, owner));
        }
    }

    /// Both or none.
    fn allocate(&mut self, owner: &str) -> Result<Ips, ipam::Error> {
        let first = self.first.allocate(owner)?;
        let second = self.second.as_mut().map(|s| s.allocate(owner)).transpose();
        let second = second.inspect_err(|_| self.first.release(owner))?;
        Ok(Ips::new(first, second))
    }

    fn release(&mut self, owner: &str) {
        self.first.release(owner);
        self.second.iter_mut().for_each(|s| s.release(owner));
    }
}

/// Cheap to clone; all methods block for about a millisecond and none waits for anything but the kernel.
#[derive(Clone, Debug)]
pub struct Network(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn sysctl(name: &str, value: &str) {
    let path = Path::new("/proc/sys").join(name);
    match fs::write(&path, value) {
        Ok(()) => {}
        // The module behind it is not loaded: there is nothing to switch.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => warn!("cannot set {} to {value}: {e}", path.display()),
    }
}

impl Network {
    /// Sets up the node's side in the namespace of the calling thread. Pods get an address of `pod_range`, and one of
    /// `second`, a range of the other family. `kept` are the attachments of pods that still run; namespaces and links of
    /// any other pod are removed.
    pub fn open(
        directory: PathBuf,
        pod_range: IpNet,
        second: Option<IpNet>,
        kept: &[(String, Attachment)],
    ) -> Result<Self, Error> {
        let mut ipams = Ipams { first: Ipam::new(pod_range)?, second: second.map(Ipam::new).transpose()? };
        kept.iter().for_each(|(owner, attachment)| ipams.keep(owner, attachment));
        let gateways = Ips::new(ipams.first.gateway(), ipams.second.as_ref().map(Ipam::gateway));
        fs::create_dir_all(&directory).map_err(|cause| Error::File { path: directory.clone(), cause })?;
        sysctl("net/ipv4/ip_forward", "1");
        sysctl("net/ipv4/conf/all/send_redirects", "0");
        sysctl("net/ipv4/conf/default/send_redirects", "0");
        if gateways.iter().any(|g| g.is_ipv6()) {
            sysctl("net/ipv6/conf/all/forwarding", "1");
        }
        let mut node = Netlink::open()?;
        let mtu = 1500;
        node.send(vec![messages::bridge(BRIDGE, bridge_mac(gateways.first), mtu), messages::link_up(BRIDGE)])?;
        sysctl("net/bridge/bridge-nf-call-iptables", "0");
        sysctl("net/bridge/bridge-nf-call-ip6tables", "0");
        let bridge = index_of(&mut node, BRIDGE)?;
        // The address serves at once: nobody else on the bridge can have it.
        sysctl(&format!("net/ipv6/conf/{BRIDGE}/accept_dad"), "0");
        node.send(ipams.iter().map(|i| messages::address(bridge, i.gateway(), i.prefix())).collect())?;
        let shared = Shared {
            directory,
            bridge,
            mtu,
            gateways,
            ipams: Mutex::new(ipams),
            node: Mutex::new(node),
            spares: Mutex::default(),
        };
        let network = Network(Arc::new(shared));
        network.sweep(kept)?;
        Ok(network)
    }

    pub fn gateways(&self) -> Ips {
        self.0.gateways
    }

    /// A pod's namespace with its address and routes.
    pub fn attach(&self, owner: &str) -> Result<Attachment, Error> {
        let spare = lock(&self.0.spares).pop();
        let mut spare = match spare {
            Some(spare) => spare,
            None => self.0.make()?,
        };
        let ips = lock(&self.0.ipams).allocate(owner).inspect_err(|_| self.0.discard(&spare))?;
        ips.iter().for_each(|ip| self.0.forget_neighbour(ip));
        let requests = ips.iter().zip(self.0.gateways.iter()).flat_map(|(ip, gateway)| {
            let whole = if ip.is_ipv4() { 32 } else { 128 };
            [
                messages::address(spare.device, ip, whole),
                messages::link_route(spare.device, gateway),
                messages::default_route(spare.device, gateway),
            ]
        });
        if let Err(e) = spare.namespace.inside.send(requests.collect()) {
            lock(&self.0.ipams).release(owner);
            self.0.discard(&spare);
            return Err(e.into());
        }
        let (ip, second_ip) = (ips.first, ips.second);
        Ok(Attachment { ip, second_ip, netns: spare.namespace.path, link: spare.link, host_ports: vec![] })
    }

    /// Takes a pod off the network. Goes on over errors and reports the first.
    pub fn detach(&self, owner: &str, attachment: &Attachment) -> Result<(), Error> {
        let link = self.0.delete_link(&attachment.link);
        let removed =
            namespace::remove(&attachment.netns).map_err(|cause| Error::File { path: attachment.netns.clone(), cause });
        lock(&self.0.ipams).release(owner);
        link.and(removed)
    }

    /// Fills the pool. Meant for a thread of its own, which must be in the node's namespace.
    pub fn fill(&self) -> Result<(), Error> {
        while lock(&self.0.spares).len() < POOL {
            let spare = self.0.make()?;
            lock(&self.0.spares).push(spare);
        }
        Ok(())
    }

    /// Removes what stands ready; pods keep theirs.
    pub fn close(&self) {
        for spare in lock(&self.0.spares).drain(..) {
            self.0.discard(&spare);
        }
    }

    fn sweep(&self, kept: &[(String, Attachment)]) -> Result<(), Error> {
        let known = |link: &str| kept.iter().any(|(_, a)| a.link == link);
        let found = links(&mut lock(&self.0.node))?;
        for (name, controller) in found {
            if controller == Some(self.0.bridge) && !known(&name) {
                self.0.delete_link(&name)?;
            }
        }
        let directory = &self.0.directory;
        let file = |cause| Error::File { path: directory.clone(), cause };
        for entry in fs::read_dir(directory).map_err(file)? {
            let path = entry.map_err(file)?.path();
            if !kept.iter().any(|(_, a)| a.netns == path) {
                namespace::remove(&path).map_err(|cause| Error::File { path, cause })?;
            }
        }
        Ok(())
    }
}

impl Shared {
    fn make(&self) -> Result<Spare, Error> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let link = format!("skiff{}", &id[..8]);
        let mut namespace = Namespace::create(self.directory.join(&id))?;
        let request = messages::veth(&link, namespace.fd(), self.bridge, self.mtu);
        let made = lock(&self.node).send(vec![request]).map_err(Error::from).and_then(|()| {
            namespace.inside.send(vec![messages::link_up(POD_DEVICE)])?;
            index_of(&mut namespace.inside, POD_DEVICE)
        });
        match made {
            Ok(device) => Ok(Spare { namespace, link, device }),
            Err(e) => {
                // The link goes with its namespace.
                let _ = namespace::remove(&namespace.path);
                Err(e)
            }
        }
    }

    /// Best effort: what cannot be removed now is swept by the next start.
    fn discard(&self, spare: &Spare) {
        if let Err(e) = self.delete_link(&spare.link) {
            warn!("{e}");
        }
        if let Err(e) = namespace::remove(&spare.namespace.path) {
            warn!("{}: {e}", spare.namespace.path.display());
        }
    }

    /// Without this the node would send to the hardware address of the pod that had the address before, for seconds.
    fn forget_neighbour(&self, ip: IpAddr) {
        const ENOENT: i32 = 2;
        match lock(&self.node).send(vec![messages::forget_neighbour(self.bridge, ip)]) {
            Err(e) if !e.is(ENOENT) => warn!("{e}"),
            _ => {}
        }
    }

    fn delete_link(&self, name: &str) -> Result<(), Error> {
        const ENODEV: i32 = 19;
        match lock(&self.node).send(vec![messages::delete_link(name)]) {
            Err(e) if !e.is(ENODEV) => Err(e.into()),
            _ => Ok(()),
        }
    }
}

/// Locally administered, made from the gateway's address.
fn bridge_mac(gateway: IpAddr) -> [u8; 6] {
    let tail = match gateway {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => {
            let o = a.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    [0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]]
}

/// Name and controller (the bridge it is in) of every device, with index.
fn devices(netlink: &mut Netlink) -> Result<Vec<(u32, String, Option<u32>)>, Error> {
    let mut found = vec![];
    for message in netlink.dump(messages::all_links())? {
        let RouteNetlinkMessage::NewLink(link) = message else { continue };
        let mut name = None;
        let mut controller = None;
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(n) => name = Some(n),
                LinkAttribute::Controller(c) => controller = Some(c),
                _ => {}
            }
        }
        found.extend(name.map(|n| (link.header.index, n, controller)));
    }
    Ok(found)
}

fn links(netlink: &mut Netlink) -> Result<Vec<(String, Option<u32>)>, Error> {
    Ok(devices(netlink)?.into_iter().map(|(_, name, controller)| (name, controller)).collect())
}

fn index_of(netlink: &mut Netlink, name: &str) -> Result<u32, Error> {
    let all = devices(netlink)?;
    all.into_iter().find(|(_, n, _)| n == name).map(|(i, ..)| i).ok_or_else(|| Error::Missing(name.into()))
}
