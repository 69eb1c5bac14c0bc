//! The resolvers: which is asked first, which is down, and which would lead back to us.
//!
//! ```text
//!   up --(three failures in a row)--> down --(answers a probe)--> up
//!   any --(our own probe comes in)--> loop, until the configuration changes
//! ```

use std::{
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::exchange::{Question, exchange};
use crate::{
    metrics::Metrics,
    wire::{Foreign, Name, Rcode, rtype},
};

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
const FAILURES: u32 = 3;
/// Pauses between probes of a resolver that is down.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The last label of names that only we ask for.
const LOOP_LABEL: &[u8] = b"skiff-dns-loop-probe";

#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    failures: AtomicU32,
    down: AtomicBool,
    looped: AtomicBool,
    /// Nobody else knows this name, so whoever asks us for it was asked by us.
    token: u64,
    asked: AtomicU64,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Arc<Self> {
        let (failures, down, looped) = (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Upstream { address, failures, down, looped, token: rand::random(), asked: AtomicU64::new(0) })
    }

    /// One that is down is asked after all others; one that leads back to us, never.
    pub(super) fn rank(&self) -> Option<u8> {
        (!self.looped.load(Relaxed)).then(|| u8::from(self.down.load(Relaxed)))
    }

    /// A usable answer; "no such name" is one, failure and refusal are not.
    pub(super) async fn ask(self: &Arc<Self>, question: Question, metrics: &Arc<Metrics>) -> Option<Foreign> {
        let start = Instant::now();
        if self.asked.fetch_add(1, Relaxed) == 0 {
            tokio::spawn(self.clone().probe_for_loop());
        }
        let answer = timeout(PATIENCE, exchange(self.address, question)).await;
        let answer = match answer {
            Ok(Ok(foreign)) => {
                metrics.forward.observe(start.elapsed(), 1);
                self.failures.store(0, Relaxed);
                Some(foreign)
            }
            Ok(Err(error)) => self.failed(&error.to_string(), metrics),
            Err(_) => self.failed("no answer", metrics),
        };
        answer.filter(|f| matches!(f.response.rcode, Rcode::NoError | Rcode::NxDomain))
    }

    fn failed<T>(self: &Arc<Self>, why: &str, metrics: &Arc<Metrics>) -> Option<T> {
        tracing::debug!("resolver {}: {why}", self.address);
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if failures >= FAILURES && !self.down.swap(true, Relaxed) {
            tracing::warn!("resolver {} is down ({why}); it is asked last until it answers again", self.address);
            metrics.upstreams_down.fetch_add(1, Relaxed);
            tokio::spawn(revive(Arc::downgrade(self), metrics.clone()));
        }
        None
    }

    async fn probe_for_loop(self: Arc<Self>) {
        let label = format!("{:016x}", self.token);
        let Some(name) = Name::from_labels([label.as_bytes(), LOOP_LABEL]) else { return };
        // What it answers does not matter; whether we are asked does.
        let _ = timeout(PATIENCE, exchange(self.address, Question { name, rtype: rtype::TXT })).await;
    }

    /// We were asked for this name. True when we had asked this resolver for it.
    pub(super) fn came_back(&self, name: &Name) -> bool {
        let mine =
            matches!(name.labels()[..], [label, LOOP_LABEL] if label == format!("{:016x}", self.token).as_bytes());
        if mine && !self.looped.swap(true, Relaxed) {
            tracing::error!(
                "resolver {} asks us what we ask it: it is not asked any more; give another with --dns-upstream \
                 (--upstream for skiff dns), or correct resolv.conf",
                self.address
            );
        }
        mine
    }
}

/// Our own probes, and everything that looks like one.
pub(super) fn is_loop_probe(name: &Name) -> bool {
    name.labels().last() == Some(&LOOP_LABEL)
}

/// Asks a resolver that is down, less and less often, until it answers or nobody uses it any more.
async fn revive(upstream: Weak<Upstream>, metrics: Arc<Metrics>) {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let Some(upstream) = upstream.upgrade() else { break };
        let probe = exchange(upstream.address, Question { name: Name::root(), rtype: rtype::NS });
        if let Ok(Ok(_)) = timeout(PATIENCE, probe).await {
            tracing::info!("resolver {} answers again", upstream.address);
            upstream.failures.store(0, Relaxed);
            upstream.down.store(false, Relaxed);
            break;
        }
    }
    metrics.upstreams_down.fetch_sub(1, Relaxed);
}

/// Resolvers in their order, with what is known of each.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Arc<Upstream>>);

impl Pool {
    /// Takes over new addresses; what is known of the old ones stays.
    pub(super) fn set(&mut self, addresses: &[SocketAddr]) {
        if self.0.iter().map(|u| u.address).eq(addresses.iter().copied()) {
            return;
        }
        let old = std::mem::take(&mut self.0);
        let same = |a: &SocketAddr| old.iter().find(|u| u.address == *a && u.rank().is_some()).cloned();
        self.0 = addresses.iter().map(|a| same(a).unwrap_or_else(|| Upstream::new(*a))).collect();
    }

    /// In the order in which to ask.
    pub(super) fn order(&self) -> Vec<Arc<Upstream>> {
        let mut all: Vec<_> = self.0.iter().filter_map(|u| Some((u.rank()?, u.clone()))).collect();
        all.sort_by_key(|(rank, _)| *rank);
        all.into_iter().map(|(_, upstream)| upstream).collect()
    }

    pub(super) fn came_back(&self, name: &Name) -> bool {
        self.0.iter().any(|u| u.came_back(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_pool() {
        let at = |n: u8| SocketAddr::from(([192, 0, 2, n], 53));
        let mut pool = Pool::default();
        pool.set(&[at(1), at(2), at(3)]);
        let order = |pool: &Pool| pool.order().iter().map(|u| u.address).collect::<Vec<_>>();
        assert_eq!(order(&pool), [at(1), at(2), at(3)]);
        pool.0[0].down.store(true, Relaxed);
        assert_eq!(order(&pool), [at(2), at(3), at(1)]);
        pool.set(&[at(3), at(1)]);
        assert_eq!(order(&pool), [at(3), at(1)], "what is known stays");
        let token = format!("{:016x}.skiff-dns-loop-probe", pool.0[0].token);
        assert!(!pool.came_back(&Name::parse("0.skiff-dns-loop-probe").unwrap()));
        assert!(pool.came_back(&Name::parse(&token).unwrap()));
        assert_eq!(order(&pool), [at(1)]);
        assert!(is_loop_probe(&Name::parse(&token).unwrap()) && !is_loop_probe(&Name::root()));
    }
}
