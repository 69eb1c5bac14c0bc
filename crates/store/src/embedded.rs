//! The store of a single machine: the state in memory, every commit in an append-only log of our own.
//!
//! Why not a database below: the whole state is in memory anyway and is read only from there, so nothing of a database but
//! its log would be used. A log alone costs one append and one `fdatasync` per commit, which is what the disk can do at
//! best; it opens in the time of a few system calls, has no cache, no compaction threads and no settings, and its file
//! format is one page. What a start must read is bounded by snapshots (see `log`).

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{Entry, Error, Expect, Page, Result, Rev, Store, Watch, engine::Engine, log::Log, state::Keep};

/// The file under the log, as narrow as it can be: what a test replaces to make the disk fail.
pub trait Medium: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    /// Shortens the file to `length`.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

#[derive(Clone)]
pub struct Options {
    /// How many changes are kept for watchers and for lists at an old revision.
    pub history: usize,
    /// How many bytes of replaced and deleted values are kept for the same.
    pub history_bytes: usize,
    /// A log longer than this, and than twice the state, is replaced by a snapshot.
    pub snapshot_after: u64,
    /// What the log is written through.
    pub medium: Arc<dyn Fn(File) -> Box<dyn Medium> + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        let medium = Arc::new(|file| Box::new(file) as Box<dyn Medium>);
        Options { history: 65_536, history_bytes: 32 << 20, snapshot_after: 16 << 20, medium }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { history, history_bytes, snapshot_after, medium: _ } = self;
        f.debug_struct("Options")
            .field("history", history)
            .field("history_bytes", history_bytes)
            .field("snapshot_after", snapshot_after)
            .finish_non_exhaustive()
    }
}

impl Options {
    pub(crate) fn keep(&self) -> Keep {
        Keep { changes: self.history, bytes: self.history_bytes }
    }
}

pub struct Embedded {
    engine: Engine,
}

impl Embedded {
    /// Opens or creates the store in a directory of its own. Reads the disk; call it before there is traffic to hold up.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let (log, state) = Log::open(path.as_ref(), options.keep(), options)?;
        let no_committer = |error| Error::Io { reason: format!("cannot start the committer: {error}"), fatal: true };
        let engine = Engine::start(state, log).map_err(no_committer)?;
        Ok(Embedded { engine })
    }
}

/// A store that is its engine.
macro_rules! store_by_engine {
    ($store:ty) => {
        impl Store for $store {
            fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
                self.engine.get(key)
            }

            fn list<'a>(
                &'a self,
                prefix: &'a str,
                after: Option<&'a str>,
                limit: usize,
                at: Option<Rev>,
            ) -> BoxFuture<'a, Result<Page>> {
                self.engine.list(prefix, after, limit, at)
            }

            fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Entry>> {
                self.engine.put(key, value, expect)
            }

            fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(Rev, Entry)>> {
                self.engine.delete(key, expect)
            }

            fn commit<'a>(&'a self, writes: Vec<$crate::Write>) -> BoxFuture<'a, Result<Vec<$crate::Event>>> {
                self.engine.commit(writes)
            }

            fn watch<'a>(&'a self, prefix: &'a str, after: Rev) -> BoxFuture<'a, Result<Watch>> {
                self.engine.watch(prefix, after)
            }

            fn revision<'a>(&'a self) -> BoxFuture<'a, Result<Rev>> {
                self.engine.revision()
            }

            fn compact<'a>(&'a self, rev: Rev) -> BoxFuture<'a, Result<()>> {
                self.engine.compact(rev)
            }
        }
    };
}
pub(crate) use store_by_engine;

store_by_engine!(Embedded);
