//! What the kernel says its tables are, as the same values that were sent. Anything that this crate never writes becomes
//! [`Expr::Foreign`] or an odd specification: unequal to what is wanted, therefore replaced.

use std::collections::BTreeMap;

use crate::{
    encode::{self, ELEMENT_INTERVAL_END, SET_CONCAT, SET_EVAL, SET_INTERVAL, SET_MAP, SET_TIMEOUT, VERDICT_TYPE},
    expr::{CtKey, Expr, Header, Reg, Rejection, Target, Update},
    packed::Packed,
    typeof_,
    value::{Chain, Data, DataKind, Field, Hook, HookPoint, Layout, Rule, SetSpec, Value, Verdict},
    wire::{attributes, find, find_number, find_text, number},
};

/// The body of a NEWCHAIN message.
pub(crate) fn chain(body: &[u8]) -> Option<(String, Chain)> {
    let name = find_text(body, 3)?.to_owned();
    let hook = find(body, 4).and_then(|h| {
        let wanted = find_number(h, 1)?;
        let (point, ..) = HookPoint::ALL.into_iter().find(|(_, n, _)| *n == wanted)?;
        Some(Hook { point, priority: find_number(h, 2)? as i32 })
    });
    Some((name, Chain { hook, rules: vec![] }))
}

/// The body of a NEWRULE message: the chain's name and the rule.
pub(crate) fn rule(body: &[u8]) -> Option<(String, Rule)> {
    let chain = find_text(body, 2)?.to_owned();
    let list = find(body, 4).unwrap_or_default();
    let exprs = attributes(list).map(|(_, e)| expr(e)).collect();
    let comment = find(body, 7).and_then(typeof_::comment_of).unwrap_or_default().to_owned();
    Some((chain, Rule { exprs, comment }))
}

fn expr(body: &[u8]) -> Expr {
    let name = find_text(body, 1).unwrap_or_default();
    let data = find(body, 2).unwrap_or_default();
    known(name, data).unwrap_or_else(|| Expr::Foreign(name.to_owned()))
}

fn reg(data: &[u8], kind: u16) -> Option<Reg> {
    Reg::from_number(find_number(data, kind)?)
}

fn packed(data: &[u8], kind: u16) -> Option<Packed> {
    Packed::from_bytes(find(find(data, kind)?, 1)?)
}

fn known(name: &str, d: &[u8]) -> Option<Expr> {
    Some(match name {
        "payload" => Expr::Payload {
            header: match find_number(d, 2)? {
                1 => Header::Network,
                2 => Header::Transport,
                _ => return None,
            },
            offset: find_number(d, 3)?,
            len: find_number(d, 4)?,
            dst: reg(d, 1)?,
        },
        "meta" if find_number(d, 2)? == 16 => Expr::L4Proto { dst: reg(d, 1)? },
        "ct" => Expr::Ct { key: ct_key(find_number(d, 2)?)?, dst: reg(d, 1)? },
        "fib" if find_number(d, 2)? == encode::FIB_TYPE => match find_number(d, 3)? {
            encode::FIB_SADDR => Expr::FibSaddrType { dst: reg(d, 1)? },
            encode::FIB_DADDR => Expr::FibDaddrType { dst: reg(d, 1)? },
            _ => return None,
        },
        "bitwise" if find_number(d, 6).unwrap_or(0) == 0 && find_number(d, 3)? == 4 => {
            Expr::And { reg: reg(d, 1).filter(|r| Some(*r) == reg(d, 2))?, mask: packed(d, 4)?.number_at(0)? }
        }
        "cmp" => Expr::Cmp {
            src: reg(d, 1)?,
            equal: match find_number(d, 2)? {
                0 => true,
                1 => false,
                _ => return None,
            },
            value: packed(d, 3)?,
        },
        "immediate" if find_number(d, 1)? == 0 => Expr::Verdict(verdict(find(find(d, 2)?, 2)?)?),
        "immediate" => Expr::Immediate { dst: reg(d, 1)?, value: packed(d, 2)? },
        "lookup" => Expr::Lookup { set: find_text(d, 1)?.into(), src: reg(d, 2)?, target: target(d)? },
        _ => return action(name, d),
    })
}

fn target(d: &[u8]) -> Option<Target> {
    let absent = find_number(d, 5).unwrap_or(0) & 1 == 1;
    Some(match find_number(d, 3) {
        None if absent => Target::Absent,
        None => Target::Match,
        Some(0) => Target::Verdict,
        Some(n) => Target::Reg(Reg::from_number(n)?),
    })
}

fn ct_key(n: u32) -> Option<CtKey> {
    match n {
        2 => Some(CtKey::Status),
        20 | 22 => Some(CtKey::OriginalDaddr),
        12 => Some(CtKey::OriginalDport),
        _ => None,
    }
}

fn action(name: &str, d: &[u8]) -> Option<Expr> {
    Some(match name {
        "numgen" if find_number(d, 3)? == 1 && find_number(d, 4).unwrap_or(0) == 0 => {
            Expr::Random { modulus: find_number(d, 2)?, dst: reg(d, 1)? }
        }
        "dynset" => Expr::Dynset {
            set: find_text(d, 1)?.into(),
            op: match find_number(d, 3)? {
                0 => Update::Add,
                1 => Update::Update,
                2 => Update::Delete,
                _ => return None,
            },
            key: reg(d, 4)?,
            data: reg(d, 5)?,
            timeout_ms: find(d, 6).and_then(|t| t.try_into().ok()).map_or(0, u64::from_be_bytes),
        },
        "nat" if find_number(d, 1)? == 1 => Expr::Dnat { addr: reg(d, 3)?, port: reg(d, 5)? },
        "masq" => Expr::Masquerade,
        "reject" if find_number(d, 1)? == 1 => Expr::Reject(Rejection::TcpReset),
        "reject" => Expr::Reject(Rejection::PortUnreachable),
        "notrack" => Expr::NoTrack,
        "counter" => Expr::Counter,
        _ => return None,
    })
}

fn verdict(d: &[u8]) -> Option<Verdict> {
    let chain = || find_text(d, 2).map(Into::into);
    Some(match find_number(d, 1)? as i32 {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

fn fields(mut id: u32) -> Vec<Field> {
    let mut out = vec![];
    while id != 0 {
        out.push(match id & 0x3f {
            7 | 8 => Field::Addr,
            12 => Field::Proto,
            13 => Field::Port,
            4 => Field::Number,
            _ => Field::Mark,
        });
        id >>= 6;
    }
    out.reverse();
    out
}

/// The body of a NEWSET message.
pub(crate) fn set(body: &[u8]) -> Option<(String, SetSpec)> {
    let name = find_text(body, 2)?.to_owned();
    let flags = find_number(body, 3).unwrap_or(0);
    let timeout_ms = find(body, 11).and_then(|t| t.try_into().ok()).map_or(0, u64::from_be_bytes);
    let size = find(body, 9).and_then(|d| find_number(d, 1)).unwrap_or(0);
    let layout = match flags & (SET_INTERVAL | SET_CONCAT | SET_TIMEOUT | SET_EVAL) {
        0 => Layout::Exact,
        SET_INTERVAL => Layout::Interval,
        f if f == SET_INTERVAL | SET_CONCAT => Layout::Ranges,
        _ => Layout::Dynamic { timeout_ms, size },
    };
    let data = match find_number(body, 6) {
        _ if flags & SET_MAP == 0 => DataKind::None,
        Some(VERDICT_TYPE) => DataKind::Verdict,
        Some(id) => DataKind::Fields(fields(id)),
        None => DataKind::None,
    };
    Some((name, SetSpec { key: fields(find_number(body, 4)?), data, layout }))
}

/// Collects the elements of one set from as many messages as it takes.
#[derive(Default)]
pub(crate) struct Elements {
    found: BTreeMap<Packed, Value>,
    /// First keys behind a range.
    ends: Vec<Packed>,
}

impl Elements {
    /// The body of a NEWSETELEM message. None when it makes no sense.
    pub(crate) fn read(&mut self, body: &[u8]) -> Option<()> {
        for (_, e) in attributes(find(body, 3).unwrap_or_default()) {
            let key = packed(e, 1)?;
            if find(e, 3).and_then(number).unwrap_or(0) & ELEMENT_INTERVAL_END != 0 {
                self.ends.push(key);
                continue;
            }
            let data = match find(e, 2) {
                None => Data::None,
                Some(d) => match find(d, 2) {
                    Some(v) => Data::Verdict(verdict(v)?),
                    None => Data::Packed(Packed::from_bytes(find(d, 1)?)?),
                },
            };
            let comment = find(e, 6).and_then(typeof_::comment_of).map(Into::into);
            self.found.insert(key, Value { end: packed(e, 10).map(Box::new), data, comment });
        }
        Some(())
    }

    pub(crate) fn finish(mut self, layout: Layout) -> BTreeMap<Packed, Value> {
        if layout == Layout::Interval {
            self.ends.sort();
            for (start, value) in &mut self.found {
                let at = self.ends.partition_point(|end| end <= start);
                let end = self.ends.get(at).map_or_else(|| last_address(start), before);
                value.end = Some(Box::new(end));
            }
        }
        self.found
    }
}

fn before(end: &Packed) -> Packed {
    let mut bytes = end.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let (next, under) = byte.overflowing_sub(1);
        *byte = next;
        if !under {
            break;
        }
    }
    Packed::from_bytes(&bytes).unwrap_or_default()
}

fn last_address(like: &Packed) -> Packed {
    Packed::from_bytes(&vec![0xff; like.as_bytes().len()]).unwrap_or_default()
}
