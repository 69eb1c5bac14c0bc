//! Names that are not the cluster's: asked of the host's resolvers, kept for as long as they say. Whoever asks for a name
//! that is being asked for waits for the same answer.

mod cache;
mod exchange;
mod resolv;
mod upstream;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

pub use self::resolv::Resolv;
use self::{
    cache::{Cache, Hit, Key},
    exchange::Question,
    resolv::Follower,
    upstream::{Pool, Upstream},
};
use crate::{
    metrics::Metrics,
    wire::{Name, Rcode, Response},
};

/// How many names may be asked for at a time.
const UNDER_WAY: usize = 1000;
/// A resolver that takes longer than this is not waited for alone: the next is asked too.
const HEDGE: Duration = Duration::from_millis(350);
/// Clients give up after five seconds.
const DEADLINE: Duration = Duration::from_millis(4500);
/// Who has an old answer waits no longer than this for a new one.
const STALE_AFTER: Duration = Duration::from_millis(800);

#[derive(Clone, Debug)]
pub enum Upstreams {
    Fixed(Vec<SocketAddr>),
    /// A resolv.conf, followed when it changes.
    File(PathBuf),
}

/// A domain that has resolvers of its own.
#[derive(Clone, Debug)]
pub struct Stub {
    pub domain: Name,
    pub upstreams: Vec<SocketAddr>,
}

/// An answer that several may wait for: None until it is there, then whether anybody answered.
type Flight = watch::Receiver<Option<Option<Response>>>;

pub struct Forwarder {
    config: Upstreams,
    pools: Mutex<Pools>,
    /// The host's search domains, which pods have too.
    searches: Option<Mutex<Follower>>,
    /// Our own addresses: a question sent there would come back for ever.
    own: Vec<SocketAddr>,
    /// Where the sockets are made: the host's resolvers may listen on the host's loopback.
    outside: Handle,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Key, Flight>>,
    pub metrics: Arc<Metrics>,
}

struct Pools {
    follower: Option<Follower>,
    main: Pool,
    stubs: Vec<(Name, Pool)>,
}

impl Forwarder {
    pub fn new(config: Upstreams, own: Vec<SocketAddr>, outside: Handle) -> Self {
        let follower = match &config {
            Upstreams::File(path) => Some(Follower::new(path.clone())),
            Upstreams::Fixed(_) => None,
        };
        let pools = Mutex::new(Pools { follower, main: Pool::default(), stubs: vec![] });
        let (cache, flights, metrics) = (Mutex::default(), Mutex::default(), Arc::default());
        Forwarder { config, pools, searches: None, own, outside, cache, flights, metrics }
    }

    pub fn with_stubs(self, stubs: Vec<Stub>) -> Self {
        let stubs = stubs.into_iter().map(|stub| {
            let mut pool = Pool::default();
            pool.set(&self.others(&stub.upstreams));
            (stub.domain, pool)
        });
        lock(&self.pools).stubs = stubs.collect();
        self
    }

    /// `path`: the resolv.conf whose search domains pods get too.
    pub fn with_searches(self, path: PathBuf) -> Self {
        Forwarder { searches: Some(Mutex::new(Follower::new(path))), ..self }
    }

    /// All but ourselves.
    fn others(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let is_own = |a: &SocketAddr| self.own.iter().any(|o| o.ip() == a.ip() && (o.port() == a.port()));
        addresses.iter().filter(|a| !is_own(a)).copied().collect()
    }

    pub fn searches(&self) -> Vec<Name> {
        self.searches.as_ref().map_or(vec![], |f| lock(f).look(Instant::now()).searches.clone())
    }

    /// Whether we are asked what only we ask: then a resolver leads back to us.
    pub fn is_loop_probe(&self, name: &Name) -> bool {
        if !upstream::is_loop_probe(name) {
            return false;
        }
        let pools = lock(&self.pools);
        let _ = pools.main.came_back(name) || pools.stubs.iter().any(|(_, p)| p.came_back(name));
        true
    }

    /// Always an answer: SERVFAIL when no resolver gave one, nor is an old one left.
    pub async fn resolve(self: &Arc<Self>, name: &Name, rtype: u16) -> Response {
        let key = (name.clone(), rtype);
        let hit = lock(&self.cache).get(&key, Instant::now());
        let stale = match hit {
            Some(Hit::Fresh { response, renew }) => {
                self.metrics.cache_hits.fetch_add(1, Relaxed);
                if renew {
                    self.metrics.cache_prefetches.fetch_add(1, Relaxed);
                    self.fly(key);
                }
                return response;
            }
            Some(Hit::Stale(response)) => Some(response),
            None => None,
        };
        self.metrics.cache_misses.fetch_add(1, Relaxed);
        let patience = if stale.is_some() { STALE_AFTER } else { DEADLINE };
        let landed = match self.fly(key) {
            Some(flight) => timeout(patience, landing(flight)).await.ok().flatten(),
            None => None,
        };
        if landed.is_none() && stale.is_some() {
            self.metrics.cache_stale.fetch_add(1, Relaxed);
        }
        landed.or(stale).unwrap_or_else(|| Response::empty(Rcode::ServFail))
    }

    /// The flight for this question: one that is under way, or a new one. None: there are too many.
    fn fly(self: &Arc<Self>, key: Key) -> Option<Flight> {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&key) {
            return Some(flight.clone());
        }
        if flights.len() >= UNDER_WAY {
            self.metrics.count_rejected();
            return None;
        }
        let (landed, flight) = watch::channel(None);
        flights.insert(key.clone(), flight.clone());
        drop(flights);
        let (me, arrival) = (self.clone(), Arrival { forwarder: self.clone(), key: key.clone() });
        self.outside.spawn(async move {
            let answer = timeout(DEADLINE, me.race(&key)).await.ok().flatten();
            match &answer {
                Some(response) => {
                    let mut cache = lock(&me.cache);
                    cache.put(key, response.clone(), Instant::now());
                    me.metrics.cache_entries.store(cache.len() as u64, Relaxed);
                }
                None => {
                    me.metrics.forward_failures.fetch_add(1, Relaxed);
                }
            }
            drop(arrival);
            // Those who waited may be gone.
            let _ = landed.send(Some(answer));
        });
        Some(flight)
    }

    /// Asks one resolver after the other, sooner than the first has given up, until one gives an answer.
    async fn race(&self, (name, rtype): &Key) -> Option<Response> {
        let mut waiting = self.upstreams(name).into_iter();
        let mut asked = FuturesUnordered::new();
        let ask = |upstream: Arc<Upstream>| {
            let (question, metrics) = (Question { name: name.clone(), rtype: *rtype }, self.metrics.clone());
            // A task, so that one who is overtaken still learns that it was too slow.
            tokio::spawn(async move { upstream.ask(question, &metrics).await })
        };
        asked.push(ask(waiting.next()?));
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(Ok(Some(foreign))) => return Some(foreign.response),
                    Some(_) => asked.extend(waiting.next().map(&ask)),
                    None => return None,
                },
                () = sleep(HEDGE), if waiting.len() > 0 => asked.extend(waiting.next().map(&ask)),
            }
        }
    }

    /// Who is asked for a name: the longest stub domain above it decides.
    fn upstreams(&self, name: &Name) -> Vec<Arc<Upstream>> {
        let mut pools = lock(&self.pools);
        let Pools { follower, main, stubs } = &mut *pools;
        let above = stubs.iter().filter(|(domain, _)| name.labels_below(domain).is_some());
        if let Some((_, pool)) = above.max_by_key(|(domain, _)| domain.wire().len()) {
            return pool.order();
        }
        let addresses = match (&self.config, follower) {
            (_, Some(follower)) => follower.look(Instant::now()).nameservers.clone(),
            (Upstreams::Fixed(all), None) => all.clone(),
            (Upstreams::File(_), None) => vec![],
        };
        main.set(&self.others(&addresses));
        main.order()
    }
}

async fn landing(mut flight: Flight) -> Option<Response> {
    flight.wait_for(Option::is_some).await.ok()?.clone().flatten()
}

/// Takes a flight off the board, however it ends.
struct Arrival {
    forwarder: Arc<Forwarder>,
    key: Key,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        lock(&self.forwarder.flights).remove(&self.key);
    }
}

/// A panic while the lock was held leaves plain data behind, which is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Addresses of ours as upstreams would have them.
pub fn own_addresses(bind: &[SocketAddr]) -> Vec<SocketAddr> {
    let everywhere = |a: &SocketAddr| [IpAddr::from([127, 0, 0, 1])].map(|ip| SocketAddr::new(ip, a.port()));
    bind.iter().flat_map(|a| if a.ip().is_unspecified() { everywhere(a) } else { [*a] }).collect()
}
