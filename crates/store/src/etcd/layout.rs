//! How the store lies in etcd. Under the prefix (say `/registry/skiff/NAME`) there are
//!
//! ```text
//! PREFIX/head      the newest revision, who wrote it, and what that write changed
//! PREFIX/key/KEY   "CREATED MODIFIED\n" and the value
//! ```
//!
//! Every write is one transaction that happens only if `head` is as it was, and writes `head` anew. So all servers agree
//! on one order and on one number for each change, which etcd alone does not give (all keys of a transaction have one
//! revision there, and a deleted key has none of its own), and whether a write whose answer was lost has happened can
//! always be told.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wire::{self, KeyValue, Message};
use crate::{Entry, Event, Rev};

#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
}

/// What is written with every commit: its changes in order, without the values that etcd has anyway.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    /// The newest revision.
    pub(super) rev: Rev,
    /// Which commit this is, of all there ever were.
    pub(super) id: u128,
    pub(super) changes: Vec<Noted>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Noted {
    pub(super) rev: Rev,
    pub(super) key: String,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Delete,
    /// The value is under the key.
    Put {
        created: Rev,
    },
    /// The value was replaced by a later change of the same commit.
    Passing {
        created: Rev,
        value: Bytes,
    },
}

const FORMAT: u8 = 1;

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Layout { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn head(&self) -> String {
        format!("{}/head", self.prefix)
    }

    fn keys(&self) -> String {
        format!("{}/key/", self.prefix)
    }

    /// All keys of the store: from the first to before the second.
    pub(super) fn all_keys(&self) -> (String, String) {
        (self.keys(), format!("{}/key0", self.prefix))
    }

    /// The keys and the head.
    pub(super) fn everything(&self) -> (String, String) {
        (format!("{}/", self.prefix), format!("{}0", self.prefix))
    }

    pub(super) fn key_of(&self, key: &[u8]) -> Option<String> {
        let key = key.strip_prefix(self.keys().as_bytes())?;
        String::from_utf8(key.to_vec()).ok()
    }

    /// The entry that lies under a key of etcd.
    pub(super) fn entry(&self, found: &KeyValue) -> Option<Entry> {
        let key = self.key_of(&found.key)?.into();
        let (created, modified, value) = open_value(&found.value)?;
        Some(Entry { key, value, created, modified })
    }

    /// The transaction for planned events, if the head is still of `head_at`.
    pub(super) fn txn(&self, events: &[Event], id: u128, head_at: u64) -> Message {
        let head = Head::of(events, id);
        let lasting = events.iter().enumerate().filter(|(at, event)| !is_replaced(events, *at, event));
        let keys = self.keys();
        let ops = lasting.map(|(_, event)| match event {
            Event::Put { entry, .. } => wire::put(format!("{keys}{}", entry.key).as_bytes(), &value(entry)),
            Event::Delete { prev, .. } => wire::delete(format!("{keys}{}", prev.key).as_bytes()),
            Event::Progress(_) => Message::default(),
        });
        let head_key = self.head();
        let head = wire::put(head_key.as_bytes(), &head.encode());
        wire::txn_if(head_key.as_bytes(), head_at, ops.chain([head]))
    }
}

fn is_replaced(events: &[Event], at: usize, event: &Event) -> bool {
    events[at + 1..].iter().any(|later| later.key() == event.key())
}

fn value(entry: &Entry) -> Vec<u8> {
    let mut value = format!("{} {}\n", entry.created, entry.modified).into_bytes();
    value.extend_from_slice(&entry.value);
    value
}

pub(super) fn open_value(bytes: &Bytes) -> Option<(Rev, Rev, Bytes)> {
    let end = bytes.iter().take(64).position(|byte| *byte == b'\n')?;
    let (created, modified) = std::str::from_utf8(&bytes[..end]).ok()?.split_once(' ')?;
    // A copy of its own: a slice would keep the whole answer of etcd alive.
    Some((created.parse().ok()?, modified.parse().ok()?, Bytes::copy_from_slice(&bytes[end + 1..])))
}

impl Head {
    fn of(events: &[Event], id: u128) -> Head {
        let changes = events.iter().enumerate().filter_map(|(at, event)| {
            let what = match event {
                Event::Put { entry, .. } if is_replaced(events, at, event) => {
                    What::Passing { created: entry.created, value: entry.value.clone() }
                }
                Event::Put { entry, .. } => What::Put { created: entry.created },
                _ => What::Delete,
            };
            Some(Noted { rev: event.rev(), key: event.key()?.to_string(), what })
        });
        Head { rev: events.last().map_or(0, Event::rev), id, changes: changes.collect() }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u64(self.rev);
        out.put_u128(self.id);
        for Noted { rev, key, what } in &self.changes {
            let (kind, created, value) = match what {
                What::Delete => (0, 0, &Bytes::new()),
                What::Put { created } => (1, *created, &Bytes::new()),
                What::Passing { created, value } => (2, *created, value),
            };
            out.put_u8(kind);
            out.put_u64(*rev);
            out.put_u64(created);
            for part in [key.as_bytes(), value] {
                out.put_u32(part.len() as u32);
                out.put_slice(part);
            }
        }
        out.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Option<Head> {
        if bytes.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let mut head = Head { rev: bytes.try_get_u64().ok()?, id: bytes.try_get_u128().ok()?, changes: Vec::new() };
        while !bytes.is_empty() {
            let (kind, rev) = (bytes.try_get_u8().ok()?, bytes.try_get_u64().ok()?);
            let created = bytes.try_get_u64().ok()?;
            let key = String::from_utf8(part(&mut bytes)?.to_vec()).ok()?;
            let value = part(&mut bytes)?;
            let what = match kind {
                0 => What::Delete,
                1 => What::Put { created },
                2 => What::Passing { created, value: Bytes::copy_from_slice(&value) },
                _ => return None,
            };
            head.changes.push(Noted { rev, key, what });
        }
        Some(head)
    }
}

fn part(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32().ok()? as usize;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &'static str, created: Rev, modified: Rev) -> Entry {
        Entry { key: "/a".into(), value: value.into(), created, modified }
    }

    #[test]
    fn a_head_notes_what_a_commit_changes() {
        let (first, last) = (entry("one", 7, 7), entry("two", 9, 9));
        let events = [
            Event::Put { entry: first.clone(), prev: None },
            Event::Delete { rev: 8, prev: first },
            Event::Put { entry: last, prev: None },
        ];
        let head = Head::of(&events, 5);
        let noted = |rev, what| Noted { rev, key: "/a".into(), what };
        let passing = What::Passing { created: 7, value: "one".into() };
        let expected = [noted(7, passing), noted(8, What::Delete), noted(9, What::Put { created: 9 })];
        assert_eq!((head.rev, head.id, &head.changes[..]), (9, 5, &expected[..]));
        let bytes = head.encode();
        assert_eq!(Head::decode(bytes.clone()), Some(head));
        for cut in (0..25).chain(26..bytes.len() - 1) {
            // A head cut between two changes is a whole one; any other is none.
            let cut = Head::decode(bytes.slice(..cut));
            assert!(cut.is_none_or(|cut| cut.changes.len() < 3));
        }
    }

    #[test]
    fn values_carry_their_revisions() {
        let layout = Layout::new("/registry/skiff/x/");
        let put = KeyValue {
            key: "/registry/skiff/x/key//a".into(),
            modified: 3,
            value: value(&entry("{\"a\":\n1}", 4, 12)).into(),
        };
        assert_eq!(layout.entry(&put), Some(entry("{\"a\":\n1}", 4, 12)));
        for foreign in ["", "k8s\0\n", "4 \n", "4 12", "4 x\n"] {
            assert_eq!(open_value(&foreign.into()), None, "{foreign:?}");
        }
    }
}
