//! The few messages of etcd's v3 API that are needed, as protobuf bytes. Written by hand: six requests and three answers
//! with a handful of fields each weigh less than a code generator.
//!
//! The numbers are those of etcd's `rpc.proto` and `kv.proto`, which only ever get new ones.

use bytes::{BufMut, Bytes, BytesMut};

/// A message under construction.
#[derive(Default)]
pub(super) struct Message(BytesMut);

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

impl Message {
    pub(super) fn number(mut self, field: u64, value: u64) -> Self {
        // As in every proto3 encoder: what is absent is 0.
        if value != 0 {
            self.varint(field << 3 | VARINT);
            self.varint(value);
        }
        self
    }

    /// etcd takes an empty end of a range that is there for something else than one that is not.
    pub(super) fn bytes(self, field: u64, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.part(field, value) }
    }

    pub(super) fn message(self, field: u64, value: Message) -> Self {
        self.part(field, &value.0)
    }

    fn part(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | BYTES);
        self.varint(value.len() as u64);
        self.0.put_slice(value);
        self
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.freeze()
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.put_u8(value as u8);
    }
}

enum Value {
    Number(u64),
    Bytes(Bytes),
}

/// The fields of a message, as they come. None: these bytes are no message.
fn fields(mut bytes: Bytes) -> Option<Vec<(u64, Value)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            VARINT => Value::Number(varint(&mut bytes)?),
            FIXED64 => Value::Bytes(take(&mut bytes, 8)?),
            BYTES => {
                let length = varint(&mut bytes)?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            FIXED32 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        fields.push((tag >> 3, value));
    }
    Some(fields)
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take(bytes: &mut Bytes, length: u64) -> Option<Bytes> {
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len())?;
    Some(bytes.split_to(length))
}

/// What is read from a message: each field it knows, the others are passed over.
pub(super) trait Read: Default {
    fn number(&mut self, _field: u64, _value: u64) {}
    /// None: the bytes are no value of the field.
    fn bytes(&mut self, _field: u64, _value: Bytes) -> Option<()> {
        Some(())
    }

    fn read(bytes: Bytes) -> Option<Self> {
        let mut message = Self::default();
        for (field, value) in fields(bytes)? {
            match value {
                Value::Number(value) => message.number(field, value),
                Value::Bytes(value) => message.bytes(field, value)?,
            }
        }
        Some(message)
    }
}

#[derive(Default)]
struct Header {
    revision: u64,
}

impl Read for Header {
    fn number(&mut self, field: u64, value: u64) {
        if field == 3 {
            self.revision = value;
        }
    }
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) modified: u64,
    pub(super) value: Bytes,
}

impl Read for KeyValue {
    fn number(&mut self, field: u64, value: u64) {
        if field == 3 {
            self.modified = value;
        }
    }

    fn bytes(&mut self, field: u64, value: Bytes) -> Option<()> {
        match field {
            1 => self.key = value,
            5 => self.value = value,
            _ => {}
        }
        Some(())
    }
}

/// All keys from `key` to before `end` (empty: the one key), as of `revision` (0: now, as a majority knows it).
pub(super) fn range(key: &[u8], end: &[u8], limit: u64, revision: u64) -> Message {
    Message::default().bytes(1, key).bytes(2, end).number(3, limit).number(4, revision)
}

#[derive(Default)]
pub(super) struct Ranged {
    /// The newest revision of etcd.
    pub(super) revision: u64,
    pub(super) entries: Vec<KeyValue>,
    pub(super) more: bool,
}

impl Read for Ranged {
    fn number(&mut self, field: u64, value: u64) {
        if field == 3 {
            self.more = value != 0;
        }
    }

    fn bytes(&mut self, field: u64, value: Bytes) -> Option<()> {
        match field {
            1 => self.revision = Header::read(value)?.revision,
            2 => self.entries.push(KeyValue::read(value)?),
            _ => {}
        }
        Some(())
    }
}

/// A transaction that happens if `key` was last written at `modified` (0: is absent), and else reads `key`.
pub(super) fn txn_if(key: &[u8], modified: u64, ops: impl Iterator<Item = Message>) -> Message {
    const MOD_REVISION: u64 = 2;
    // The union's member is written even when 0.
    let mut compare = Message::default().number(2, MOD_REVISION).bytes(3, key);
    compare.varint(6 << 3 | VARINT);
    compare.varint(modified);
    let happens = ops.fold(Message::default().message(1, compare), |txn, op| txn.message(2, op));
    happens.message(3, Message::default().message(1, range(key, &[], 1, 0)))
}

pub(super) fn put(key: &[u8], value: &[u8]) -> Message {
    Message::default().message(2, Message::default().bytes(1, key).bytes(2, value))
}

pub(super) fn delete(key: &[u8]) -> Message {
    Message::default().message(3, Message::default().bytes(1, key))
}

#[derive(Default)]
pub(super) struct Done {
    pub(super) revision: u64,
    pub(super) succeeded: bool,
    /// When it did not: the key that it depended on.
    pub(super) found: Option<KeyValue>,
}

impl Read for Done {
    fn number(&mut self, field: u64, value: u64) {
        if field == 2 {
            self.succeeded = value != 0;
        }
    }

    fn bytes(&mut self, field: u64, value: Bytes) -> Option<()> {
        match field {
            1 => self.revision = Header::read(value)?.revision,
            3 => self.found = Op::read(value)?.0.entries.pop().or(self.found.take()),
            _ => {}
        }
        Some(())
    }
}

#[derive(Default)]
struct Op(Ranged);

impl Read for Op {
    fn bytes(&mut self, field: u64, value: Bytes) -> Option<()> {
        if field == 1 {
            self.0 = Ranged::read(value)?;
        }
        Some(())
    }
}

/// Every change to the keys from `key` to before `end`, from a revision on.
pub(super) fn watch(key: &[u8], end: &[u8], from: u64) -> Message {
    Message::default().message(1, Message::default().bytes(1, key).bytes(2, end).number(3, from))
}

#[derive(Default)]
pub(super) struct Watched {
    pub(super) canceled: bool,
    /// Not 0: the revision asked for is gone.
    pub(super) compacted: u64,
    pub(super) reason: String,
    pub(super) changes: Vec<Change>,
}

impl Read for Watched {
    fn number(&mut self, field: u64, value: u64) {
        match field {
            4 => self.canceled = value != 0,
            5 => self.compacted = value,
            _ => {}
        }
    }

    fn bytes(&mut self, field: u64, value: Bytes) -> Option<()> {
        match field {
            6 => self.reason = String::from_utf8_lossy(&value).into_owned(),
            11 => self.changes.push(Change::read(value)?),
            _ => {}
        }
        Some(())
    }
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) entry: KeyValue,
}

impl Read for Change {
    fn bytes(&mut self, field: u64, value: Bytes) -> Option<()> {
        if field == 2 {
            self.entry = KeyValue::read(value)?;
        }
        Some(())
    }
}

pub(super) fn compaction(revision: u64) -> Message {
    Message::default().number(1, revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let header = Message::default().number(3, number);
            let answer = Message::default().message(1, header).number(3, 1);
            let read = Ranged::read(answer.finish()).expect("a message");
            assert_eq!((read.revision, read.more), (number, true));
        }
        let entry = || Message::default().bytes(1, b"key").bytes(5, &[7; 300]).number(3, 9).number(2, 4);
        let read = Ranged::read(Message::default().message(2, entry()).message(2, entry()).finish());
        let read = read.expect("a message").entries;
        let expected = || KeyValue { key: "key".into(), modified: 9, value: vec![7; 300].into() };
        assert_eq!(read, [expected(), expected()]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let whole = Message::default().message(2, Message::default().bytes(1, b"key").number(3, 900)).finish();
        for cut in 1..whole.len() {
            assert!(Ranged::read(whole.slice(..cut)).is_none(), "cut at {cut}");
        }
        for bytes in [&[0xff; 11][..], &[0x0b], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert!(Ranged::read(Bytes::copy_from_slice(bytes)).is_none(), "{bytes:?}");
        }
    }
}
