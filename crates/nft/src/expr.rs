//! Expressions: what a rule does, one after the other, on sixteen registers of four bytes.

use std::sync::Arc;

use crate::{
    packed::Packed,
    value::{Family, Verdict},
};

/// A 32-bit register, 0 to 15. A rule must write a register before it reads it (enforced by kernels from 6.7 on).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reg(pub u8);

impl Reg {
    pub const COUNT: u8 = 16;

    /// NFT_REG32_00 is 8.
    pub(crate) fn number(self) -> u32 {
        u32::from(self.0) + 8
    }

    /// The kernel answers with the old 128-bit number (1 to 4) where a value starts at one and fills it.
    pub(crate) fn from_number(n: u32) -> Option<Self> {
        match n {
            1..=4 => Some(Reg((n as u8 - 1) * 4)),
            8..=23 => Some(Reg(n as u8 - 8)),
            _ => None,
        }
    }

    pub fn after(self, bytes: usize) -> Reg {
        Reg(self.0 + bytes.div_ceil(4) as u8)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Network,
    Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    Status,
    /// Where the first packet of the flow was sent to, before any translation.
    OriginalDaddr,
    OriginalDport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    TcpReset,
    PortUnreachable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    Add,
    Update,
    Delete,
}

/// What a look-up does with what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Only matches: a set.
    Match,
    /// Matches when the key is absent.
    Absent,
    Reg(Reg),
    /// The verdict that the map holds.
    Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Payload {
        header: Header,
        offset: u32,
        len: u32,
        dst: Reg,
    },
    L4Proto {
        dst: Reg,
    },
    Ct {
        key: CtKey,
        dst: Reg,
    },
    /// RTN_* of the destination address, 2 = local.
    FibDaddrType {
        dst: Reg,
    },
    /// The same of the source address.
    FibSaddrType {
        dst: Reg,
    },
    And {
        reg: Reg,
        mask: u32,
    },
    Cmp {
        src: Reg,
        equal: bool,
        value: Packed,
    },
    Immediate {
        dst: Reg,
        value: Packed,
    },
    Verdict(Verdict),
    Lookup {
        set: Arc<str>,
        src: Reg,
        target: Target,
    },
    Random {
        modulus: u32,
        dst: Reg,
    },
    Dynset {
        set: Arc<str>,
        op: Update,
        key: Reg,
        data: Reg,
        timeout_ms: u64,
    },
    Dnat {
        addr: Reg,
        port: Reg,
    },
    /// With a fully random source port, so that two clients behind it do not collide.
    Masquerade,
    Reject(Rejection),
    /// The packet's connection is not tracked; in a chain before tracking only ([`BEFORE_TRACKING`](crate::BEFORE_TRACKING)).
    NoTrack,
    Counter,
    /// Something that this crate never writes: never equal to what is wanted, so the rule is replaced.
    Foreign(String),
}

impl Expr {
    pub fn saddr(family: Family, dst: Reg) -> Self {
        let (offset, len) = if family == Family::Ip { (12, 4) } else { (8, 16) };
        Expr::Payload { header: Header::Network, offset, len, dst }
    }

    pub fn daddr(family: Family, dst: Reg) -> Self {
        let (offset, len) = if family == Family::Ip { (16, 4) } else { (24, 16) };
        Expr::Payload { header: Header::Network, offset, len, dst }
    }

    /// Destination port of TCP, UDP and SCTP alike.
    pub fn dport(dst: Reg) -> Self {
        Expr::Payload { header: Header::Transport, offset: 2, len: 2, dst }
    }

    pub fn lookup(set: &str, src: Reg, target: Target) -> Self {
        Expr::Lookup { set: set.into(), src, target }
    }
}
