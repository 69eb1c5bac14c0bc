//! What answers are made of.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Name, rtype};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

impl Rcode {
    /// From a header's flags; codes that we have no name for are failures to the client.
    pub const ALL: [Rcode; 6] =
        [Rcode::NoError, Rcode::FormErr, Rcode::ServFail, Rcode::NxDomain, Rcode::NotImp, Rcode::Refused];

    /// As it is written in tools and metrics.
    pub fn text(self) -> &'static str {
        match self {
            Rcode::NoError => "NOERROR",
            Rcode::FormErr => "FORMERR",
            Rcode::ServFail => "SERVFAIL",
            Rcode::NxDomain => "NXDOMAIN",
            Rcode::NotImp => "NOTIMP",
            Rcode::Refused => "REFUSED",
        }
    }

    pub(super) fn from_bits(flags: u16) -> Self {
        match flags & 0xf {
            0 => Rcode::NoError,
            1 => Rcode::FormErr,
            3 => Rcode::NxDomain,
            4 => Rcode::NotImp,
            5 => Rcode::Refused,
            _ => Rcode::ServFail,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    Ns(Name),
    Ptr(Name),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    Txt(String),
    /// What an upstream answered, names in it written out.
    Other {
        rtype: u16,
        bytes: Vec<u8>,
    },
    Soa {
        mname: Name,
        rname: Name,
        serial: u32,
        refresh: u32,
        retry: u32,
        expire: u32,
        minimum: u32,
    },
}

impl Data {
    pub fn rtype(&self) -> u16 {
        match self {
            Data::A(_) => rtype::A,
            Data::Aaaa(_) => rtype::AAAA,
            Data::Cname(_) => rtype::CNAME,
            Data::Ns(_) => rtype::NS,
            Data::Ptr(_) => rtype::PTR,
            Data::Srv { .. } => rtype::SRV,
            Data::Txt(_) => rtype::TXT,
            Data::Other { rtype, .. } => *rtype,
            Data::Soa { .. } => rtype::SOA,
        }
    }

    /// How long data from upstream is; our own has no need to be measured.
    pub fn foreign_len(&self) -> usize {
        if let Data::Other { bytes, .. } = self { bytes.len() } else { 0 }
    }

    /// How long a "no" may be kept, as an SOA from upstream says with its last number.
    pub fn negative_ttl(&self) -> Option<u32> {
        match self {
            Data::Other { rtype: rtype::SOA, bytes } => Some(u32::from_be_bytes(*bytes.last_chunk()?)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub name: Name,
    pub ttl: u32,
    pub data: Data,
}

/// An answer before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub rcode: Rcode,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
}

impl Response {
    pub fn empty(rcode: Rcode) -> Self {
        Response { rcode, authoritative: false, answers: vec![], authority: vec![], additional: vec![] }
    }
}
