//! Keys and data of elements as the kernel holds them in its registers: every field padded to four bytes.

use std::{fmt, net::IpAddr};

/// The longest concatenation in use is address, port, address, protocol, port of IPv6: 44 bytes.
const ROOM: usize = 47;

/// A concatenation of fields, inline: elements come by the hundred thousand and must not allocate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packed {
    bytes: [u8; ROOM],
    len: u8,
}

impl Default for Packed {
    fn default() -> Self {
        Packed { bytes: [0; ROOM], len: 0 }
    }
}

impl Packed {
    pub fn new() -> Self {
        Self::default()
    }

    /// None when it is longer than any key this crate knows.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut packed = Packed::new();
        packed.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        packed.len = u8::try_from(bytes.len()).ok()?;
        Some(packed)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(mut self, field: &[u8]) -> Self {
        let start = usize::from(self.len);
        let padded = field.len().next_multiple_of(4);
        assert!(start + padded <= ROOM, "a key of more than {ROOM} bytes: no set of ours has one");
        self.bytes[start..start + field.len()].copy_from_slice(field);
        self.len += padded as u8;
        self
    }

    pub fn addr(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.push(&ip.octets()),
            IpAddr::V6(ip) => self.push(&ip.octets()),
        }
    }

    pub fn proto(self, number: u8) -> Self {
        self.push(&[number])
    }

    pub fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes())
    }

    /// A number that the kernel computes with (mark, numgen): host byte order.
    pub fn number(self, value: u32) -> Self {
        self.push(&value.to_ne_bytes())
    }

    pub fn join(self, other: Packed) -> Self {
        self.push(other.as_bytes())
    }

    /// The word at a byte offset as a number in host order.
    pub fn number_at(&self, offset: usize) -> Option<u32> {
        let word = self.as_bytes().get(offset..offset + 4)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
