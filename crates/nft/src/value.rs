//! The vocabulary: tables, chains, rules, sets and their elements.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use crate::{expr::Expr, packed::Packed};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ip,
    Ip6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::Ip } else { Family::Ip6 }
    }

    pub fn addr_len(self) -> usize {
        match self {
            Family::Ip => 4,
            Family::Ip6 => 16,
        }
    }

    /// NFPROTO_*
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableRef {
    pub family: Family,
    pub name: Arc<str>,
}

impl TableRef {
    pub fn new(family: Family, name: &str) -> Self {
        TableRef { family, name: name.into() }
    }
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Table {
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Chain {
    /// None: reached only by jump and goto.
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

/// The priority of chains that see packets before connection tracking does (nftables(8): raw).
pub const BEFORE_TRACKING: i32 = -300;

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    pub point: HookPoint,
    pub priority: i32,
}

impl Hook {
    /// Before connection tracking nothing can be translated; all other chains of ours are there to translate.
    pub(crate) fn kind(&self) -> &'static str {
        if self.priority <= BEFORE_TRACKING { "filter" } else { "nat" }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    Prerouting,
    Output,
    Postrouting,
}

impl HookPoint {
    pub(crate) const ALL: [(HookPoint, u32, &'static str); 3] = [
        (HookPoint::Prerouting, 0, "prerouting"),
        (HookPoint::Output, 3, "output"),
        (HookPoint::Postrouting, 4, "postrouting"),
    ];
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub exprs: Vec<Expr>,
    pub comment: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(Arc<str>),
    Goto(Arc<str>),
}

/// What one word (or address) of a key or of data means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Addr,
    Proto,
    Port,
    /// A slot that `numgen` chose; prints as a decimal number.
    Number,
    /// A number whose digits are flags; prints in hexadecimal.
    Mark,
}

impl Field {
    pub fn len(self, family: Family) -> usize {
        match self {
            Field::Addr => family.addr_len(),
            _ => 4,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DataKind {
    /// A set, not a map.
    #[default]
    None,
    Fields(Vec<Field>),
    Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Layout {
    #[default]
    Exact,
    /// One field, elements are ranges.
    Interval,
    /// Several fields, each of which may be a range.
    Ranges,
    /// Filled by packets; its elements are not part of the value.
    Dynamic { timeout_ms: u64, size: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SetSpec {
    pub key: Vec<Field>,
    pub data: DataKind,
    pub layout: Layout,
}

impl SetSpec {
    pub fn key_len(&self, family: Family) -> usize {
        self.key.iter().map(|f| f.len(family)).sum()
    }

    pub fn is_dynamic(&self) -> bool {
        matches!(self.layout, Layout::Dynamic { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Set {
    pub spec: SetSpec,
    pub elements: BTreeMap<Packed, Value>,
}

/// What a set holds under a key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Value {
    /// The last key of a range, inclusive.
    /// Boxed, since most elements have none and there are many.
    pub end: Option<Box<Packed>>,
    pub data: Data,
    pub comment: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Data {
    #[default]
    None,
    Packed(Packed),
    Verdict(Verdict),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Packed,
    pub value: Value,
}

impl Element {
    pub fn new(key: Packed, data: Data, comment: Option<Arc<str>>) -> Self {
        Element { key, value: Value { end: None, data, comment } }
    }

    pub fn range(start: Packed, end: Packed, comment: Option<Arc<str>>) -> Self {
        Element { key: start, value: Value { end: Some(Box::new(end)), data: Data::None, comment } }
    }
}
