//! The state in memory follows etcd: every commit of every server, in order. When etcd no longer has what was missed, or
//! what it sends does not fit, the state is read anew, and watchers from before are told that their revision is too old.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    READ,
    grpc::{Answers, Client, Failure},
    layout::{Head, Layout, Noted, What, open_value},
    load::{self, Loaded, Unreadable},
    wire::{self, Change, Read, Watched},
};
use crate::{
    Entry, Error, Event, Result,
    engine::{Shared, Shown},
    state::{Keep, State},
};

const AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Mirror {
    client: Arc<Client>,
    layout: Layout,
    keep: Keep,
    shown: Shown,
    /// When the head that the state shows was written, in etcd's count.
    known: u64,
    /// Where the watch goes on.
    watched: u64,
    answers: Option<Answers>,
    /// Not before then is a failed watch opened again.
    again: Instant,
    applied: watch::Sender<u64>,
    /// The commit that is looked for among what arrives, and whether it came.
    wanted: Option<(u128, bool)>,
}

impl Mirror {
    pub(super) fn new(client: Arc<Client>, layout: Layout, keep: Keep, loaded: Loaded) -> Self {
        let Loaded { state, at, head, .. } = loaded;
        let shown = Shown::new(Shared::new(state));
        let (applied, _) = watch::channel(head);
        let again = Instant::now();
        Mirror { client, layout, keep, shown, known: head, watched: at, answers: None, again, applied, wanted: None }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shown.shared
    }

    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn known(&self) -> u64 {
        self.known
    }

    /// Takes over a commit of this server, of which etcd has said that it happened on top of what was known.
    pub(super) fn committed(&mut self, events: Vec<Event>, at: u64) {
        self.shown.show(events);
        self.move_to(at);
    }

    fn move_to(&mut self, head: u64) {
        self.known = head;
        self.applied.send_replace(head);
    }

    pub(super) fn look_for(&mut self, commit: u128) {
        self.wanted = Some((commit, false));
    }

    pub(super) fn has_come(&self) -> bool {
        self.wanted.is_some_and(|(_, has_come)| has_come)
    }

    /// Waits until the state shows the head that was written then.
    pub(super) async fn catch_up(&mut self, head: u64) -> Result<()> {
        while self.known < head {
            // A watch that is silent while there is something to tell is given up.
            if let Ok(advanced) = tokio::time::timeout(READ / 2, self.advance()).await {
                advanced?;
            } else {
                self.answers = None;
            }
        }
        Ok(())
    }

    pub(super) fn announce_if_due(&mut self) {
        self.shown.announce_if_due();
    }

    /// Opens the watch anew, at what may be another endpoint.
    pub(super) fn reopen(&mut self) {
        self.answers = None;
    }

    /// Takes in what comes next. May be dropped at any time; an error is for good.
    pub(super) async fn advance(&mut self) -> Result<()> {
        let Some(answers) = &mut self.answers else {
            sleep_until(self.again).await;
            self.again = Instant::now() + AGAIN;
            return self.open().await;
        };
        let answer = tokio::select! {
            answer = answers.next() => answer,
            () = self.shown.announce() => return Ok(()),
        };
        let taken = answer.and_then(|bytes| {
            let answer = Watched::read(bytes);
            answer.ok_or_else(|| Failure::Unknown("an answer that is no WatchResponse".into()))
        });
        match taken {
            Ok(answer) => self.take(answer).await,
            Err(failure) => {
                tracing::warn!("the watch of etcd ended and is opened again: {failure}");
                self.answers = None;
                Ok(())
            }
        }
    }

    async fn open(&mut self) -> Result<()> {
        let (from, end) = self.layout.everything();
        let question = wire::watch(from.as_bytes(), end.as_bytes(), self.watched + 1);
        match self.client.open("/etcdserverpb.Watch/Watch", question, READ).await {
            Ok(answers) => self.answers = Some(answers),
            Err(failure) => tracing::warn!("cannot watch etcd: {failure}{}", failure.advice()),
        }
        Ok(())
    }

    async fn take(&mut self, answer: Watched) -> Result<()> {
        if answer.canceled {
            self.answers = None;
            if answer.compacted == 0 {
                tracing::warn!("etcd ended the watch: {}", answer.reason);
                return Ok(());
            }
            return self.reload("etcd has forgotten changes that were not seen here").await;
        }
        for together in answer.changes.chunk_by(|a, b| a.entry.modified == b.entry.modified) {
            let at = together.first().map_or(0, |change| change.entry.modified);
            self.watched = self.watched.max(at);
            if at > self.known && !self.take_commit(together, at) {
                self.answers = None;
                return self.reload("etcd's changes do not follow from what is known").await;
            }
        }
        Ok(())
    }

    /// False: it does not fit the state.
    fn take_commit(&mut self, changes: &[Change], at: u64) -> bool {
        let head_key = self.layout.head();
        let Some(head) = changes.iter().find(|change| change.entry.key == head_key.as_bytes()) else {
            tracing::error!("keys under {} were changed by something else than skiff", self.layout.prefix());
            return false;
        };
        let Some(head) = Head::decode(head.entry.value.clone()) else { return false };
        let value =
            |key: &str| changes.iter().find(|change| self.layout.key_of(&change.entry.key).is_some_and(|k| k == key));
        let value = |key: &str| Some(value(key)?.entry.value.clone());
        let Some(events) = events(&head, &self.shown.shared.state(), value) else { return false };
        if let Some((wanted, has_come)) = &mut self.wanted {
            *has_come |= *wanted == head.id;
        }
        self.committed(events, at);
        true
    }

    async fn reload(&mut self, why: &str) -> Result<()> {
        tracing::warn!("{why}: everything is read anew");
        let loaded = match load::now(&self.client, &self.layout, self.keep).await {
            Ok(loaded) => loaded,
            Err(error @ Unreadable::Foreign { .. }) => {
                return Err(Error::Io { reason: format!("cannot read etcd: {error}"), fatal: true });
            }
            Err(error) => {
                // The watch is opened again where it was, and comes here again.
                tracing::warn!("cannot read etcd: {error}");
                return Ok(());
            }
        };
        self.not_back(loaded.head)?;
        let older = loaded.state.rev() < self.shown.shared.state().rev();
        if older {
            return Err(gone_back());
        }
        self.shown.shared.replace(loaded.state);
        self.watched = loaded.at;
        self.move_to(loaded.head);
        Ok(())
    }

    /// Refuses a head that is older than what is known.
    pub(super) fn not_back(&self, head: u64) -> Result<()> {
        if head < self.known { Err(gone_back()) } else { Ok(()) }
    }
}

fn gone_back() -> Error {
    let reason = "etcd's history went back (was it restored from a backup?); start all servers of this cluster again";
    Error::Io { reason: reason.into(), fatal: true }
}

/// The changes that a head notes, on top of the state. None: they do not follow from it.
fn events(head: &Head, state: &State, value: impl Fn(&str) -> Option<Bytes>) -> Option<Vec<Event>> {
    let mut events: Vec<Event> = Vec::with_capacity(head.changes.len());
    for Noted { rev, key, what } in &head.changes {
        let newest = events.last().map_or(state.rev(), Event::rev);
        if *rev <= newest {
            return None;
        }
        let own = events.iter().rev().find(|event| event.key().is_some_and(|k| **k == **key));
        let prev = own.map_or_else(|| state.get(key).cloned(), Event::entry_after);
        let put = |created: u64, value: Bytes, prev: Option<Entry>| {
            let key = prev.as_ref().map_or_else(|| key.as_str().into(), |prev| prev.key.clone());
            Event::Put { entry: Entry { key, value, created, modified: *rev }, prev }
        };
        events.push(match what {
            What::Delete => Event::Delete { rev: *rev, prev: prev? },
            What::Passing { created, value } => put(*created, value.clone(), prev),
            What::Put { created } => put(*created, open_value(&value(key)?)?.2, prev),
        });
    }
    (events.last().map(Event::rev) == Some(head.rev)).then_some(events)
}
