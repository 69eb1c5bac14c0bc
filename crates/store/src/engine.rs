//! The running store: readers look at the state in memory, writers send their wish to the one committer. The committer
//! takes all waiting wishes, plans them, makes them durable with one sync, and only then shows and answers them.
//!
//! ```text
//! put, delete ──▶ queue ──▶ committer: plan ─▶ journal (1 sync) ─▶ state, history ─▶ answer, wake watchers
//! get, list, watch ◀───────────────────────────────────────────────────┘
//! ```

use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    Entry, Error, Event, Expect, Page, Result, Rev, Store, Watch, Write,
    state::State,
    watch::{self, Groups},
};

/// How many writes may wait for the committer; further writers wait their turn.
const QUEUE: usize = 1024;
/// How much one sync carries: bounds the memory of a commit and the wait of its first writer.
const COMMIT_WRITES: usize = 512;
const COMMIT_BYTES: usize = 8 << 20;
/// The largest value. Far above what a Kubernetes object may have; a frame holds a full commit and one value more.
const MAX_VALUE: usize = 64 << 20;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

/// Where commits become durable.
pub(crate) trait Journal: Send + 'static {
    /// All of the events or none of them.
    fn append(&mut self, events: &[Event]) -> Result<()>;
    /// Called after a commit is part of the state, to tidy up.
    fn committed(&mut self, state: &State);
}

pub(crate) struct Shared {
    state: RwLock<State>,
    pub(crate) groups: Groups,
    /// The revision of the last progress announcement.
    announced: AtomicU64,
    closed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(state: State) -> Arc<Self> {
        let announced = AtomicU64::new(state.rev());
        let state = RwLock::new(state);
        Arc::new(Shared { state, groups: Groups::default(), announced, closed: AtomicBool::new(false) })
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn announced(&self) -> Rev {
        self.announced.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Puts a state without a past in the place of the one that is there; who watches from before it is told so.
    pub(crate) fn replace(&self, with: State) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.groups.mark_all(with.rev());
        *state = with;
        drop(state);
        self.groups.wake_all();
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.groups.wake_all();
    }

    fn announce(&self) {
        self.announced.store(self.state().rev(), Ordering::Release);
        self.groups.wake_all();
    }

    fn show(&self, events: Vec<Event>) {
        let concerned = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let concerned = self.groups.mark(&events);
            events.into_iter().for_each(|event| state.apply(event));
            concerned
        };
        concerned.iter().for_each(|group| group.wake());
    }

    pub(crate) fn compact(&self, rev: Rev) -> Result<()> {
        self.state.write().unwrap_or_else(PoisonError::into_inner).compact(rev)
    }
}

/// Writes that happen together.
pub(crate) struct Request {
    pub(crate) writes: Vec<Write>,
    pub(crate) answer: oneshot::Sender<Result<Vec<Event>>>,
}

impl Request {
    fn bytes(&self) -> usize {
        self.writes.iter().filter_map(|write| write.value.as_ref()).map(Bytes::len).sum()
    }
}

/// Where writers leave their wishes for a committer.
pub(crate) struct Writers(mpsc::Sender<Request>);

impl Writers {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (queue, requests) = mpsc::channel(QUEUE);
        (Writers(queue), requests)
    }

    pub(crate) async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        match self.one(Write { key: key.into(), value: Some(value), expect }).await? {
            Event::Put { entry, .. } => Ok(entry),
            _ => unreachable!("a put is answered by a put"),
        }
    }

    pub(crate) async fn delete(&self, key: &str, expect: Expect) -> Result<(Rev, Entry)> {
        match self.one(Write { key: key.into(), value: None, expect }).await? {
            Event::Delete { rev, prev } => Ok((rev, prev)),
            _ => unreachable!("a delete is answered by a delete"),
        }
    }

    async fn one(&self, write: Write) -> Result<Event> {
        let mut events = self.all(vec![write]).await?;
        Ok(events.pop().expect("one write is answered by one event"))
    }

    pub(crate) async fn all(&self, mut writes: Vec<Write>) -> Result<Vec<Event>> {
        let stopped = || Error::Io { reason: "the store has stopped".into(), fatal: true };
        check_sizes(&writes)?;
        // A copy of its own: a slice would keep the whole request body alive, a grown buffer its spare room.
        for value in writes.iter_mut().filter_map(|write| write.value.as_mut()) {
            *value = Bytes::copy_from_slice(value);
        }
        let (answer, answered) = oneshot::channel();
        self.0.send(Request { writes, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// Ends when dropped: what was sent is committed first, watchers end with an error, the journal is closed.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    /// There until the drop.
    writers: Option<Writers>,
    committer: Option<JoinHandle<()>>,
}

impl Engine {
    pub(crate) fn start(state: State, journal: impl Journal) -> io::Result<Self> {
        let shared = Shared::new(state);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (writers, requests) = Writers::new();
        let committer = Committer { shown: Shown::new(shared.clone()), journal, requests };
        let committer =
            std::thread::Builder::new().name("skiff-store".into()).spawn(move || runtime.block_on(committer.run()))?;
        Ok(Engine { shared, writers: Some(writers), committer: Some(committer) })
    }

    fn writers(&self) -> &Writers {
        self.writers.as_ref().expect("there until the drop")
    }
}

fn check_sizes(writes: &[Write]) -> Result<()> {
    if writes.len() > COMMIT_WRITES {
        let reason = format!("{} writes at once are over the limit of {COMMIT_WRITES}", writes.len());
        return Err(Error::Io { reason, fatal: false });
    }
    for Write { key, value, .. } in writes {
        let size = value.as_ref().map_or(0, Bytes::len);
        if size > MAX_VALUE {
            let reason = format!("key {key}: a value of {size} bytes is over the limit of {MAX_VALUE}");
            return Err(Error::Io { reason, fatal: false });
        }
    }
    Ok(())
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.writers = None;
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the store's committer panicked");
        }
    }
}

impl Store for Engine {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        async move { Ok(self.shared.state().get(key).cloned()) }.boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Rev>,
    ) -> BoxFuture<'a, Result<Page>> {
        async move { self.shared.state().list(prefix, after, limit, at) }.boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Entry>> {
        self.writers().put(key, value, expect).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(Rev, Entry)>> {
        self.writers().delete(key, expect).boxed()
    }

    fn commit<'a>(&'a self, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Event>>> {
        self.writers().all(writes).boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Rev) -> BoxFuture<'a, Result<Watch>> {
        async move { watch::watch(&self.shared, prefix, after) }.boxed()
    }

    fn revision<'a>(&'a self) -> BoxFuture<'a, Result<Rev>> {
        async move { Ok(self.shared.state().rev()) }.boxed()
    }

    fn compact<'a>(&'a self, rev: Rev) -> BoxFuture<'a, Result<()>> {
        async move { self.shared.compact(rev) }.boxed()
    }
}

/// The state as a committer shows it to readers and watchers.
pub(crate) struct Shown {
    pub(crate) shared: Arc<Shared>,
    /// Set while there are revisions that were not announced.
    next_announce: Option<Instant>,
    /// The revision at which all watchers were last woken.
    woken: Rev,
}

impl Shown {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let woken = shared.state().rev();
        Shown { shared, next_announce: None, woken }
    }

    pub(crate) fn show(&mut self, events: Vec<Event>) {
        self.shared.show(events);
        self.next_announce.get_or_insert_with(|| Instant::now() + ANNOUNCE_EVERY);
        self.wake_before_forgetting();
    }

    /// Waits until quiet watchers are to be told of progress, and tells them.
    pub(crate) async fn announce(&mut self) {
        match self.next_announce {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.announce_if_due();
    }

    pub(crate) fn announce_if_due(&mut self) {
        if self.next_announce.is_some_and(|at| at <= Instant::now()) {
            self.next_announce = None;
            self.shared.announce();
        }
    }

    /// Lets watchers of quiet keys move on before the history behind them goes.
    fn wake_before_forgetting(&mut self) {
        let (rev, kept) = {
            let state = self.shared.state();
            (state.rev(), state.history_len())
        };
        if rev.saturating_sub(self.woken) > kept / 4 {
            self.woken = rev;
            self.shared.groups.wake_all();
        }
    }
}

struct Committer<J> {
    shown: Shown,
    journal: J,
    requests: mpsc::Receiver<Request>,
}

impl<J: Journal> Committer<J> {
    async fn run(mut self) {
        let mut waiting = Vec::with_capacity(COMMIT_WRITES);
        loop {
            tokio::select! {
                biased;
                count = self.requests.recv_many(&mut waiting, COMMIT_WRITES) => match count {
                    0 => break,
                    _ => self.commit_all(&mut waiting),
                },
                () = self.shown.announce() => {}
            }
            self.shown.announce_if_due();
        }
        self.shown.shared.close();
    }

    fn commit_all(&mut self, waiting: &mut Vec<Request>) {
        while !waiting.is_empty() {
            let count = within_bytes(waiting);
            let (writes, answers): (Vec<_>, Vec<_>) =
                waiting.drain(..count).map(|request| (request.writes, request.answer)).unzip();
            let results = self.commit(&writes);
            for (answer, result) in answers.into_iter().zip(results) {
                // A writer that no longer waits has dropped its end; its write stands.
                let _ = answer.send(result);
            }
        }
    }

    fn commit(&mut self, writes: &[Vec<Write>]) -> Vec<Result<Vec<Event>>> {
        let (events, answers) = self.shown.shared.state().plan(writes.iter().map(Vec::as_slice));
        if events.is_empty() {
            return answers;
        }
        if let Err(error) = self.journal.append(&events) {
            tracing::error!("{error}");
            return writes.iter().map(|_| Err(same(&error))).collect();
        }
        self.shown.show(events);
        self.journal.committed(&self.shown.shared.state());
        answers
    }
}

/// How many of the waiting writes go into one commit: at least one.
fn within_bytes(waiting: &[Request]) -> usize {
    within(waiting, usize::MAX, COMMIT_BYTES)
}

/// How many of the waiting requests stay below both limits: at least one.
pub(crate) fn within(waiting: &[Request], max_writes: usize, max_bytes: usize) -> usize {
    let (mut writes, mut bytes) = (0, 0);
    let fits = waiting.iter().take_while(|request| {
        writes += request.writes.len();
        bytes += request.bytes();
        writes <= max_writes && bytes <= max_bytes
    });
    fits.count().max(1)
}

/// The error of a commit, for each of its writers.
pub(crate) fn same(error: &Error) -> Error {
    match error {
        Error::Io { reason, fatal } => Error::Io { reason: reason.clone(), fatal: *fatal },
        other => Error::Io { reason: other.to_string(), fatal: false },
    }
}
