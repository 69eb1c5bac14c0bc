//! The whole state out of etcd, as of one of its revisions.

use super::{
    grpc::{Client, Failure},
    layout::{Head, Layout},
    reader, wire,
};
use crate::{Entry, Rev, state::Keep, state::State};

/// How far back, in etcd's revisions, a start reads, so that watchers of another server can go on here.
const PAST: u64 = 10_000;
const PAGE: u64 = 500;

pub(super) struct Loaded {
    pub(super) state: State,
    /// The revision of etcd that the state shows, and when its head was written.
    pub(super) at: u64,
    pub(super) head: u64,
    /// When the newest head was written, at the time of asking.
    pub(super) newest: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Failed(Failure),
    #[error("{key} was not written by this version of skiff")]
    Foreign { key: String },
}

impl From<Failure> for Unreadable {
    fn from(failure: Failure) -> Self {
        Unreadable::Failed(failure)
    }
}

/// As of a while ago, as far back as etcd remembers; the changes since then are to be watched.
pub(super) async fn with_past(client: &Client, layout: &Layout, keep: Keep) -> Result<Loaded, Unreadable> {
    let (_, newest) = reader::head(client, layout).await?;
    own_first(client, layout).await?;
    let mut back = PAST.min(newest.saturating_sub(1));
    while back > 0 {
        match load(client, layout, keep, newest - back).await {
            Err(Unreadable::Failed(failure)) if failure.is_compacted() => back /= 2,
            loaded => return loaded,
        }
    }
    now(client, layout, keep).await
}

/// Whether what is there now was written by skiff: the past may be older than what is not.
async fn own_first(client: &Client, layout: &Layout) -> Result<(), Unreadable> {
    let (from, end) = layout.all_keys();
    let first = reader::range(client, wire::range(from.as_bytes(), end.as_bytes(), 1, 0)).await?.entries.pop();
    match first.filter(|found| layout.entry(found).is_none()) {
        Some(found) => Err(Unreadable::Foreign { key: String::from_utf8_lossy(&found.key).into_owned() }),
        None => Ok(()),
    }
}

pub(super) async fn now(client: &Client, layout: &Layout, keep: Keep) -> Result<Loaded, Unreadable> {
    let (_, newest) = reader::head(client, layout).await?;
    load(client, layout, keep, newest).await
}

async fn load(client: &Client, layout: &Layout, keep: Keep, at: u64) -> Result<Loaded, Unreadable> {
    let newest = reader::head(client, layout).await?.0.map_or(0, |head| head.modified);
    let head_key = layout.head();
    let then = reader::range(client, wire::range(head_key.as_bytes(), &[], 1, at)).await?.entries.pop();
    let foreign = || Unreadable::Foreign { key: head_key.clone() };
    let (head, rev) = match then {
        None => (0, 0),
        Some(then) => (then.modified, Head::decode(then.value).ok_or_else(foreign)?.rev),
    };
    let entries = entries(client, layout, at, rev).await?;
    Ok(Loaded { state: State::restored(keep, rev, entries), at, head, newest })
}

async fn entries(client: &Client, layout: &Layout, at: u64, rev: Rev) -> Result<Vec<Entry>, Unreadable> {
    let (from, end) = layout.all_keys();
    let mut from = from.into_bytes();
    let mut entries = Vec::new();
    loop {
        let page = reader::range(client, wire::range(&from, end.as_bytes(), PAGE, at)).await?;
        for found in &page.entries {
            let entry = layout.entry(found).filter(|entry| entry.modified <= rev);
            let foreign = || Unreadable::Foreign { key: String::from_utf8_lossy(&found.key).into_owned() };
            entries.push(entry.ok_or_else(foreign)?);
        }
        let Some(last) = page.entries.last().filter(|_| page.more) else { return Ok(entries) };
        from = [&last.key[..], &[0]].concat();
    }
}
