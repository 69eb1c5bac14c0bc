//! Questions in, answers out. What the zone can say is said at once; what others must be asked for is waited for aside,
//! so that no question that only needs the zone ever waits.

mod pending;
mod steer;
pub(crate) mod tcp;
mod udp;

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use self::pending::Pending;
pub use self::udp::Lanes;
use crate::{
    acl::Allowed,
    forward::Forwarder,
    metrics::Metrics,
    quick, search,
    wire::{self, CLASS_IN, Name, Query, Rcode, Record, Reject, Response, rtype},
    zone::{Answer, Zone, reverse_address},
};

/// How far a chain of aliases is followed.
const CHAIN: usize = 8;

pub struct Server {
    /// None until the first lists have arrived.
    zone: RwLock<Option<Zone>>,
    domain: Name,
    allowed: Allowed,
    forwarder: Arc<Forwarder>,
    /// Whether a walk through a search path ends at its first question; see [`search`].
    end_walks: bool,
    pending: Arc<Pending>,
    pub metrics: Arc<Metrics>,
}

/// What a question leads to.
enum Step {
    Done(Vec<u8>),
    /// The answer needs others.
    Ask(Query),
    Silence,
}

impl Server {
    pub fn new(domain: Name, forwarder: Arc<Forwarder>, allowed: Allowed) -> Self {
        let metrics = forwarder.metrics.clone();
        let (zone, pending) = (RwLock::new(None), Arc::default());
        Server { zone, domain, allowed, forwarder, end_walks: false, pending, metrics }
    }

    pub fn ending_walks(self, end_walks: bool) -> Self {
        Server { end_walks, ..self }
    }

    pub fn allowing(self, allowed: Allowed) -> Self {
        Server { allowed, ..self }
    }

    pub fn zone(&self) -> RwLockReadGuard<'_, Option<Zone>> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn zone_mut(&self) -> RwLockWriteGuard<'_, Option<Zone>> {
        self.zone.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The short cut, where it leads anywhere.
    fn quick(&self, zone: Option<&Zone>, message: &[u8], out: &mut [u8]) -> Option<(usize, Rcode)> {
        let (length, rcode) = quick::answer(zone?, message, out)?;
        // A name that does not exist may be a step on a walk.
        (!self.end_walks || rcode != Rcode::NxDomain).then_some((length, rcode))
    }

    /// Decides at once where that is possible.
    fn first(&self, zone: Option<&Zone>, message: &[u8], from: IpAddr, limit: impl Fn(&Query) -> usize) -> Step {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Reject::Silently) => return Step::Silence,
            Err(Reject::With(id, rcode)) => return Step::Done(wire::encode_reject(id, rcode)),
        };
        let plain = |rcode| Step::Done(wire::encode(&query, &Response::empty(rcode), limit(&query)));
        if !self.allowed.has(from) {
            return plain(Rcode::Refused);
        }
        if query.edns.is_some_and(|e| e.version > 0) {
            return Step::Done(wire::encode_bad_version(&query));
        }
        if query.class != CLASS_IN {
            return plain(Rcode::Refused);
        }
        if query.rtype == rtype::OPT || (rtype::TKEY..rtype::ANY).contains(&query.rtype) {
            // Zone transfers and other things that are no data.
            return plain(Rcode::NotImp);
        }
        match self.look_up(zone, &query.name, query.rtype) {
            Answer::Here(response) if self.walk(zone, &query, &response, from).is_none() => {
                Step::Done(wire::encode(&query, &turned(response, query.id), limit(&query)))
            }
            Answer::Elsewhere if self.forwarder.is_loop_probe(&query.name) => plain(Rcode::Refused),
            _ => Step::Ask(query),
        }
    }

    fn look_up(&self, zone: Option<&Zone>, name: &Name, rtype: u16) -> Answer {
        match zone {
            Some(zone) => zone.answer(name, rtype),
            // Before the first lists have arrived, "no such name" would be a lie.
            None if name.labels_below(&self.domain).is_some() || reverse_address(name).is_some() => {
                Answer::Here(Response::empty(Rcode::ServFail))
            }
            None => Answer::Elsewhere,
        }
    }

    /// The walk through a pod's search path that a "no such name" would go on with.
    fn walk(&self, zone: Option<&Zone>, query: &Query, said: &Response, from: IpAddr) -> Option<search::Walk> {
        if !self.end_walks || said.rcode != Rcode::NxDomain {
            return None;
        }
        search::walk(zone?, &query.name, query.rtype, from)
    }

    /// The answer to a question that needs others; `from` asks it.
    async fn resolve(&self, query: &Query, from: IpAddr) -> Response {
        let (said, walk) = {
            let zone = self.zone();
            let said = self.look_up(zone.as_ref(), &query.name, query.rtype);
            let walk = match &said {
                Answer::Here(said) => self.walk(zone.as_ref(), query, said, from),
                _ => None,
            };
            (said, walk)
        };
        match (said, walk) {
            (Answer::Here(said), Some(walk)) => self.end_walk(query, said, walk).await,
            (Answer::Here(said), None) => said,
            _ => self.follow(&query.name, query.rtype).await,
        }
    }

    /// Takes the rest of a walk in the client's place. Only a name that is found ends it here.
    async fn end_walk(&self, query: &Query, no: Response, walk: search::Walk) -> Response {
        for name in walk.candidates(&self.forwarder.searches()) {
            let response = self.follow(&name, query.rtype).await;
            match response.rcode {
                Rcode::NoError => {
                    let data = wire::Data::Cname(name);
                    return behind(vec![Record { name: query.name.clone(), ttl: walk.ttl, data }], response);
                }
                Rcode::NxDomain => {}
                // Unknown, so the client had better walk on itself.
                _ => return no,
            }
        }
        no
    }

    /// Follows aliases and asks upstream.
    async fn follow(&self, name: &Name, rtype: u16) -> Response {
        let mut chain: Vec<Record> = vec![];
        let mut name = name.clone();
        while chain.len() < CHAIN && !chain.iter().any(|c| c.name == name) {
            let answer = self.look_up(self.zone().as_ref(), &name, rtype);
            match answer {
                Answer::Alias { cname, target } => {
                    chain.push(cname);
                    if rtype == rtype::CNAME {
                        break;
                    }
                    name = target;
                }
                Answer::Here(response) => return behind(chain, response),
                Answer::Elsewhere => return behind(chain, self.forwarder.resolve(&name, rtype).await),
            }
        }
        behind(chain, Response { authoritative: true, ..Response::empty(Rcode::NoError) })
    }
}

/// Addresses in an order that changes from question to question, so that clients which take the first one spread.
pub(crate) fn turned(mut response: Response, id: u16) -> Response {
    let is_address = |r: &Record| matches!(r.data.rtype(), rtype::A | rtype::AAAA);
    if response.answers.len() > 1 && response.answers.iter().all(is_address) {
        let by = usize::from(id) % response.answers.len();
        response.answers.rotate_left(by);
    }
    response
}

/// The aliases in front of what they led to. An alias that leads nowhere is still an answer: the name itself exists.
fn behind(chain: Vec<Record>, mut response: Response) -> Response {
    if chain.is_empty() {
        return response;
    }
    response.rcode = Rcode::NoError;
    response.authoritative = true;
    response.answers.splice(0..0, chain);
    response
}
