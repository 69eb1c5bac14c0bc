//! The one writer of a server: plans what waits, and makes it one transaction of etcd.
//!
//! ```text
//! plan ──▶ nothing to write ──▶ is the state the newest? ── no ──▶ catch up ──▶ plan
//!  │                                   └─ yes ──▶ answer
//!  └──▶ transaction ──▶ happened ──▶ show, answer
//!            ├──▶ the head moved ──▶ catch up ──▶ was it this very commit (an answer was lost)? ── yes ──▶ answer
//!            │                                                       └─ no ──▶ plan
//!            ├──▶ refused ──▶ answer
//!            └──▶ unknown ──▶ the same transaction again: its id tells whether it has happened
//! ```

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior},
};

use super::{
    READ, WRITE,
    grpc::{Client, Failure},
    mirror::Mirror,
    not_now, reader,
    wire::{self, Done, Read},
};
use crate::{
    Error, Event, Result, Write,
    engine::{Request, same, within},
};

/// Below etcd's own limits: 128 operations and 1.5 MiB in a transaction.
const WRITES: usize = 100;
const BYTES: usize = 1 << 20;
const AGAIN: Duration = Duration::from_millis(50);
/// How long a write is tried after one was given up, until one succeeds.
const HURRY: Duration = Duration::from_secs(1);

type Answer = Result<Vec<Event>>;

pub(super) struct Committer {
    mirror: Mirror,
    client: Arc<Client>,
    requests: mpsc::Receiver<Request>,
    waiting: Vec<Request>,
    /// The newest commit: a number of this server alone, and a count.
    id: u128,
    patience: Duration,
    tidy: Interval,
    /// What etcd may forget at the next tidying.
    old: u64,
}

/// How one transaction went.
enum Tried {
    Happened {
        at: u64,
    },
    /// The head was written then (0: it is not there).
    Moved {
        head: u64,
    },
}

impl Committer {
    pub(super) fn new(
        mirror: Mirror,
        client: Arc<Client>,
        requests: mpsc::Receiver<Request>,
        compact_every: Duration,
    ) -> Self {
        let id = u128::from(RandomState::new().build_hasher().finish()) << 64;
        let mut tidy = tokio::time::interval_at(Instant::now() + compact_every, compact_every);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Committer { mirror, client, requests, waiting: Vec::new(), id, patience: WRITE, tidy, old: 0 }
    }

    pub(super) async fn run(mut self) {
        if let Err(error) = self.serve().await {
            tracing::error!("{error}");
        }
    }

    /// Until nobody writes any more, or nothing can be written.
    async fn serve(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                count = self.requests.recv_many(&mut self.waiting, WRITES) => match count {
                    0 => return Ok(()),
                    _ => self.commit_all().await?,
                },
                advanced = self.mirror.advance() => advanced?,
                _ = self.tidy.tick() => self.compact().await,
            }
            self.mirror.announce_if_due();
        }
    }

    async fn commit_all(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            let count = within(&self.waiting, WRITES, BYTES);
            let (writes, answers): (Vec<_>, Vec<_>) =
                self.waiting.drain(..count).map(|request| (request.writes, request.answer)).unzip();
            let results = self.commit(&writes).await;
            let for_good = results.iter().find_map(|result| match result {
                Err(Error::Io { reason, fatal: true }) => Some(reason.clone()),
                _ => None,
            });
            for (answer, result) in answers.into_iter().zip(results) {
                // A writer that no longer waits has dropped its end; its write stands.
                let _ = answer.send(result);
            }
            if let Some(reason) = for_good {
                return Err(Error::Io { reason, fatal: true });
            }
        }
        Ok(())
    }

    async fn commit(&mut self, writes: &[Vec<Write>]) -> Vec<Answer> {
        self.id += 1;
        let id = self.id;
        self.mirror.look_for(id);
        let mut planned = Vec::new();
        let tried = tokio::time::timeout(self.patience, self.attempt(writes, id, &mut planned)).await;
        self.patience = if tried.is_ok() { WRITE } else { HURRY };
        let late = || not_now("etcd does not answer; whether this was written is unknown".into());
        match tried.unwrap_or_else(|_| Err(late())) {
            Ok(()) => planned,
            Err(error) => writes.iter().map(|_| Err(same(&error))).collect(),
        }
    }

    /// Until the answers that are left in `planned` are true.
    async fn attempt(&mut self, writes: &[Vec<Write>], id: u128, planned: &mut Vec<Answer>) -> Result<()> {
        loop {
            let (events, answers) = self.mirror.shared().state().plan(writes.iter().map(Vec::as_slice));
            *planned = answers;
            let tried = match events.is_empty() {
                // A refusal is as true as the state is new.
                true => self.look().await,
                false => self.transact(&events, id).await,
            };
            match tried {
                Ok(Tried::Moved { head }) if events.is_empty() && head == self.mirror.known() => return Ok(()),
                Ok(Tried::Happened { at }) => {
                    self.mirror.committed(events, at);
                    return Ok(());
                }
                Ok(Tried::Moved { head }) => {
                    self.mirror.not_back(head)?;
                    self.mirror.catch_up(head).await?;
                    if self.mirror.has_come() {
                        return Ok(());
                    }
                }
                Err(failure @ Failure::Refused { .. }) => {
                    return Err(not_now(format!("etcd refuses the write: {failure}{}", failure.advice())));
                }
                Err(Failure::Unknown(reason)) => {
                    tracing::warn!("a write to etcd is tried again: {reason}");
                    self.mirror.reopen();
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn look(&self) -> Result<Tried, Failure> {
        let (head, _) = reader::head(&self.client, self.mirror.layout()).await?;
        Ok(Tried::Moved { head: head.map_or(0, |head| head.modified) })
    }

    async fn transact(&self, events: &[Event], id: u128) -> Result<Tried, Failure> {
        let txn = self.mirror.layout().txn(events, id, self.mirror.known());
        let answer = self.client.call("/etcdserverpb.KV/Txn", txn, READ).await?;
        let done = Done::read(answer).ok_or_else(|| Failure::Unknown("an answer that is no TxnResponse".into()))?;
        Ok(match done.succeeded {
            true => Tried::Happened { at: done.revision },
            false => Tried::Moved { head: done.found.map_or(0, |head| head.modified) },
        })
    }

    /// Lets etcd forget what was old the last time. Several servers doing so do no harm: the latest point holds.
    async fn compact(&mut self) {
        let old = std::mem::replace(&mut self.old, self.mirror.known());
        if old == 0 {
            return;
        }
        match self.client.call("/etcdserverpb.KV/Compact", wire::compaction(old), READ).await {
            Err(failure) if !failure.is_compacted() => tracing::warn!("etcd keeps old history: {failure}"),
            _ => {}
        }
    }
}
