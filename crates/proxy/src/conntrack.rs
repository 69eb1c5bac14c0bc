//! Flows that the kernel remembers although the rules would send them elsewhere now: to endpoints that are gone, and past
//! a Service that did not exist when they began. Decides only; [`Conntrack`] carries it out.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

pub use skiff_nft::conntrack::{
    Cleaned, Conntrack, Error, Flow, STATUS_DNAT, STATUS_SEEN_REPLY, Selection, be_liberal,
};

use crate::ruleset::{Frontend, PortPlan};

const TCP: u8 = 6;

type Destination = (SocketAddr, u8);

/// What to look for after a sync.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cleanup {
    /// Frontends that lost endpoints.
    lost: HashMap<Destination, Lost>,
    /// Frontends that serve since now.
    fresh: HashSet<Destination>,
    /// Nobody knows what happened before.
    anything: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Lost {
    gone: Vec<SocketAddr>,
    serving: HashSet<SocketAddr>,
}

/// The kernel goes through all flows for each selection: beyond so many it is cheaper to be told of all at once.
const SELECTIONS: usize = 8;

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
            let gone: Vec<SocketAddr> = port.serving.iter().filter(|e| !serving.contains(e)).copied().collect();
            if !gone.is_empty() {
                self.lost.insert(*at, Lost { gone, serving });
            }
        }
    }

    /// After a start nobody knows what happened before: every frontend is looked at.
    pub fn everything<'a>(plans: impl IntoIterator<Item = &'a [PortPlan]>) -> Self {
        let mut all = Cleanup { anything: true, ..Cleanup::default() };
        for (at, port) in plans.into_iter().flat_map(by_frontend) {
            if at.1 != TCP {
                all.lost.insert(at, Lost { gone: vec![], serving: port.serving.iter().copied().collect() });
            }
            if !port.cluster.is_empty() {
                all.fresh.insert(at);
            }
        }
        all
    }

    /// Forgets the flows that the rules no longer mean.
    pub fn carry_out(&self, conntrack: &mut Conntrack) -> Result<Cleaned, Error> {
        match self.selections() {
            Some(selections) => conntrack.clean_selected(&selections, |flow| self.condemns(flow)),
            None => conntrack.clean(|flow| self.condemns(flow)),
        }
    }

    /// All flows that can be condemned are among these. None: look at every flow.
    fn selections(&self) -> Option<Vec<Selection>> {
        let one = |(original, proto): &Destination, answers| Selection { proto: *proto, original: *original, answers };
        let fresh = self.fresh.iter().map(|at| one(at, None));
        let lost = self.lost.iter().flat_map(|(at, lost)| lost.gone.iter().map(move |gone| one(at, Some(*gone))));
        let some: Vec<Selection> = fresh.chain(lost).take(SELECTIONS + 1).collect();
        (!self.anything && some.len() <= SELECTIONS).then_some(some)
    }

    /// True for flows that must be forgotten, so that their next packet meets the rules.
    pub fn condemns(&self, flow: &Flow) -> bool {
        let at = (flow.original, flow.proto);
        if flow.status & STATUS_DNAT != 0 {
            return self.lost.get(&at).is_some_and(|l| !l.serving.contains(&flow.answers));
        }
        // A TCP flow that was answered is somebody's connection to this very address; one that was not hangs in SYN_SENT.
        let hangs = flow.proto != TCP || flow.status & STATUS_SEEN_REPLY == 0;
        hangs && self.fresh.contains(&at)
    }
}

fn by_frontend(plans: &[PortPlan]) -> HashMap<Destination, &PortPlan> {
    plans.iter().flat_map(|p| p.frontends.iter().map(move |f| (destination(&f.frontend), p))).collect()
}
