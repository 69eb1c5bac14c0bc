//! Load balancers' addresses on the node's link: for each address one node of the link answers ARP and neighbour
//! solicitations and says so unasked when it begins to. The address stands on no interface: the proxy's rules catch what
//! arrives for it before any routing, so an interface address would only make the node itself answer on other ports.
//!
//! Which node it is follows from what all of them know ([`choose`]): the nodes that could serve the address and that are
//! heard on the link ([`peers`]). Nothing is asked of the API server for that, so an address moves within
//! [`peers::SILENCE`] of its node's last sign of life even when the control plane is what died.
//!
//! ```text
//!             a Service has an address                      its node is not heard any more
//!   at rest ---------------------------> listening (SETTLE) ------------------------------+
//!      ^                                      |  mine by choice                            |
//!      |                                      v                                            v
//!      +----- no Service has one ------- answering, announcing <--- the next node by choice
//! ```

mod choose;
mod frames;
mod observe;
mod peers;
mod socket;

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use kube::Client;
use sha2::{Digest, Sha256};
use skiff_client::life::Stop;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use self::{
    frames::Mac,
    observe::{Observed, Watches},
    peers::{PERIOD, Peers},
    socket::{Link, Socket},
};
use crate::network;

/// New listeners wait so long before they take an address: by then every other node has been heard.
const SETTLE: Duration = PERIOD.saturating_mul(2);
/// An announcement may be lost on the link; it is made so many times, one [`PERIOD`] apart.
const REPEATS: u8 = 4;

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// The address by which the link is found.
    pub node_ip: IpAddr,
    /// What tells the cluster's nodes from others on the same link, see [`cluster_id`].
    pub cluster: [u8; 8],
}

/// The same for all nodes of a cluster: made from the certificate (PEM) of its authority.
pub fn cluster_id(authority: &str) -> [u8; 8] {
    let digest = Sha256::digest(authority.trim().as_bytes());
    std::array::from_fn(|i| digest[i])
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Link(#[from] network::Error),
    #[error(
        "cannot listen on the link of {ip}: {cause}; load balancers' addresses are not announced by this node (this needs \
         CAP_NET_RAW in the node's network namespace)"
    )]
    Open { ip: IpAddr, cause: io::Error },
}

/// Runs until told to stop, on the thread that is inside the node's network namespace.
pub async fn run(config: Config, client: Client, stop: Stop) -> Result<(), Error> {
    let link = network::link_of(config.node_ip)?;
    debug!(interface = link.index, "load balancers' addresses are announced here");
    let mut watches = Watches::open(&client);
    let mut speaker = Speaker::open(config, link)?;
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = watches.next() => speaker.observed.take(event),
            frame = speaker.arp.receive() => speaker.arp(&frame),
            frame = speaker.peer_socket.receive() => speaker.peer(&frame),
            frame = receive(&speaker.ndp) => speaker.ndp(&frame),
            _ = tick.tick(), if speaker.is_active() => speaker.beat(),
        }
        watches.follow_slices(&client, speaker.observed.needs_slices());
        speaker.decide();
    }
    speaker.leave();
    Ok(())
}

/// Frames of a socket that is there only while it is needed.
async fn receive(socket: &Option<Socket>) -> Vec<u8> {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

struct Speaker {
    config: Config,
    link: Link,
    arp: Socket,
    peer_socket: Socket,
    /// Open while an IPv6 address is ours.
    ndp: Option<Socket>,
    observed: Observed,
    peers: Peers,
    /// Since when there has been something to announce in the cluster.
    active_since: Option<Instant>,
    mine: BTreeSet<IpAddr>,
    /// Announcements still to be made.
    repeats: u8,
}

impl Speaker {
    fn open(config: Config, link: Link) -> Result<Self, Error> {
        let failed = |cause| Error::Open { ip: config.node_ip, cause };
        let arp = Socket::open(link, frames::ARP).map_err(failed)?;
        let peer_socket = Socket::open(link, frames::PEERS).map_err(failed)?;
        let peers = Peers::new(&config.node_name);
        Ok(Speaker {
            config,
            link,
            arp,
            peer_socket,
            ndp: None,
            observed: Observed::default(),
            peers,
            active_since: None,
            mine: BTreeSet::new(),
            repeats: 0,
        })
    }

    fn is_active(&self) -> bool {
        self.active_since.is_some()
    }

    /// Once in a [`PERIOD`]: a sign of life, and what is still to be said.
    fn beat(&mut self) {
        if self.observed.other_nodes(&self.config.node_name) {
            self.say_hello(true);
        }
        if self.repeats > 0 {
            self.repeats -= 1;
            self.mine.iter().for_each(|ip| self.announce(*ip));
        }
    }

    fn decide(&mut self) {
        let now = Instant::now();
        match (self.observed.has_addresses(), self.active_since) {
            (true, None) => {
                self.active_since = Some(now);
                self.beat();
            }
            (false, Some(_)) => self.active_since = None,
            _ => {}
        }
        if self.peers.expire(now) {
            self.repeats = REPEATS;
        }
        let alone = !self.observed.other_nodes(&self.config.node_name);
        let settled = self.active_since.is_some_and(|since| alone || now.duration_since(since) >= SETTLE);
        let wanted = if settled && self.observed.is_complete() {
            choose::mine(&self.observed, &self.peers.alive(), &self.config.node_name)
        } else if self.is_active() {
            return;
        } else {
            BTreeSet::new()
        };
        self.take_over(wanted);
    }

    fn take_over(&mut self, wanted: BTreeSet<IpAddr>) {
        if wanted == self.mine {
            return;
        }
        for gone in self.mine.difference(&wanted) {
            info!(address = %gone, "another node answers for it, or nobody");
        }
        let new: Vec<IpAddr> = wanted.difference(&self.mine).copied().collect();
        self.mine = wanted;
        self.listen_for_neighbours();
        for ip in new {
            info!(address = %ip, "this node answers for it");
            self.announce(ip);
            self.repeats = REPEATS;
        }
    }

    /// IPv6 asks by multicast: the link must let the groups of our addresses in.
    fn listen_for_neighbours(&mut self) {
        let groups: Vec<Mac> = self.mine.iter().filter_map(|ip| frames::solicited_group(*ip)).collect();
        self.ndp = None;
        if groups.is_empty() {
            return;
        }
        match Socket::open_neighbours(self.link, &groups) {
            Ok(socket) => self.ndp = Some(socket),
            Err(e) => {
                warn!("cannot listen for IPv6 neighbours: {e}; IPv6 addresses are announced, but not answered for")
            }
        }
    }

    fn announce(&self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                for frame in frames::gratuitous_arp(ip, self.link.mac) {
                    self.arp.send(&frame);
                }
            }
            IpAddr::V6(ip) => self.arp.send(&frames::unsolicited_advertisement(ip, self.link.mac)),
        }
    }

    fn arp(&self, frame: &[u8]) {
        let Some(question) = frames::arp_request(frame) else { return };
        if self.mine.contains(&IpAddr::V4(question.target)) && question.sender_mac != self.link.mac {
            self.arp.send(&frames::arp_reply(&question, self.link.mac));
        }
    }

    fn ndp(&self, frame: &[u8]) {
        let Some(question) = frames::solicitation(frame) else { return };
        if self.mine.contains(&IpAddr::V6(question.target)) {
            self.arp.send(&frames::advertisement(&question, self.link.mac));
        }
    }

    fn peer(&mut self, frame: &[u8]) {
        let Some(hello) = frames::hello(frame).filter(|h| h.cluster == self.config.cluster) else { return };
        let changed = match hello.stays {
            true => self.peers.hear(hello.node, Instant::now()),
            false => self.peers.forget(hello.node),
        };
        // Whoever comes or goes, hosts may have been told something else: tell them again.
        if changed {
            self.repeats = REPEATS;
        }
    }

    fn say_hello(&self, stays: bool) {
        let hello = frames::Hello { cluster: self.config.cluster, node: &self.config.node_name, stays };
        self.peer_socket.send(&frames::hello_frame(&hello, self.link.mac));
    }

    /// The others take over without waiting for our silence.
    fn leave(&self) {
        if self.is_active() {
            self.say_hello(false);
        }
    }
}
