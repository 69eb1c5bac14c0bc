//! The one reconcile loop: events mark keys dirty, workers bring one key at a time to its wanted state. A key is never
//! worked on twice at once; whatever marks it meanwhile makes it run once more.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::Notify, time::Instant};

use crate::{cache::Key, life::Stop};

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How a reconciliation ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing to do until something changes.
    Settled,
    /// Time alone will change something: look again.
    Again(Duration),
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    /// Waiting in `ready`, or to run once more after the run in progress.
    dirty: HashSet<Key>,
    running: HashSet<Key>,
    later: BinaryHeap<Reverse<(Instant, Key)>>,
    /// The one valid entry of each key in `later`; the others are leftovers.
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

/// Keys that need work, each at most once.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

impl Queue {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn add(&self, key: Key) {
        self.state().add(key);
        self.wake.notify_one();
    }

    pub fn add_after(&self, key: Key, delay: Duration) {
        self.state().add_at(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// The next key to work on, or when to look again.
    fn take(&self, now: Instant) -> Result<Key, Option<Instant>> {
        let mut state = self.state();
        while state.later.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((at, key))) = state.later.pop()
                && state.due.get(&key) == Some(&at)
            {
                state.add(key);
            }
        }
        let Some(key) = state.ready.pop_front() else {
            return Err(state.later.peek().map(|Reverse((at, _))| *at));
        };
        state.dirty.remove(&key);
        state.due.remove(&key);
        state.running.insert(key.clone());
        Ok(key)
    }

    fn finish(&self, key: Key, outcome: Result<Done, ()>) {
        let mut state = self.state();
        state.running.remove(&key);
        if state.dirty.contains(&key) {
            state.ready.push_back(key.clone());
        }
        let delay = match outcome {
            Ok(done) => {
                state.failures.remove(&key);
                match done {
                    Done::Settled => return,
                    Done::Again(delay) => delay,
                }
            }
            Err(()) => {
                let failures = state.failures.entry(key.clone()).or_insert(0);
                *failures += 1;
                retry_delay(*failures)
            }
        };
        state.add_at(key, Instant::now() + delay);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: Key) {
        if self.dirty.insert(key.clone()) && !self.running.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: Key, at: Instant) {
        if self.due.get(&key).is_none_or(|due| at < *due) {
            self.due.insert(key.clone(), at);
            self.later.push(Reverse((at, key)));
        }
    }
}

fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LAST_RETRY)
}

/// Works on the queue's keys, at most `parallel` at once, until told to stop. A failed key is retried with a delay of
/// its own that doubles from 5 ms to a minute.
pub async fn run<E, F, Fut>(name: &'static str, queue: Arc<Queue>, parallel: usize, stop: Stop, reconcile: F)
where
    E: Display,
    F: Fn(Key) -> Fut,
    Fut: Future<Output = Result<Done, E>>,
{
    let mut work = FuturesUnordered::new();
    loop {
        let mut next = None;
        while work.len() < parallel {
            match queue.take(Instant::now()) {
                Ok(key) => {
                    let job = reconcile(key.clone());
                    work.push(async move { (key, job.await) });
                }
                Err(at) => {
                    next = at;
                    break;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some((key, outcome)) = work.next(), if !work.is_empty() => {
                if let Err(error) = &outcome {
                    tracing::debug!(controller = name, %key, %error, "will retry");
                }
                queue.finish(key, outcome.map_err(|_| ()));
            }
            () = queue.wake.notified(), if work.len() < parallel => {}
            () = sleep_until(next), if work.len() < parallel => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[test]
    fn a_key_waits_once_and_runs_again_when_marked_while_running() {
        let queue = Queue::new();
        queue.add(key("a"));
        queue.add(key("a"));
        let now = Instant::now();
        assert_eq!(queue.take(now), Ok(key("a")));
        assert_eq!(queue.take(now), Err(None));
        queue.add(key("a"));
        assert_eq!(queue.take(now), Err(None), "never twice at once");
        queue.finish(key("a"), Ok(Done::Settled));
        assert_eq!(queue.take(now), Ok(key("a")));
    }

    #[test]
    fn retries_wait_longer_each_time_up_to_a_minute() {
        let delays: Vec<u128> = [1, 2, 3, 10, 40].map(|n| retry_delay(n).as_millis()).into();
        assert_eq!(delays, [5, 10, 20, 2560, 60_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_until_they_succeed() {
        let (queue, stop, tries) = (Queue::new(), Stop::new(), AtomicUsize::new(0));
        queue.add(key("a"));
        run("test", queue, 2, stop.clone(), |_| async {
            if tries.fetch_add(1, Ordering::SeqCst) < 4 {
                return Err("not yet");
            }
            stop.cancel();
            Ok(Done::Settled)
        })
        .await;
        assert_eq!(tries.load(Ordering::SeqCst), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_so_many_run_at_once() {
        let (queue, stop) = (Queue::new(), Stop::new());
        let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        (0..20).for_each(|i| queue.add(key(&i.to_string())));
        run("test", queue, 3, stop.clone(), |_| async {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            if done.fetch_add(1, Ordering::SeqCst) == 19 {
                stop.cancel();
            }
            Ok::<_, String>(Done::Settled)
        })
        .await;
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}
