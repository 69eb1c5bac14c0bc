//! Names that are not the cluster's: asked of the host's resolvers, kept for as long as they say.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    runtime::Handle,
    sync::Semaphore,
    time::{timeout, timeout_at},
};

use crate::wire::{self, Foreign, Name, Rcode, Record, Response};

/// How long one resolver may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// After so long without an answer the question is sent again: UDP loses packets.
const AGAIN: Duration = Duration::from_millis(700);
/// How many questions may be under way; more are answered SERVFAIL.
const UNDER_WAY: usize = 1000;
const CACHED: usize = 10_000;
/// Longer answers are not kept, so that the cache stays small whatever is asked.
const KEPT_RECORDS: usize = 50;
const KEPT_BYTES: usize = 4096;
const LONGEST: u32 = 3600;
/// How long a "no" without an SOA is kept.
const SHORTEST: u32 = 5;
/// How often the resolver file is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub enum Upstreams {
    Fixed(Vec<SocketAddr>),
    /// A resolv.conf, followed when it changes.
    File(PathBuf),
}

pub struct Forwarder {
    upstreams: Upstreams,
    known: Mutex<Known>,
    /// Our own addresses: a question sent there would come back for ever.
    own: Vec<IpAddr>,
    /// Where the sockets are made: the host's resolvers may listen on the host's loopback.
    outside: Handle,
    cache: Mutex<Cache>,
    under_way: Semaphore,
}

#[derive(Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    changed: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Forwarder {
    pub fn new(upstreams: Upstreams, own: Vec<IpAddr>, outside: Handle) -> Self {
        Forwarder {
            upstreams,
            known: Mutex::default(),
            own,
            outside,
            cache: Mutex::default(),
            under_way: Semaphore::new(UNDER_WAY),
        }
    }

    /// Always an answer: SERVFAIL when no resolver gave one. Only answers count; a resolver that fails or refuses leaves
    /// the question to the next one.
    pub async fn resolve(&self, name: &Name, rtype: u16) -> Response {
        let key = (name.clone(), rtype);
        if let Some(hit) = lock(&self.cache).get(&key, Instant::now()) {
            return hit;
        }
        let Ok(_permit) = self.under_way.try_acquire() else { return Response::empty(Rcode::ServFail) };
        for upstream in self.addresses() {
            if let Some(answer) = self.ask(upstream, name, rtype).await
                && matches!(answer.rcode, Rcode::NoError | Rcode::NxDomain)
            {
                lock(&self.cache).put(key, answer.clone(), Instant::now());
                return answer;
            }
        }
        Response::empty(Rcode::ServFail)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let path = match &self.upstreams {
            Upstreams::Fixed(all) => return all.iter().filter(|a| !self.own.contains(&a.ip())).copied().collect(),
            Upstreams::File(path) => path,
        };
        let mut known = lock(&self.known);
        if known.looked.is_none_or(|at| at.elapsed() > LOOK_AGAIN) {
            known.looked = Some(Instant::now());
            let changed = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            if known.changed != changed || changed.is_none() {
                known.changed = changed;
                // A file that cannot be read now keeps its last good content.
                if let Ok(text) = std::fs::read_to_string(path) {
                    known.addresses = nameservers(&text, &self.own);
                }
            }
        }
        known.addresses.clone()
    }

    async fn ask(&self, upstream: SocketAddr, name: &Name, rtype: u16) -> Option<Response> {
        let (name, id) = (name.clone(), rand::random());
        let asked = self.outside.spawn(timeout(PATIENCE, exchange(upstream, id, name, rtype)));
        match asked.await {
            Ok(Ok(Ok(foreign))) => Some(foreign.response),
            Ok(Ok(Err(error))) => {
                tracing::debug!("resolver {upstream}: {error}");
                None
            }
            _ => None,
        }
    }
}

/// A panic while the lock was held leaves plain data behind, which is still good.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The resolvers that a resolv.conf names, in its order.
pub fn nameservers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut found = vec![];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(ip) = words.next().and_then(|w| w.parse().ok())
            && !own.contains(&ip)
        {
            found.push(SocketAddr::new(ip, 53));
        }
    }
    found
}

/// One question to one resolver: by UDP from a port that the kernel chooses at random, by TCP when the answer was cut.
async fn exchange(upstream: SocketAddr, id: u16, name: Name, rtype: u16) -> io::Result<Foreign> {
    let query = wire::encode_query(id, &name, rtype);
    let fits = |f: &Foreign| f.id == id && f.name == name && f.rtype == rtype;
    let here: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(here).await?;
    socket.connect(upstream).await?;
    let mut buffer = [0; 4096];
    let mut send_at = Instant::now();
    loop {
        if Instant::now() >= send_at {
            socket.send(&query).await?;
            send_at = Instant::now() + AGAIN;
        }
        let Ok(received) = timeout_at(send_at.into(), socket.recv(&mut buffer)).await else { continue };
        let length = received?;
        match wire::parse_foreign(&buffer[..length]).filter(fits) {
            Some(foreign) if foreign.truncated => return by_tcp(upstream, &query, fits).await,
            Some(foreign) => return Ok(foreign),
            // Not the answer to this question: somebody guesses. Wait for the true one.
            None => {}
        }
    }
}

async fn by_tcp(upstream: SocketAddr, query: &[u8], fits: impl Fn(&Foreign) -> bool) -> io::Result<Foreign> {
    let mut stream = TcpStream::connect(upstream).await?;
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    let foreign = wire::parse_foreign(&answer).filter(fits);
    foreign.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer to the question"))
}

type Key = (Name, u16);

/// The answers of the last while, at most so many; the oldest go first.
#[derive(Default)]
struct Cache {
    kept: HashMap<Key, Kept>,
    order: VecDeque<Key>,
}

struct Kept {
    response: Response,
    since: Instant,
    seconds: u32,
}

impl Cache {
    /// With TTLs lowered by the time that passed.
    fn get(&mut self, key: &Key, now: Instant) -> Option<Response> {
        let kept = self.kept.get(key)?;
        let age = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        if age >= kept.seconds {
            return None;
        }
        let mut response = kept.response.clone();
        for record in response.answers.iter_mut().chain(&mut response.authority) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(response)
    }

    fn put(&mut self, key: Key, response: Response, now: Instant) {
        let seconds = lifetime(&response);
        if seconds == 0 || !is_small(&response) {
            return;
        }
        if self.kept.insert(key.clone(), Kept { response, since: now, seconds }).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > CACHED {
            if let Some(oldest) = self.order.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }
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
    let ttl = match response.rcode {
        Rcode::NoError if !response.answers.is_empty() => response.answers.iter().map(|r| r.ttl).min(),
        _ => records(response).map(|r| r.ttl.min(r.data.negative_ttl().unwrap_or(u32::MAX))).min(),
    };
    ttl.unwrap_or(SHORTEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Data, rtype};

    #[test]
    fn reads_resolv_conf() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nnameserver 10.96.0.10\nnameserver nonsense\n";
        let own = ["10.96.0.10".parse().unwrap()];
        assert_eq!(nameservers(text, &own), ["10.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn keeps_answers_as_long_as_they_say() {
        let key = (Name::parse("example.org").unwrap(), rtype::A);
        let record = Record { name: key.0.clone(), ttl: 10, data: Data::A(Ipv4Addr::LOCALHOST) };
        let response = Response { answers: vec![record], ..Response::empty(Rcode::NoError) };
        let mut cache = Cache::default();
        let start = Instant::now();
        cache.put(key.clone(), response.clone(), start);
        let later = |s| start + Duration::from_secs(s);
        assert_eq!(cache.get(&key, later(3)).unwrap().answers[0].ttl, 7);
        assert_eq!(cache.get(&key, later(10)), None);
        assert_eq!(cache.get(&(key.0.clone(), rtype::AAAA), later(1)), None, "another type is another question");
        cache.put(key.clone(), response, later(20));
        assert_eq!((cache.kept.len(), cache.order.len()), (1, 1));
        assert_eq!(cache.get(&key, later(25)).unwrap().answers[0].ttl, 5);
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let mut bytes = vec![0, 0];
        bytes.extend([1, 2, 3, 4, minimum].iter().flat_map(|n: &u32| n.to_be_bytes()));
        Record { name: Name::root(), ttl, data: Data::Other { rtype: rtype::SOA, bytes } }
    }

    #[test]
    fn lifetimes() {
        let a = |ttl| Record { name: Name::root(), ttl, data: Data::A(Ipv4Addr::LOCALHOST) };
        let check = |rcode, answers: Vec<Record>, authority: Vec<Record>, expect| {
            let response = Response { answers, authority, ..Response::empty(rcode) };
            assert_eq!(lifetime(&response), expect, "{response:?}");
        };
        check(Rcode::NoError, vec![a(30), a(20)], vec![a(1)], 20);
        check(Rcode::NoError, vec![a(0), a(20)], vec![], 0);
        check(Rcode::NoError, vec![a(1_000_000)], vec![], LONGEST);
        check(Rcode::NxDomain, vec![], vec![soa(900, 60)], 60);
        check(Rcode::NxDomain, vec![], vec![soa(30, 60)], 30);
        check(Rcode::NxDomain, vec![a(10)], vec![soa(900, 60)], 10);
        check(Rcode::NoError, vec![], vec![soa(900, 60)], 60);
        check(Rcode::NoError, vec![], vec![], SHORTEST);
    }

    #[test]
    fn keeps_nothing_long_nor_fleeting() {
        let mut cache = Cache::default();
        let key = (Name::root(), rtype::A);
        let a = |ttl| Record { name: Name::root(), ttl, data: Data::A(Ipv4Addr::LOCALHOST) };
        let long = Record { data: Data::Other { rtype: rtype::TXT, bytes: vec![0; KEPT_BYTES] }, ..a(60) };
        for answers in [vec![a(60); KEPT_RECORDS + 1], vec![long], vec![a(0)]] {
            cache.put(key.clone(), Response { answers, ..Response::empty(Rcode::NoError) }, Instant::now());
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
        assert_eq!(cache.order.len(), CACHED);
        assert_eq!(cache.kept.len(), CACHED);
        assert!(cache.get(&key(0), Instant::now()).is_none());
    }
}
