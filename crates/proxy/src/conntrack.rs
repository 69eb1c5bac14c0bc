//! Flows that the kernel remembers although the rules would send them elsewhere now: to endpoints that are gone, and past
//! a Service that did not exist when they began. Decides only; [`Conntrack`] carries it out.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

pub use skiff_nft::conntrack::{Conntrack, Error, Flow, STATUS_DNAT, STATUS_SEEN_REPLY, be_liberal};

use crate::ruleset::{Frontend, PortPlan};

const TCP: u8 = 6;

type Destination = (SocketAddr, u8);

/// What to look for after a sync.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cleanup {
    /// Frontends that lost endpoints, and those that still serve.
    lost: HashMap<Destination, HashSet<SocketAddr>>,
    /// Frontends that serve since now.
    fresh: HashSet<Destination>,
}

fn destination(f: &Frontend) -> Destination {
    (SocketAddr::new(f.addr, f.port), f.protocol.number())
}

impl Cleanup {
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.fresh.is_empty()
    }

    /// Adds what one Service's change means for flows.
    pub fn compare(&mut self, before: &[PortPlan], after: &[PortPlan]) {
        if before == after {
            return;
        }
        let old = by_frontend(before);
        let new = by_frontend(after);
        for (at, port) in &new {
            let served = old.get(at).is_some_and(|p| !p.cluster.is_empty());
            if !served && !port.cluster.is_empty() {
                self.fresh.insert(*at);
            }
        }
        for (at, port) in old.iter().filter(|((_, proto), _)| *proto != TCP) {
            let serving: HashSet<SocketAddr> =
                new.get(at).into_iter().flat_map(|p| p.serving.iter().copied()).collect();
            if port.serving.iter().any(|e| !serving.contains(e)) {
                self.lost.insert(*at, serving);
            }
        }
    }

    /// After a start nobody knows what happened before: every frontend is looked at.
    pub fn everything<'a>(plans: impl IntoIterator<Item = &'a [PortPlan]>) -> Self {
        let mut all = Cleanup::default();
        for (at, port) in plans.into_iter().flat_map(by_frontend) {
            if at.1 != TCP {
                all.lost.insert(at, port.serving.iter().copied().collect());
            }
            if !port.cluster.is_empty() {
                all.fresh.insert(at);
            }
        }
        all
    }

    /// True for flows that must be forgotten, so that their next packet meets the rules.
    pub fn condemns(&self, flow: &Flow) -> bool {
        let at = (flow.original, flow.proto);
        if flow.status & STATUS_DNAT != 0 {
            return self.lost.get(&at).is_some_and(|serving| !serving.contains(&flow.answers));
        }
        // A TCP flow that was answered is somebody's connection to this very address; one that was not hangs in SYN_SENT.
        let hangs = flow.proto != TCP || flow.status & STATUS_SEEN_REPLY == 0;
        hangs && self.fresh.contains(&at)
    }
}

fn by_frontend(plans: &[PortPlan]) -> HashMap<Destination, &PortPlan> {
    plans.iter().flat_map(|p| p.frontends.iter().map(move |f| (destination(&f.frontend), p))).collect()
}
