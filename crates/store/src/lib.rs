//! Revisions and watches over a durable log. Knows nothing of Kubernetes: keys are text, values are bytes.
//!
//! One store is one history: every write gets the next revision, a number that grows by at least one and never goes
//! back, not over a restart and not over a crash. A write is answered, and seen by readers and watchers, only after it is
//! durable.
//!
//! [`embedded::Embedded`] keeps its state in memory and its log on disk, [`etcd::Etcd`] shares it with other servers,
//! [`memory::Memory`] has neither, [`faulty`] makes any of them fail on purpose. [`backup`] copies the
//! first.

pub mod backup;
pub mod embedded;
pub mod etcd;
pub mod faulty;
pub mod memory;

mod engine;
mod frame;
mod log;
mod snapshot;
mod state;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

/// A point in the store's history. 0 is before the first write.
pub type Rev = u64;

/// One key's value with the revisions that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision that created the key (a deleted and re-created key starts anew).
    pub created: Rev,
    /// The revision of the last write.
    pub modified: Rev,
}

/// What must hold of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and was last written by exactly this revision.
    Rev(Rev),
}

/// One asked-for write of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Arc<str>,
    /// None: the key is removed.
    pub value: Option<Bytes>,
    pub expect: Expect,
}

/// One change, in revision order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put {
        entry: Entry,
        prev: Option<Entry>,
    },
    Delete {
        rev: Rev,
        prev: Entry,
    },
    /// Everything up to this revision has been delivered. Sent when the watcher is caught up and the store has moved
    /// on by keys that the watcher does not see, at most once a second.
    Progress(Rev),
}

/// A page of keys in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The revision that the page shows.
    pub rev: Rev,
    /// How many keys with the prefix come after the last one of this page.
    pub remaining: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The precondition did not hold; nothing was written. Read again and decide anew.
    #[error("key {key}: precondition failed")]
    Conflict { key: String, current: Option<Entry> },
    /// A delete of a key that is not there, whatever was expected.
    #[error("key {key} not found")]
    NotFound { key: String },
    /// The revision asked for is older than what is kept. List anew and watch from there.
    #[error("revision {asked} is compacted, the oldest kept is {oldest}")]
    Compacted { asked: Rev, oldest: Rev },
    /// The revision asked for has not happened.
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future { asked: Rev, newest: Rev },
    /// The disk or the peer failed. Whether the write happened is unknown until the store is opened again; this store
    /// takes no further writes when `fatal`.
    #[error("store: {reason}")]
    Io { reason: String, fatal: bool },
    /// Another process holds the data directory.
    #[error("{path} is in use by another process{holder}")]
    Locked { path: String, holder: String },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The events after a revision, without gaps, until the watcher falls too far behind (then an error ends it) or drops it.
pub type Watch = BoxStream<'static, Result<Event>>;

/// The door. Every backend behaves the same; `conformance` in the tests is run over each.
pub trait Store: Send + Sync + 'static {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>>;

    /// Up to `limit` keys (0: all) that start with `prefix` and sort after `after`, as of `at` (None: now).
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Rev>,
    ) -> BoxFuture<'a, Result<Page>>;

    /// Writes the value; the entry as written comes back once it is durable.
    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Entry>>;

    /// Removes the key; the revision of the removal and what was there come back once it is durable.
    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(Rev, Entry)>>;

    /// All of the writes or none of them, durable together; each with a revision of its own, in order. The first that
    /// cannot be done is the answer for all.
    fn commit<'a>(&'a self, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Event>>>;

    /// Every change after revision `after` to keys that start with `prefix`.
    fn watch<'a>(&'a self, prefix: &'a str, after: Rev) -> BoxFuture<'a, Result<Watch>>;

    /// The newest revision.
    fn revision<'a>(&'a self) -> BoxFuture<'a, Result<Rev>>;

    /// Forgets history before `rev`: lists and watches from older revisions fail with `Compacted`.
    fn compact<'a>(&'a self, rev: Rev) -> BoxFuture<'a, Result<()>>;
}
