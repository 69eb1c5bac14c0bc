//! Faults on purpose. [`Faulty`] stands before any store and refuses, delays or forgets to answer; [`Disk`] stands under
//! the embedded store's log and fails as disks do. Both follow a plan: a function of the step and its number, so that a
//! failing test is repeated by its plan alone.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};

use crate::{Entry, Error, Event, Expect, Page, Result, Rev, Store, Watch, Write, embedded::Medium};

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Get,
    List,
    Put,
    Delete,
    Commit,
    Watch,
    Revision,
    Compact,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Pass,
    /// Not done, and said so.
    Refuse,
    /// Done, but the answer is an error: the caller cannot know.
    Lose,
    /// Done after a while.
    Delay(Duration),
    /// Not done; from now on nothing is, and watches end.
    Crash,
}

/// The act for an operation, given how many came before it.
pub type Plan = Arc<dyn Fn(u64, Op) -> Act + Send + Sync>;

pub struct Faulty {
    store: Arc<dyn Store>,
    plan: Plan,
    count: AtomicU64,
    crashed: Arc<AtomicBool>,
}

impl Faulty {
    pub fn wrap(store: Arc<dyn Store>, plan: impl Fn(u64, Op) -> Act + Send + Sync + 'static) -> Self {
        Faulty { store, plan: Arc::new(plan), count: AtomicU64::new(0), crashed: Arc::default() }
    }

    async fn through<T>(&self, op: Op, done: BoxFuture<'_, Result<T>>) -> Result<T> {
        let act = (self.plan)(self.count.fetch_add(1, Ordering::Relaxed), op);
        if act == Act::Crash {
            self.crashed.store(true, Ordering::Release);
        }
        if self.crashed.load(Ordering::Acquire) {
            return Err(injected("crashed", true));
        }
        match act {
            Act::Refuse => return Err(injected("refused", false)),
            Act::Lose => {
                done.await?;
                return Err(injected("answer lost", false));
            }
            Act::Delay(time) => tokio::time::sleep(time).await,
            Act::Pass | Act::Crash => {}
        }
        done.await
    }
}

fn injected(what: &str, fatal: bool) -> Error {
    Error::Io { reason: format!("injected fault: {what}"), fatal }
}

/// Passes events on until the store before it has crashed.
fn until_crash(watch: Watch, crashed: Arc<AtomicBool>) -> Watch {
    let ended = stream::unfold((watch, crashed), |(mut watch, crashed)| async move {
        if crashed.load(Ordering::Acquire) {
            return None;
        }
        let event = watch.next().await?;
        Some((event, (watch, crashed)))
    });
    ended.boxed()
}

impl Store for Faulty {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.through(Op::Get, self.store.get(key)).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Rev>,
    ) -> BoxFuture<'a, Result<Page>> {
        self.through(Op::List, self.store.list(prefix, after, limit, at)).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Entry>> {
        self.through(Op::Put, self.store.put(key, value, expect)).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(Rev, Entry)>> {
        self.through(Op::Delete, self.store.delete(key, expect)).boxed()
    }

    fn commit<'a>(&'a self, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Event>>> {
        self.through(Op::Commit, self.store.commit(writes)).boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Rev) -> BoxFuture<'a, Result<Watch>> {
        let watch = self.through(Op::Watch, self.store.watch(prefix, after));
        async move { Ok(until_crash(watch.await?, self.crashed.clone())) }.boxed()
    }

    fn revision<'a>(&'a self) -> BoxFuture<'a, Result<Rev>> {
        self.through(Op::Revision, self.store.revision()).boxed()
    }

    fn compact<'a>(&'a self, rev: Rev) -> BoxFuture<'a, Result<()>> {
        self.through(Op::Compact, self.store.compact(rev)).boxed()
    }
}

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Append(usize),
    Sync,
    Cut(u64),
}

/// How a disk answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Fail(io::ErrorKind),
    /// Of an append so many bytes are written before it fails, as when the disk is full.
    Short(usize, io::ErrorKind),
    Slow(Duration),
}

pub type DiskPlan = Arc<dyn Fn(u64, Step) -> Fault + Send + Sync>;

/// A file that follows a plan; its `wrap` fits [`crate::embedded::Options::medium`].
pub struct Disk {
    file: File,
    plan: DiskPlan,
    count: Arc<AtomicU64>,
}

impl Disk {
    /// What makes the segments of one store, with one count of steps over all of them.
    pub fn wrap(plan: DiskPlan) -> Arc<dyn Fn(File) -> Box<dyn Medium> + Send + Sync> {
        let count = Arc::new(AtomicU64::new(0));
        Arc::new(move |file| Box::new(Disk { file, plan: plan.clone(), count: count.clone() }))
    }

    fn fault(&mut self, step: Step, bytes: &[u8]) -> io::Result<()> {
        match (self.plan)(self.count.fetch_add(1, Ordering::Relaxed), step) {
            Fault::None => Ok(()),
            Fault::Fail(kind) => Err(kind.into()),
            Fault::Short(written, kind) => {
                self.file.append(&bytes[..written.min(bytes.len())])?;
                Err(kind.into())
            }
            Fault::Slow(time) => {
                std::thread::park_timeout(time);
                Ok(())
            }
        }
    }
}

impl Medium for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.fault(Step::Append(bytes.len()), bytes)?;
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.fault(Step::Sync, &[])?;
        self.file.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.fault(Step::Cut(length), &[])?;
        self.file.cut(length)
    }
}
