//! DNS messages as bytes (RFC 1035, EDNS: RFC 6891): just what an answer needs. Input is hostile; every read is bounded.

mod encode;
mod foreign;
mod name;
mod query;
mod record;

pub(crate) use encode::opt;
pub use encode::{encode, encode_bad_version, encode_query, encode_reject};
pub use foreign::{Foreign, parse_foreign};
pub use name::Name;
pub use query::{Edns, Query, Reject};
pub use record::{Data, Rcode, Record, Response};

pub const HEADER: usize = 12;
/// The longest name in wire form, with its final zero.
pub const MAX_NAME: usize = 255;
/// What a client without EDNS takes over UDP.
pub const PLAIN_UDP: u16 = 512;
/// What we take and give over UDP with EDNS: fits an Ethernet frame (DNS flag day 2020).
pub const EDNS_UDP: u16 = 1232;

/// The Internet's class: the only one that is served.
pub const CLASS_IN: u16 = 1;

pub mod rtype {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    /// From here on to ANY: no data, but wishes to the server (transfers, keys).
    pub const TKEY: u16 = 249;
    pub const ANY: u16 = 255;
}

pub(crate) const RESPONSE: u16 = 0x8000;
pub(crate) const AUTHORITATIVE: u16 = 0x0400;
pub(crate) const TRUNCATED: u16 = 0x0200;
pub(crate) const RECURSION_DESIRED: u16 = 0x0100;
pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
/// In an OPT record's flags.
pub(crate) const DNSSEC_OK: u16 = 0x8000;
/// An empty OPT record's length.
pub(crate) const OPT_LENGTH: usize = 11;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The type that a message asks for, without a closer look; 0 when it is none.
pub(crate) fn question_type(message: &[u8]) -> u16 {
    let mut at = HEADER;
    while let Some(length @ 1..=63) = message.get(at) {
        at += 1 + usize::from(*length);
    }
    u16_at(message, at + 1).unwrap_or(0)
}

/// An answer's code.
pub(crate) fn rcode(answer: &[u8]) -> Rcode {
    Rcode::from_bits(u16_at(answer, 2).unwrap_or(0))
}
