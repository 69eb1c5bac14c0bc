//! The state and its recent history as plain values: what a write would do, what a reader sees at a revision, what a
//! watcher has missed. No disk, no task, no clock.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use crate::{Entry, Error, Event, Expect, Page, Result, Rev, Write};

/// How much of the past is kept for watchers and for lists at an old revision. Whichever limit is reached first holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

/// Keys as they will be after the writes planned so far.
type Pending = HashMap<Arc<str>, Option<Entry>>;

pub(crate) struct State {
    entries: BTreeMap<Arc<str>, Entry>,
    history: VecDeque<Event>,
    keep: Keep,
    rev: Rev,
    /// The oldest revision whose state can still be shown.
    oldest: Rev,
    live_bytes: u64,
    history_bytes: usize,
}

/// What one change of the history costs beyond the bytes it keeps alive.
const CHANGE_OVERHEAD: usize = 200;

impl Event {
    /// The revision of the change, or the one that progress has reached.
    pub fn rev(&self) -> Rev {
        match self {
            Event::Put { entry, .. } => entry.modified,
            Event::Delete { rev, .. } | Event::Progress(rev) => *rev,
        }
    }

    /// The key that changed; None for progress.
    pub fn key(&self) -> Option<&Arc<str>> {
        match self {
            Event::Put { entry, .. } => Some(&entry.key),
            Event::Delete { prev, .. } => Some(&prev.key),
            Event::Progress(_) => None,
        }
    }

    /// How the key looks after the change; None if it is gone.
    pub(crate) fn entry_after(&self) -> Option<Entry> {
        match self {
            Event::Put { entry, .. } => Some(entry.clone()),
            _ => None,
        }
    }

    fn prev(&self) -> Option<&Entry> {
        match self {
            Event::Put { prev, .. } => prev.as_ref(),
            Event::Delete { prev, .. } => Some(prev),
            Event::Progress(_) => None,
        }
    }

    fn touches(&self, prefix: &str) -> bool {
        self.key().is_some_and(|key| key.starts_with(prefix))
    }

    /// The bytes that only the history keeps alive.
    fn weight(&self) -> usize {
        CHANGE_OVERHEAD + self.prev().map_or(0, |prev| prev.value.len())
    }
}

impl State {
    pub(crate) fn new(keep: Keep) -> Self {
        State {
            entries: BTreeMap::new(),
            history: VecDeque::new(),
            keep,
            rev: 0,
            oldest: 0,
            live_bytes: 0,
            history_bytes: 0,
        }
    }

    /// A state without a past, as a snapshot holds it.
    pub(crate) fn restored(keep: Keep, rev: Rev, entries: Vec<Entry>) -> Self {
        let mut state = State { rev, oldest: rev, ..State::new(keep) };
        state.live_bytes = entries.iter().map(size).sum();
        state.entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        state
    }

    pub(crate) fn rev(&self) -> Rev {
        self.rev
    }

    /// How many changes are kept.
    pub(crate) fn history_len(&self) -> u64 {
        self.history.len() as u64
    }

    /// The bytes of all keys and values.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// What the groups of writes would change, one after the other, and the answer to each. Of a group all writes happen
    /// or none. Nothing is changed.
    pub(crate) fn plan<'a>(&self, groups: impl Iterator<Item = &'a [Write]>) -> (Vec<Event>, Vec<Result<Vec<Event>>>) {
        let mut pending = Pending::new();
        let mut events = Vec::new();
        let mut answers = Vec::new();
        for group in groups {
            let answer = self.plan_group(group, &pending, self.rev + events.len() as Rev);
            if let Ok(done) = &answer {
                pending.extend(done.iter().filter_map(|event| Some((event.key()?.clone(), event.entry_after()))));
                events.extend_from_slice(done);
            }
            answers.push(answer);
        }
        (events, answers)
    }

    fn plan_group(&self, group: &[Write], pending: &Pending, rev: Rev) -> Result<Vec<Event>> {
        let mut done: Vec<Event> = Vec::with_capacity(group.len());
        for write in group {
            let own = done.iter().rev().find(|event| event.key() == Some(&write.key)).map(Event::entry_after);
            let current = own.or_else(|| pending.get(&write.key).cloned());
            let current = current.unwrap_or_else(|| self.get(&write.key).cloned());
            done.push(decide(write, current, rev + done.len() as Rev + 1)?);
        }
        Ok(done)
    }

    /// Makes a change part of the state and of its history. Changes come in revision order.
    pub(crate) fn apply(&mut self, event: Event) {
        let Some(key) = event.key().cloned() else { return };
        self.rev = event.rev();
        self.live_bytes -= event.prev().map_or(0, size);
        match event.entry_after() {
            Some(entry) => {
                self.live_bytes += size(&entry);
                self.entries.insert(key, entry);
            }
            None => {
                self.entries.remove(&key);
            }
        }
        self.history_bytes += event.weight();
        self.history.push_back(event);
        while self.history.len() > self.keep.changes || self.history_bytes > self.keep.bytes {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(event) = self.history.pop_front() {
            self.history_bytes -= event.weight();
            self.oldest = event.rev();
        }
    }

    pub(crate) fn compact(&mut self, rev: Rev) -> Result<()> {
        self.not_future(rev)?;
        while self.history.front().is_some_and(|event| event.rev() <= rev) {
            self.forget_oldest();
        }
        self.oldest = self.oldest.max(rev);
        Ok(())
    }

    pub(crate) fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<Rev>) -> Result<Page> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut page = match at {
            Some(rev) if rev != self.rev => self.list_at(prefix, after, rev)?,
            _ => return Ok(self.list_now(prefix, after, limit)),
        };
        page.remaining = page.entries.len().saturating_sub(limit) as u64;
        page.entries.truncate(limit);
        Ok(page)
    }

    fn list_now(&self, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        let mut range = self.range(prefix, after);
        let entries = range.by_ref().take(limit).cloned().collect();
        Page { entries, rev: self.rev, remaining: range.count() as u64 }
    }

    /// The keys as they were: today's, with every later change undone.
    fn list_at(&self, prefix: &str, after: Option<&str>, rev: Rev) -> Result<Page> {
        self.kept(rev)?;
        let mut undone: BTreeMap<&str, Option<&Entry>> = BTreeMap::new();
        for event in self.changes_after(rev).filter(|event| event.touches(prefix)) {
            let key = event.key().map_or("", |key| key);
            if after.is_none_or(|after| key > after) {
                undone.entry(key).or_insert(event.prev());
            }
        }
        let unchanged = self.range(prefix, after).filter(|entry| !undone.contains_key(&*entry.key));
        let mut entries: Vec<Entry> = unchanged.chain(undone.values().copied().flatten()).cloned().collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Page { entries, rev, remaining: 0 })
    }

    fn range<'a>(&'a self, prefix: &'a str, after: Option<&str>) -> impl Iterator<Item = &'a Entry> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = self.entries.range::<str, _>((from, Bound::Unbounded));
        range.map(|(_, entry)| entry).take_while(move |entry| entry.key.starts_with(prefix))
    }

    /// Up to `limit` changes after a revision to keys with the prefix.
    pub(crate) fn missed(&self, prefix: &str, after: Rev, limit: usize) -> Result<Vec<Event>> {
        self.kept(after)?;
        Ok(self.changes_after(after).filter(|event| event.touches(prefix)).take(limit).cloned().collect())
    }

    fn changes_after(&self, rev: Rev) -> impl Iterator<Item = &Event> {
        let start = self.history.partition_point(|event| event.rev() <= rev);
        self.history.range(start..)
    }

    /// Whether everything after this revision is still known.
    pub(crate) fn kept(&self, rev: Rev) -> Result<()> {
        self.not_future(rev)?;
        if rev < self.oldest {
            return Err(Error::Compacted { asked: rev, oldest: self.oldest });
        }
        Ok(())
    }

    fn not_future(&self, rev: Rev) -> Result<()> {
        if rev > self.rev {
            return Err(Error::Future { asked: rev, newest: self.rev });
        }
        Ok(())
    }
}

fn size(entry: &Entry) -> u64 {
    (entry.key.len() + entry.value.len()) as u64
}

/// What one write does to a key that looks like `current`.
fn decide(write: &Write, current: Option<Entry>, rev: Rev) -> Result<Event> {
    let holds = match write.expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Rev(rev) => current.as_ref().is_some_and(|entry| entry.modified == rev),
    };
    let key = &write.key;
    match (&write.value, current) {
        (None, None) => Err(Error::NotFound { key: key.to_string() }),
        (_, current) if !holds => Err(Error::Conflict { key: key.to_string(), current }),
        (None, Some(prev)) => Ok(Event::Delete { rev, prev }),
        (Some(value), prev) => {
            let created = prev.as_ref().map_or(rev, |prev| prev.created);
            let key = prev.as_ref().map_or(key, |prev| &prev.key).clone();
            let entry = Entry { key, value: value.clone(), created, modified: rev };
            Ok(Event::Put { entry, prev })
        }
    }
}
