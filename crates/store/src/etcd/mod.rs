//! The store that several servers share: etcd (3.4 or newer) has the truth, every server has all of it in memory.
//!
//! ```text
//! put, delete ──▶ queue ──▶ committer: plan ─▶ transaction, if the head is as known ─▶ state ─▶ answer, wake watchers
//!                              ▲ head moved: catch up, plan again          ▲
//! other servers' commits ──────┴─────────── watch of the prefix ───────────┘
//! get, list, watch ── which head is the newest? ── wait until the state has it ── state
//! ```
//!
//! Why the state in memory and not a query for each read: a list or a watch then costs the same over both backends, old
//! revisions and watchers work alike, and all that a read asks of etcd is one small key, once for all readers that wait.
//! Why one head for all commits and not a condition for each key: `layout` says it. It costs parallel commits of
//! several servers, of which one wins and the others plan again; a commit carries all that waits, so it is the number of
//! servers, not of writers, that contend.
//!
//! Reads are linearizable over all servers: what anyone was told before the read began, the read shows.

mod committer;
mod grpc;
mod layout;
mod load;
mod mirror;
mod reader;
mod tls;
mod wire;

use std::{path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::tls::TlsFiles;
use self::{
    committer::Committer,
    grpc::{Client, Endpoint},
    layout::Layout,
    mirror::Mirror,
};
use crate::{
    Entry, Error, Event, Expect, Page, Result, Rev, Store, Watch, Write,
    engine::{Shared, Writers},
    state::Keep,
};

/// How long a read may wait for etcd, and how long a write.
const READ: Duration = Duration::from_secs(5);
const WRITE: Duration = Duration::from_secs(10);
/// How many readers may wait for the same question.
const READERS: usize = 1024;

#[derive(Clone, Debug)]
pub struct Options {
    /// `http://HOST:PORT` or `https://HOST:PORT`; one is used at a time, the next when it fails.
    pub endpoints: Vec<String>,
    pub tls: TlsFiles,
    /// Where the store's keys lie. Servers with the same prefix are one cluster.
    pub prefix: String,
    /// How many changes are kept in memory for watchers and for lists at an old revision.
    pub history: usize,
    /// How many bytes of replaced and deleted values are kept for the same.
    pub history_bytes: usize,
    /// How often etcd forgets history; it keeps once to twice as much.
    pub compact_every: Duration,
}

impl Options {
    pub fn new(endpoints: Vec<String>, prefix: &str) -> Self {
        Options {
            endpoints,
            tls: TlsFiles::default(),
            prefix: prefix.to_owned(),
            history: 65_536,
            history_bytes: 32 << 20,
            compact_every: Duration::from_secs(300),
        }
    }
}

/// Why etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("no etcd endpoint is given (https://HOST:2379)")]
    NoEndpoint,
    #[error("{0:?} is no etcd endpoint: it must be http://HOST:PORT or https://HOST:PORT")]
    Endpoint(String),
    #[error("{0:?} cannot be a prefix in etcd: it must begin with / and name something")]
    Prefix(String),
    #[error("{0} needs the certificate of the authority that signed etcd's")]
    NoTls(String),
    #[error("a client certificate for etcd needs the certificate of the authority that signed etcd's as well")]
    NoAuthority,
    #[error("a client certificate for etcd and its key go together")]
    HalfAPair,
    #[error("cannot use {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("cannot start a thread for etcd: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] Error),
}

/// Ends when dropped: what was sent is committed first, watchers end with an error.
pub struct Etcd {
    shared: Arc<Shared>,
    /// There until the drop.
    writers: Option<Writers>,
    readers: mpsc::Sender<reader::Asked>,
    /// The newest head of which the state knows.
    applied: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

fn stopped() -> Error {
    Error::Io { reason: "the store has stopped; the server's log says why".into(), fatal: true }
}

fn not_now(reason: String) -> Error {
    Error::Io { reason, fatal: false }
}

impl Etcd {
    /// Waits until everything is read.
    pub async fn open(options: Options) -> Result<Self, Unusable> {
        let client = Arc::new(client(&options)?);
        let layout = Layout::new(&options.prefix);
        if !options.prefix.starts_with('/') || layout.prefix().is_empty() {
            return Err(Unusable::Prefix(options.prefix));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (writers, requests) = Writers::new();
        let (readers, asked) = mpsc::channel(READERS);
        let (ready, opened) = oneshot::channel();
        let run = async move {
            let mirror = match begin(client.clone(), layout.clone(), &options).await {
                Ok(mirror) => mirror,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let shared = mirror.shared().clone();
            // Nobody waits any more: the queues are closed, so the committer ends by itself.
            let _ = ready.send(Ok((shared.clone(), mirror.applied())));
            tokio::spawn(reader::run(client.clone(), layout, asked));
            Committer::new(mirror, client, requests, options.compact_every).run().await;
            shared.close();
        };
        let thread = std::thread::Builder::new().name("skiff-etcd".into()).spawn(move || runtime.block_on(run))?;
        let (shared, applied) = opened.await.map_err(|_| stopped())??;
        Ok(Etcd { shared, writers: Some(writers), readers, applied, thread: Some(thread) })
    }

    fn writers(&self) -> &Writers {
        self.writers.as_ref().expect("there until the drop")
    }

    /// Waits until the state has all that anyone was told of before.
    async fn fresh(&self) -> Result<()> {
        let (asked, answer) = oneshot::channel();
        self.readers.send(asked).await.map_err(|_| stopped())?;
        let head = answer.await.map_err(|_| stopped())??;
        let mut applied = self.applied.clone();
        let caught_up = tokio::time::timeout(READ, applied.wait_for(|applied| *applied >= head)).await;
        let late = |_| not_now(format!("etcd has not sent its newest changes within {READ:?}"));
        caught_up.map_err(late)?.map(drop).map_err(|_| stopped())
    }

    /// As [`Self::fresh`], if the state does not reach that far anyway.
    async fn reach(&self, rev: Option<Rev>) -> Result<()> {
        match rev {
            Some(rev) if rev <= self.shared.state().rev() && !self.shared.is_closed() => Ok(()),
            _ => self.fresh().await,
        }
    }
}

fn client(options: &Options) -> Result<Client, Unusable> {
    let endpoint = |text: &String| Endpoint::parse(text).ok_or_else(|| Unusable::Endpoint(text.clone()));
    let endpoints = options.endpoints.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
    let tls = options.tls.load()?;
    if endpoints.is_empty() {
        return Err(Unusable::NoEndpoint);
    }
    match options.endpoints.iter().zip(&endpoints).find(|(_, endpoint)| endpoint.needs_tls() && tls.is_none()) {
        Some((text, _)) => Err(Unusable::NoTls(text.clone())),
        None => Ok(Client::new(endpoints, tls)),
    }
}

async fn begin(client: Arc<Client>, layout: Layout, options: &Options) -> Result<Mirror> {
    let keep = Keep { changes: options.history, bytes: options.history_bytes };
    let loaded = tokio::time::timeout(WRITE, load::with_past(&client, &layout, keep)).await;
    let late = |_| not_now(format!("etcd does not answer within {WRITE:?}"));
    let loaded = loaded.map_err(late)?.map_err(|reason| not_now(format!("cannot read etcd: {reason}")))?;
    let newest = loaded.newest;
    let mut mirror = Mirror::new(client, layout, keep, loaded);
    tokio::time::timeout(WRITE, mirror.catch_up(newest)).await.map_err(late)??;
    Ok(mirror)
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.writers = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's committer panicked");
        }
    }
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        async move {
            self.fresh().await?;
            Ok(self.shared.state().get(key).cloned())
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Rev>,
    ) -> BoxFuture<'a, Result<Page>> {
        async move {
            self.reach(at).await?;
            self.shared.state().list(prefix, after, limit, at)
        }
        .boxed()
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
        async move {
            self.reach(Some(after)).await?;
            crate::watch::watch(&self.shared, prefix, after)
        }
        .boxed()
    }

    fn revision<'a>(&'a self) -> BoxFuture<'a, Result<Rev>> {
        async move {
            self.fresh().await?;
            Ok(self.shared.state().rev())
        }
        .boxed()
    }

    /// Of this server's memory; etcd's own history goes by [`Options::compact_every`].
    fn compact<'a>(&'a self, rev: Rev) -> BoxFuture<'a, Result<()>> {
        async move {
            self.reach(Some(rev)).await?;
            self.shared.compact(rev)
        }
        .boxed()
    }
}
