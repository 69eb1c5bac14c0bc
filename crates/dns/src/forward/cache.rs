//! What resolvers answered, for as long as they said, and somewhat longer in case they fall silent (RFC 8767).

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::wire::{Name, Rcode, Record, Response};

const CACHED: usize = 10_000;
/// Longer answers are not kept, so that the cache stays small whatever is asked.
const KEPT_RECORDS: usize = 50;
const KEPT_BYTES: usize = 4096;
const LONGEST: u32 = 3600;
/// How long a "no" without an SOA is kept, and any "no" at most.
const SHORTEST: u32 = 5;
const LONGEST_NO: u32 = 300;
/// How long after its end an answer may still be given when nobody gives a new one; and the TTL that it then has.
const STALE: Duration = Duration::from_secs(3600);
const STALE_TTL: u32 = 30;
/// An answer that was asked for this often is renewed in the last tenth of its life.
const WANTED: u32 = 2;

pub(super) type Key = (Name, u16);

/// The answers of the last while, at most so many; the oldest go first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<Key, Kept>,
    order: VecDeque<Key>,
}

#[derive(Debug)]
struct Kept {
    response: Response,
    since: Instant,
    seconds: u32,
    hits: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    /// With TTLs lowered by the time that passed; `renew`: it is wanted and about to end.
    Fresh { response: Response, renew: bool },
    /// Better than nothing.
    Stale(Response),
}

impl Cache {
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Hit> {
        let kept = self.kept.get_mut(key)?;
        let age = now.saturating_duration_since(kept.since);
        let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let left = kept.seconds.saturating_sub(seconds);
        if left == 0 {
            let stale = age < Duration::from_secs(kept.seconds.into()) + STALE;
            return stale.then(|| Hit::Stale(with_ttls(&kept.response, |_| STALE_TTL)));
        }
        kept.hits = kept.hits.saturating_add(1);
        let renew = kept.hits > WANTED && left <= kept.seconds / 10;
        if renew {
            // Once is enough, however many ask meanwhile.
            kept.hits = 0;
        }
        Some(Hit::Fresh { response: with_ttls(&kept.response, |ttl| ttl.saturating_sub(seconds)), renew })
    }

    pub(super) fn put(&mut self, key: Key, response: Response, now: Instant) {
        let seconds = lifetime(&response);
        if seconds == 0 || !is_small(&response) {
            return;
        }
        if self.kept.insert(key.clone(), Kept { response, since: now, seconds, hits: 0 }).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > CACHED {
            if let Some(oldest) = self.order.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }
}

fn with_ttls(response: &Response, ttl: impl Fn(u32) -> u32) -> Response {
    let mut response = response.clone();
    for record in response.answers.iter_mut().chain(&mut response.authority) {
        record.ttl = ttl(record.ttl);
    }
    response
}

fn records(response: &Response) -> impl Iterator<Item = &Record> {
    response.answers.iter().chain(&response.authority)
}

fn is_small(response: &Response) -> bool {
    let bytes: usize = records(response).map(|r| r.name.wire().len() + r.data.foreign_len()).sum();
    records(response).count() <= KEPT_RECORDS && bytes <= KEPT_BYTES
}

/// The smallest TTL of what was answered; for a "no", what the SOA says of it (RFC 2308, 5).
fn lifetime(response: &Response) -> u32 {
    match response.rcode {
        Rcode::NoError if !response.answers.is_empty() => {
            response.answers.iter().map(|r| r.ttl).min().unwrap_or(SHORTEST).min(LONGEST)
        }
        _ => {
            let said = records(response).map(|r| r.ttl.min(r.data.negative_ttl().unwrap_or(u32::MAX))).min();
            said.unwrap_or(SHORTEST).min(LONGEST_NO)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::{Data, rtype};

    fn a(ttl: u32) -> Record {
        Record { name: Name::root(), ttl, data: Data::A(Ipv4Addr::LOCALHOST) }
    }

    fn yes(answers: Vec<Record>) -> Response {
        Response { answers, ..Response::empty(Rcode::NoError) }
    }

    /// The TTL of what is given, and how.
    fn look(cache: &mut Cache, key: &Key, at: Instant) -> String {
        let ttl = |r: &Response| r.answers[0].ttl;
        match cache.get(key, at) {
            None => "none".into(),
            Some(Hit::Fresh { response, renew: false }) => format!("fresh {}", ttl(&response)),
            Some(Hit::Fresh { response, renew: true }) => format!("renew {}", ttl(&response)),
            Some(Hit::Stale(response)) => format!("stale {}", ttl(&response)),
        }
    }

    #[test]
    fn keeps_answers_as_long_as_they_say_and_a_while() {
        let key = (Name::parse("example.org").unwrap(), rtype::A);
        let mut cache = Cache::default();
        let start = Instant::now();
        let later = |s| start + Duration::from_secs(s);
        cache.put(key.clone(), yes(vec![a(10)]), start);
        assert_eq!(look(&mut cache, &key, later(3)), "fresh 7");
        assert_eq!(look(&mut cache, &key, later(10)), "stale 30");
        assert_eq!(look(&mut cache, &key, later(3609)), "stale 30");
        assert_eq!(look(&mut cache, &key, later(3610)), "none");
        assert_eq!(cache.get(&(key.0.clone(), rtype::AAAA), later(1)), None, "another type is another question");
        cache.put(key.clone(), yes(vec![a(10)]), later(20));
        assert_eq!((cache.kept.len(), cache.order.len()), (1, 1));
        assert_eq!(look(&mut cache, &key, later(25)), "fresh 5");
    }

    #[test]
    fn renews_what_is_wanted() {
        let key = (Name::parse("example.org").unwrap(), rtype::A);
        let mut cache = Cache::default();
        let start = Instant::now();
        let later = |s| start + Duration::from_secs(s);
        cache.put(key.clone(), yes(vec![a(100)]), start);
        assert_eq!(look(&mut cache, &key, later(95)), "fresh 5", "nobody wanted it before");
        assert_eq!(look(&mut cache, &key, later(95)), "fresh 5");
        assert_eq!(look(&mut cache, &key, later(96)), "renew 4");
        assert_eq!(look(&mut cache, &key, later(96)), "fresh 4", "once is enough");
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let mut bytes = vec![0, 0];
        bytes.extend([1, 2, 3, 4, minimum].iter().flat_map(|n: &u32| n.to_be_bytes()));
        Record { name: Name::root(), ttl, data: Data::Other { rtype: rtype::SOA, bytes } }
    }

    #[test]
    fn lifetimes() {
        let check = |rcode, answers: Vec<Record>, authority: Vec<Record>, expect| {
            let response = Response { answers, authority, ..Response::empty(rcode) };
            assert_eq!(lifetime(&response), expect, "{response:?}");
        };
        check(Rcode::NoError, vec![a(30), a(20)], vec![a(1)], 20);
        check(Rcode::NoError, vec![a(0), a(20)], vec![], 0);
        check(Rcode::NoError, vec![a(1_000_000)], vec![], LONGEST);
        check(Rcode::NxDomain, vec![], vec![soa(900, 60)], 60);
        check(Rcode::NxDomain, vec![], vec![soa(30, 60)], 30);
        check(Rcode::NxDomain, vec![], vec![soa(90_000, 86_400)], LONGEST_NO);
        check(Rcode::NxDomain, vec![a(10)], vec![soa(900, 60)], 10);
        check(Rcode::NoError, vec![], vec![soa(900, 60)], 60);
        check(Rcode::NoError, vec![], vec![], SHORTEST);
    }

    #[test]
    fn keeps_nothing_long_nor_fleeting() {
        let mut cache = Cache::default();
        let key = (Name::root(), rtype::A);
        let long = Record { data: Data::Other { rtype: rtype::TXT, bytes: vec![0; KEPT_BYTES] }, ..a(60) };
        for answers in [vec![a(60); KEPT_RECORDS + 1], vec![long], vec![a(0)]] {
            cache.put(key.clone(), yes(answers), Instant::now());
            assert!(cache.kept.is_empty() && cache.order.is_empty());
        }
    }

    #[test]
    fn forgets_the_oldest() {
        let mut cache = Cache::default();
        let key = |n: usize| (Name::parse(&format!("n{n}.example.org")).unwrap(), rtype::A);
        for n in 0..=CACHED {
            cache.put(key(n), Response::empty(Rcode::NxDomain), Instant::now());
        }
        assert_eq!((cache.order.len(), cache.kept.len()), (CACHED, CACHED));
        assert!(cache.get(&key(0), Instant::now()).is_none());
    }
}
