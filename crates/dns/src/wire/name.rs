//! Names in wire form.

use std::fmt;

use super::{HEADER, MAX_NAME};

/// A name in wire form, lower case, uncompressed, with its final zero; at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Vec<u8>);

impl Name {
    pub fn root() -> Self {
        Name(vec![0])
    }

    /// None when a label is empty or over 63 bytes, or the whole is too long. A final dot makes no difference. Reads what
    /// `Display` writes: `\.` and `\\` stand for themselves, `\DDD` for any byte (RFC 1035, 5.1).
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text == "." {
            return Some(Name::root());
        }
        let mut labels = vec![vec![]];
        let mut rest = text.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            match byte {
                b'.' if rest.is_empty() => break,
                b'.' => labels.push(vec![]),
                b'\\' => labels.last_mut()?.push(unescape(&mut rest)?),
                byte => labels.last_mut()?.push(byte),
            }
        }
        Name::from_labels(labels.iter().map(Vec::as_slice))
    }

    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut wire = vec![];
        for label in labels {
            if label.is_empty() || label.len() > 63 {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        wire.push(0);
        (wire.len() <= MAX_NAME).then_some(Name(wire))
    }

    /// The labels before `parent`'s, when this name is `parent` or below it.
    pub fn labels_below(&self, parent: &Name) -> Option<Vec<&[u8]>> {
        let cut = self.0.len().checked_sub(parent.0.len())?;
        let labels = self.labels();
        let mut at = 0;
        let mut below = vec![];
        for label in labels {
            if at == cut {
                break;
            }
            at += label.len() + 1;
            below.push(label);
        }
        (at == cut && self.0[cut..] == parent.0).then_some(below)
    }

    pub fn labels(&self) -> Vec<&[u8]> {
        let mut rest = self.0.as_slice();
        let mut labels = vec![];
        while let Some((&length, tail)) = rest.split_first()
            && length > 0
        {
            let (label, after) = tail.split_at(length as usize);
            labels.push(label);
            rest = after;
        }
        labels
    }

    /// `label` in front of this name.
    pub fn child(&self, label: &[u8]) -> Option<Name> {
        Name::from_labels(std::iter::once(label).chain(self.labels()))
    }

    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Reads a name at `at`, following compression pointers; the name and where reading goes on.
    pub fn read(message: &[u8], at: usize) -> Option<(Name, usize)> {
        let mut wire = Vec::with_capacity(64);
        let mut at = at;
        let mut end = None;
        // Pointers lead to before the labels that were read last and never into the header, so each leads further back;
        // and a chain of pointers longer than a name has labels is an attempt to waste our time.
        let (mut before, mut jumps) = (at, 0);
        loop {
            let length = *message.get(at)? as usize;
            match length {
                0 => {
                    wire.push(0);
                    return Some((Name(wire), end.unwrap_or(at + 1)));
                }
                1..=63 => {
                    let label = message.get(at + 1..at + 1 + length)?;
                    wire.push(length as u8);
                    wire.extend(label.iter().map(u8::to_ascii_lowercase));
                    at += 1 + length;
                }
                0xc0.. => {
                    let target = (length & 0x3f) << 8 | *message.get(at + 1)? as usize;
                    end.get_or_insert(at + 2);
                    jumps += 1;
                    if target < HEADER || target >= before || jumps > MAX_NAME / 2 {
                        return None;
                    }
                    (at, before) = (target, target);
                }
                _ => return None,
            }
            if wire.len() >= MAX_NAME {
                return None;
            }
        }
    }
}

/// What stands behind a backslash; it is taken off `rest`.
fn unescape(rest: &mut &[u8]) -> Option<u8> {
    let (number, length) = match **rest {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
            let digit = |d: u8| u16::from(d - b'0');
            (u8::try_from(digit(a) * 100 + digit(b) * 10 + digit(c)).ok()?, 3)
        }
        [b'0'..=b'9', ..] => return None,
        [byte, ..] => (byte, 1),
        [] => return None,
    };
    *rest = &rest[length..];
    Some(number)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", *byte as char)?,
                    0x21..=0x7e => write!(f, "{}", *byte as char)?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            f.write_str(".")?;
        }
        if self.0 == [0] { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
