//! How changes look as bytes. A file begins with [`HEADER`]; then come frames, each
//! `mark (4) | length (4) | crc32 of the payload (4) | payload`, numbers little-endian. A frame of a log holds the changes
//! of one commit, so a commit is in the file wholly or not at all.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Rev};

pub(crate) const HEADER: &[u8; 8] = b"skiffS1\n";
const MARK: [u8; 4] = [0xf5, b'c', b'm', 0x0a];
const FRAME_HEAD: usize = 12;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const SNAPSHOT_HEAD: u8 = 3;
const SNAPSHOT_END: u8 = 4;

/// One thing that a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Put(Entry),
    Delete { rev: Rev, key: Arc<str> },
    SnapshotHead { rev: Rev },
    SnapshotEnd { count: u64 },
}

/// Why reading stopped before the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// The last frame was not written to its end: a crash during a write that nobody was told of.
    Torn { at: usize },
    /// Bytes before a good frame are wrong: acknowledged data is damaged.
    Damaged { at: usize },
}

pub(crate) fn push(payload: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Put(entry) => {
            payload.push(PUT);
            push_number(payload, entry.modified);
            push_number(payload, entry.created);
            push_bytes(payload, entry.key.as_bytes());
            push_bytes(payload, &entry.value);
        }
        Record::Delete { rev, key } => {
            payload.push(DELETE);
            push_number(payload, *rev);
            push_bytes(payload, key.as_bytes());
        }
        Record::SnapshotHead { rev } => {
            payload.push(SNAPSHOT_HEAD);
            push_number(payload, *rev);
        }
        Record::SnapshotEnd { count } => {
            payload.push(SNAPSHOT_END);
            push_number(payload, *count);
        }
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The frame around records. Fails only if they are over 4 GiB together.
pub(crate) fn encode<'a>(records: impl Iterator<Item = &'a Record>) -> Option<Vec<u8>> {
    let mut frame = vec![0; FRAME_HEAD];
    records.for_each(|record| push(&mut frame, record));
    let length = u32::try_from(frame.len() - FRAME_HEAD).ok()?;
    let crc = crc32fast::hash(&frame[FRAME_HEAD..]);
    frame[..4].copy_from_slice(&MARK);
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    Some(frame)
}

/// All records of a file in order, and why reading stopped if that was not at its end.
pub(crate) fn decode(file: &[u8]) -> (Vec<Record>, Option<Bad>) {
    let mut records = Vec::new();
    if !file.starts_with(HEADER) {
        return (records, Some(judge(file, 0)));
    }
    let mut at = HEADER.len();
    while at < file.len() {
        let Some(payload) = frame_at(file, at) else { return (records, Some(judge(file, at))) };
        if read_payload(payload, &mut records).is_none() {
            return (records, Some(Bad::Damaged { at }));
        }
        at += FRAME_HEAD + payload.len();
    }
    (records, None)
}

/// A bad place is a torn end unless a good frame follows: the next frame is only written after the one before is durable.
fn judge(file: &[u8], at: usize) -> Bad {
    let later = at + 1..file.len().saturating_sub(FRAME_HEAD - 1);
    let good_follows = later.into_iter().any(|at| file[at..].starts_with(&MARK) && frame_at(file, at).is_some());
    if good_follows { Bad::Damaged { at } } else { Bad::Torn { at } }
}

fn frame_at(file: &[u8], at: usize) -> Option<&[u8]> {
    let head = file.get(at..at + FRAME_HEAD)?;
    let number = |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let payload = file.get(at + FRAME_HEAD..)?.get(..number(4) as usize)?;
    (head[..4] == MARK && crc32fast::hash(payload) == number(8)).then_some(payload)
}

fn read_payload(mut rest: &[u8], records: &mut Vec<Record>) -> Option<()> {
    while let Some((&kind, after)) = rest.split_first() {
        rest = after;
        records.push(match kind {
            PUT => {
                let (modified, created) = (take_number(&mut rest)?, take_number(&mut rest)?);
                let key = take_text(&mut rest)?;
                let value = Bytes::copy_from_slice(take_bytes(&mut rest)?);
                Record::Put(Entry { key, value, created, modified })
            }
            DELETE => Record::Delete { rev: take_number(&mut rest)?, key: take_text(&mut rest)? },
            SNAPSHOT_HEAD => Record::SnapshotHead { rev: take_number(&mut rest)? },
            SNAPSHOT_END => Record::SnapshotEnd { count: take_number(&mut rest)? },
            _ => return None,
        });
    }
    Some(())
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn take_text(rest: &mut &[u8]) -> Option<Arc<str>> {
    std::str::from_utf8(take_bytes(rest)?).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, rev: Rev) -> Record {
        Record::Put(Entry { key: key.into(), value: "value".into(), created: 1, modified: rev })
    }

    fn file(frames: &[&[Record]]) -> Vec<u8> {
        let mut file = HEADER.to_vec();
        for records in frames {
            file.extend(encode(records.iter()).expect("small"));
        }
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let (a, b) = ([put("a", 1), put("b", 2)], [Record::Delete { rev: 3, key: "a".into() }]);
        let (records, bad) = decode(&file(&[&a, &b]));
        assert_eq!((records, bad), ([a.to_vec(), b.to_vec()].concat(), None));
    }

    #[test]
    fn every_cut_gives_whole_commits_and_a_torn_end() {
        let (a, b) = ([put("a", 1), put("b", 2)], [put("c", 3)]);
        let (one, two) = (file(&[&a]).len(), file(&[&a, &b]));
        for cut in 0..two.len() {
            let (records, bad) = decode(&two[..cut]);
            let whole = if cut >= one { 2 } else { 0 };
            assert_eq!(records.len(), whole, "cut at {cut}");
            let clean = cut == HEADER.len() || cut == one;
            assert_eq!(bad.is_none(), clean, "cut at {cut}: {bad:?}");
            assert!(!matches!(bad, Some(Bad::Damaged { .. })), "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_byte_before_a_good_frame_is_damage() {
        let good = file(&[&[put("a", 1)], &[put("b", 2)]]);
        let last = file(&[&[put("a", 1)]]).len();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            let (_, verdict) = decode(&bad);
            let damaged = matches!(verdict, Some(Bad::Damaged { .. }));
            assert_eq!(damaged, at < last, "byte {at}: {verdict:?}");
        }
    }
}
