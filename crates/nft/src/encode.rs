//! A batch as the bytes of one netlink transaction.

use std::collections::BTreeSet;

use crate::{
    batch::{Batch, Change},
    expr::{CtKey, Expr, Header, Reg, Rejection, Target, Update},
    packed::Packed,
    typeof_,
    value::{Data, DataKind, Element, Family, Field, Hook, HookPoint, Layout, SetSpec, TableRef, Verdict},
    wire::{MessageHead, Writer},
};

pub(crate) const SUBSYS: u16 = 10 << 8;
pub(crate) const NEWTABLE: u16 = 0;
pub(crate) const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
pub(crate) const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
pub(crate) const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
pub(crate) const GETSET: u16 = 10;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
pub(crate) const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
pub(crate) const GETGEN: u16 = 16;

pub(crate) const REQUEST: u16 = 1;
const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Keeps the element list of a message, a nested attribute, well under 64 KiB.
pub(crate) const ELEMENTS_PER_MESSAGE: usize = 500;

pub(crate) const SET_INTERVAL: u32 = 0x4;
pub(crate) const SET_MAP: u32 = 0x8;
pub(crate) const SET_TIMEOUT: u32 = 0x10;
pub(crate) const SET_EVAL: u32 = 0x20;
pub(crate) const SET_CONCAT: u32 = 0x80;
pub(crate) const VERDICT_TYPE: u32 = 0xffff_ff00;
pub(crate) const ELEMENT_INTERVAL_END: u32 = 1;

/// The bytes of a transaction, and which change each message (by sequence number) came from.
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    /// `origin[seq]`: index of the change; None for the frame around them.
    pub(crate) origin: Vec<Option<usize>>,
    /// Where the message of that sequence number begins.
    pub(crate) start: Vec<usize>,
    /// The tables that changes were made to.
    pub(crate) touched: BTreeSet<TableRef>,
}

/// Writes a transaction part by part.
pub(crate) struct Encoder<'a> {
    out: Writer,
    origin: Vec<Option<usize>>,
    start: Vec<usize>,
    change: Option<usize>,
    changes: usize,
    /// Tables that answer to us already.
    claimed: &'a BTreeSet<TableRef>,
    touched: BTreeSet<TableRef>,
    /// For every table taken into possession or created.
    flags: u32,
    /// The last change's table, and whether it is still there.
    last: Option<(TableRef, bool)>,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(claimed: &'a BTreeSet<TableRef>, flags: u32) -> Self {
        let mut e = Encoder {
            out: Writer::default(),
            origin: vec![],
            start: vec![],
            change: None,
            changes: 0,
            claimed,
            touched: BTreeSet::new(),
            flags,
            last: None,
        };
        e.frame(BATCH_BEGIN);
        e
    }

    pub(crate) fn part(&mut self, part: &Batch) {
        self.claim(part);
        for (table, change) in &part.changes {
            self.change = Some(self.changes);
            self.changes += 1;
            self.change(table, change);
        }
        self.change = None;
        if let Some((table, change)) = part.changes.last() {
            self.last = Some((table.clone(), !matches!(change, Change::DeleteTable)));
        }
    }

    /// Takes the part's tables into possession, but those that it makes itself.
    fn claim(&mut self, part: &Batch) {
        let made = |t: &TableRef| part.changes.iter().any(|(b, c)| b == t && matches!(c, Change::CreateTable));
        for (table, _) in &part.changes {
            if self.touched.contains(table) {
                continue;
            }
            self.touched.insert(table.clone());
            if !self.claimed.contains(table) && !made(table) {
                self.new_table(table, self.flags, 0);
            }
        }
    }

    /// Only the last message asks for an answer: failures are reported anyway.
    pub(crate) fn finish(mut self) -> Encoded {
        match self.last.take() {
            Some((table, true)) => self.new_table(&table, self.flags, ACK),
            Some((table, false)) => self.ask_again(&table),
            None => {}
        }
        self.frame(BATCH_END);
        Encoded { bytes: self.out.bytes, origin: self.origin, start: self.start, touched: self.touched }
    }

    fn begin(&mut self) -> u32 {
        self.origin.push(self.change);
        self.start.push(self.out.bytes.len());
        (self.origin.len() - 1) as u32
    }

    fn frame(&mut self, kind: u16) {
        let seq = self.begin();
        self.out.message(&MessageHead { kind, flags: REQUEST, seq, family: 0, res_id: 10 }, |_| {});
    }

    fn message(&mut self, table: &TableRef, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        let seq = self.begin();
        let head =
            MessageHead { kind: SUBSYS | kind, flags: REQUEST | flags, seq, family: table.family.number(), res_id: 0 };
        self.out.message(&head, |w| {
            w.text(1, &table.name);
            body(w);
        });
    }

    fn new_table(&mut self, table: &TableRef, flags: u32, ack: u16) {
        self.message(table, NEWTABLE, CREATE | ack, |w| {
            if flags != 0 {
                w.number(2, flags);
            }
        });
    }

    /// A batch that ends in a deletion is acknowledged through making and deleting the table once more.
    fn ask_again(&mut self, table: &TableRef) {
        self.new_table(table, 0, 0);
        self.message(table, DELTABLE, ACK, |_| {});
    }

    fn change(&mut self, table: &TableRef, change: &Change) {
        match change {
            Change::CreateTable => self.new_table(table, self.flags, 0),
            Change::DeleteTable => self.message(table, DELTABLE, 0, |_| {}),
            Change::CreateChain { name, hook } => {
                self.message(table, NEWCHAIN, CREATE, |w| chain(w, name, hook.as_ref()))
            }
            Change::FlushChain { name } => self.message(table, DELRULE, 0, |w| w.text(2, name)),
            Change::DeleteChain { name } => self.message(table, DELCHAIN, 0, |w| w.text(3, name)),
            Change::AddRule { chain, rule } => self.message(table, NEWRULE, CREATE | APPEND, |w| {
                w.text(2, chain);
                w.nest(4, |w| rule.exprs.iter().for_each(|e| expr(w, table.family, e)));
                if !rule.comment.is_empty() {
                    w.raw(7, &typeof_::comment(&rule.comment));
                }
            }),
            Change::CreateSet { name, spec } => {
                let id = self.origin.len() as u32;
                self.message(table, NEWSET, CREATE, |w| set(w, table.family, name, spec, id));
            }
            Change::DeleteSet { name } => self.message(table, DELSET, 0, |w| w.text(2, name)),
            Change::AddElements { set, layout, elements } => self.elements(table, NEWSETELEM, set, *layout, elements),
            Change::DeleteElements { set, layout, elements } => {
                self.elements(table, DELSETELEM, set, *layout, elements)
            }
        }
    }

    fn elements(&mut self, table: &TableRef, kind: u16, set: &str, layout: Layout, elements: &[Element]) {
        let adding = kind == NEWSETELEM;
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.message(table, kind, if adding { CREATE } else { 0 }, |w| {
                w.text(2, set);
                w.nest(3, |w| chunk.iter().for_each(|e| element(w, layout, e, adding)));
            });
        }
    }
}

fn chain(w: &mut Writer, name: &str, hook: Option<&Hook>) {
    w.text(3, name);
    if let Some(hook) = hook {
        let point = HookPoint::ALL.iter().find(|(p, ..)| *p == hook.point).map_or(0, |(_, n, _)| *n);
        w.nest(4, |w| {
            w.number(1, point);
            w.number(2, hook.priority as u32);
        });
        w.text(7, hook.kind());
    }
}

fn type_id(family: Family, field: Field) -> u32 {
    match field {
        Field::Addr => match family {
            Family::Ip => 7,
            Family::Ip6 => 8,
        },
        Field::Proto => 12,
        Field::Port => 13,
        Field::Number => 4,
        Field::Mark => 19,
    }
}

fn type_ids(family: Family, fields: &[Field]) -> u32 {
    fields.iter().fold(0, |id, f| id << 6 | type_id(family, *f))
}

pub(crate) fn set_flags(spec: &SetSpec) -> u32 {
    let layout = match spec.layout {
        Layout::Exact => 0,
        Layout::Interval => SET_INTERVAL,
        Layout::Ranges => SET_INTERVAL | SET_CONCAT,
        Layout::Dynamic { .. } => SET_TIMEOUT | SET_EVAL,
    };
    layout | if spec.data == DataKind::None { 0 } else { SET_MAP }
}

fn set(w: &mut Writer, family: Family, name: &str, spec: &SetSpec, id: u32) {
    w.text(2, name);
    w.number(3, set_flags(spec));
    w.number(4, type_ids(family, &spec.key));
    w.number(5, spec.key_len(family) as u32);
    match &spec.data {
        DataKind::None => {}
        DataKind::Verdict => {
            w.number(6, VERDICT_TYPE);
            w.number(7, 16);
        }
        DataKind::Fields(fields) => {
            w.number(6, type_ids(family, fields));
            w.number(7, fields.iter().map(|f| f.len(family) as u32).sum());
        }
    }
    w.number(10, id);
    match spec.layout {
        Layout::Ranges => w.nest(9, |w| {
            w.nest(2, |w| {
                for field in &spec.key {
                    let len = match field {
                        Field::Proto => 1,
                        Field::Port => 2,
                        other => other.len(family) as u32,
                    };
                    w.nest(1, |w| w.number(1, len));
                }
            })
        }),
        Layout::Dynamic { timeout_ms, size } => {
            w.nest(9, |w| w.number(1, size));
            w.number64(11, timeout_ms);
        }
        Layout::Exact | Layout::Interval => {}
    }
    w.raw(13, &typeof_::user_data(family, spec));
}

fn value(w: &mut Writer, kind: u16, packed: &[u8]) {
    w.nest(kind, |w| w.raw(1, packed));
}

fn element(w: &mut Writer, layout: Layout, e: &Element, adding: bool) {
    let end = e.value.end.as_deref();
    w.nest(1, |w| {
        value(w, 1, e.key.as_bytes());
        if let (Layout::Ranges, Some(end)) = (layout, end) {
            value(w, 10, end.as_bytes());
        }
        if !adding {
            return;
        }
        match &e.value.data {
            Data::None => {}
            Data::Packed(data) => value(w, 2, data.as_bytes()),
            Data::Verdict(v) => w.nest(2, |w| verdict(w, v)),
        }
        if let Some(text) = &e.value.comment {
            w.raw(6, &typeof_::comment(text));
        }
    });
    if let (Layout::Interval, Some(after)) = (layout, end.and_then(after)) {
        w.nest(1, |w| {
            value(w, 1, after.as_bytes());
            w.number(3, ELEMENT_INTERVAL_END);
        });
    }
}

/// The key behind the last one of a range; None at the end of all addresses.
fn after(last: &Packed) -> Option<Packed> {
    let mut bytes = last.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let (next, over) = byte.overflowing_add(1);
        *byte = next;
        if !over {
            return Packed::from_bytes(&bytes);
        }
    }
    None
}

fn verdict(w: &mut Writer, v: &Verdict) {
    let (code, chain) = match v {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5i32, None),
    };
    w.nest(2, |w| {
        w.number(1, code as u32);
        if let Some(chain) = chain {
            w.text(2, chain);
        }
    });
}

fn named(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.nest(1, |w| {
        w.text(1, name);
        w.nest(2, body);
    });
}

fn reg(w: &mut Writer, kind: u16, reg: Reg) {
    w.number(kind, reg.number());
}

fn expr(w: &mut Writer, family: Family, e: &Expr) {
    match e {
        Expr::Payload { header, offset, len, dst } => named(w, "payload", |w| {
            reg(w, 1, *dst);
            w.number(2, if *header == Header::Network { 1 } else { 2 });
            w.number(3, *offset);
            w.number(4, *len);
        }),
        Expr::L4Proto { dst } => named(w, "meta", |w| {
            w.number(2, 16);
            reg(w, 1, *dst);
        }),
        Expr::Ct { key, dst } => named(w, "ct", |w| ct(w, family, *key, *dst)),
        Expr::FibDaddrType { dst } => named(w, "fib", |w| fib_type(w, *dst, FIB_DADDR)),
        Expr::FibSaddrType { dst } => named(w, "fib", |w| fib_type(w, *dst, FIB_SADDR)),
        Expr::And { reg: r, mask } => named(w, "bitwise", |w| {
            reg(w, 1, *r);
            reg(w, 2, *r);
            w.number(3, 4);
            value(w, 4, &mask.to_ne_bytes());
            value(w, 5, &[0; 4]);
            w.number(6, 0);
        }),
        Expr::Cmp { src, equal, value: against } => named(w, "cmp", |w| {
            reg(w, 1, *src);
            w.number(2, u32::from(!*equal));
            value(w, 3, against.as_bytes());
        }),
        Expr::Immediate { dst, value: v } => named(w, "immediate", |w| {
            reg(w, 1, *dst);
            value(w, 2, v.as_bytes());
        }),
        Expr::Verdict(v) => named(w, "immediate", |w| {
            w.number(1, 0);
            w.nest(2, |w| verdict(w, v));
        }),
        Expr::Lookup { set, src, target } => named(w, "lookup", |w| {
            w.text(1, set);
            reg(w, 2, *src);
            match target {
                Target::Match => {}
                Target::Absent => w.number(5, 1),
                Target::Verdict => w.number(3, 0),
                Target::Reg(dst) => reg(w, 3, *dst),
            }
        }),
        other => action(w, family, other),
    }
}

pub(crate) const FIB_TYPE: u32 = 3;
pub(crate) const FIB_SADDR: u32 = 1;
pub(crate) const FIB_DADDR: u32 = 2;

fn fib_type(w: &mut Writer, dst: Reg, whose: u32) {
    reg(w, 1, dst);
    w.number(2, FIB_TYPE);
    w.number(3, whose);
}

fn ct(w: &mut Writer, family: Family, key: CtKey, dst: Reg) {
    reg(w, 1, dst);
    let number = match key {
        CtKey::Status => 2,
        CtKey::OriginalDaddr if family == Family::Ip => 20,
        CtKey::OriginalDaddr => 22,
        CtKey::OriginalDport => 12,
    };
    w.number(2, number);
    if key != CtKey::Status {
        w.raw(3, &[0]);
    }
}

fn action(w: &mut Writer, family: Family, e: &Expr) {
    match e {
        Expr::Random { modulus, dst } => named(w, "numgen", |w| {
            reg(w, 1, *dst);
            w.number(2, *modulus);
            w.number(3, 1);
            w.number(4, 0);
        }),
        Expr::Dynset { set, op, key, data, timeout_ms } => named(w, "dynset", |w| {
            w.text(1, set);
            let op = match op {
                Update::Add => 0,
                Update::Update => 1,
                Update::Delete => 2,
            };
            w.number(3, op);
            reg(w, 4, *key);
            reg(w, 5, *data);
            if *timeout_ms > 0 {
                w.number64(6, *timeout_ms);
            }
        }),
        Expr::Dnat { addr, port } => named(w, "nat", |w| {
            w.number(1, 1);
            w.number(2, u32::from(family.number()));
            reg(w, 3, *addr);
            reg(w, 4, *addr);
            reg(w, 5, *port);
            reg(w, 6, *port);
        }),
        Expr::Masquerade => named(w, "masq", |w| w.number(1, 0x10)),
        Expr::Reject(Rejection::TcpReset) => named(w, "reject", |w| {
            w.number(1, 1);
            w.raw(2, &[0]);
        }),
        Expr::Reject(Rejection::PortUnreachable) => named(w, "reject", |w| {
            w.number(1, 0);
            w.raw(2, &[if family == Family::Ip { 3 } else { 4 }]);
        }),
        Expr::NoTrack => named(w, "notrack", |_| {}),
        Expr::Counter => named(w, "counter", |_| {}),
        // Foreign is only ever read; the kernel refuses it by name if somebody writes it.
        Expr::Foreign(name) => named(w, name, |_| {}),
        _ => {}
    }
}
