//! DNS messages as bytes (RFC 1035, EDNS: RFC 6891): just what an answer needs. Input is hostile; every read is bounded.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

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
    pub const ANY: u16 = 255;
}

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
    fn from_bits(flags: u16) -> Self {
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    pub recursion_desired: bool,
    pub name: Name,
    pub rtype: u16,
    pub class: u16,
    /// The question section's bytes as sent: an answer repeats them letter by letter (case included).
    pub question: Vec<u8>,
    pub edns: Option<Edns>,
}

/// What a client says of itself by EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The UDP size that it takes.
    pub size: u16,
    pub version: u8,
    /// Whether it would like DNSSEC records; repeated in the answer (RFC 3225), which has none.
    pub dnssec: bool,
}

/// Why a message gets no ordinary answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Not even a header, or an answer: silence, lest two servers talk to each other for ever.
    Silently,
    /// Answer with this code.
    With(u16, Rcode),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl Query {
    pub fn parse(message: &[u8]) -> Result<Query, Reject> {
        if message.len() < HEADER {
            return Err(Reject::Silently);
        }
        let word = |at| u16_at(message, at).expect("the header's length was checked");
        let (id, flags) = (word(0), word(2));
        if flags & 0x8000 != 0 {
            return Err(Reject::Silently);
        }
        if flags & 0x7800 != 0 {
            return Err(Reject::With(id, Rcode::NotImp));
        }
        let parsed = Query::sections(message, id, flags);
        parsed.filter(|_| word(4) == 1 && word(6) == 0).ok_or(Reject::With(id, Rcode::FormErr))
    }

    fn sections(message: &[u8], id: u16, flags: u16) -> Option<Query> {
        let (name, at) = Name::read(message, HEADER)?;
        let (rtype, class) = (u16_at(message, at)?, u16_at(message, at + 2)?);
        let question = message[HEADER..at + 4].to_vec();
        let records = u16_at(message, 8)? as usize + u16_at(message, 10)? as usize;
        let edns = edns(message, at + 4, records)?;
        Some(Query { id, recursion_desired: flags & 0x0100 != 0, name, rtype, class, question, edns })
    }

    /// How long a UDP answer may be.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP, |e| e.size.clamp(PLAIN_UDP, EDNS_UDP)) as usize
    }
}

/// The OPT record among so many records at `at`; the outer None when they are malformed or there are two (RFC 6891).
fn edns(message: &[u8], mut at: usize, records: usize) -> Option<Option<Edns>> {
    let mut found = None;
    for _ in 0..records {
        let (name, after) = Name::read(message, at)?;
        let (rtype, size) = (u16_at(message, after)?, u16_at(message, after + 2)?);
        let (version, flags) = (*message.get(after + 5)?, u16_at(message, after + 6)?);
        let length = u16_at(message, after + 8)? as usize;
        at = after + 10 + length;
        if at > message.len() {
            return None;
        }
        let opt = Edns { size, version, dnssec: flags & DNSSEC_OK != 0 };
        if rtype == rtype::OPT && (name != Name::root() || found.replace(opt).is_some()) {
            return None;
        }
    }
    Some(found)
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

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Data::Other { bytes, .. } => out.extend(bytes),
            Data::A(ip) => out.extend(ip.octets()),
            Data::Aaaa(ip) => out.extend(ip.octets()),
            Data::Cname(n) | Data::Ns(n) | Data::Ptr(n) => out.extend(n.wire()),
            Data::Srv { priority, weight, port, target } => {
                out.extend([*priority, *weight, *port].iter().flat_map(|w| w.to_be_bytes()));
                out.extend(target.wire());
            }
            Data::Txt(text) => {
                for part in text.as_bytes().chunks(255) {
                    out.push(part.len() as u8);
                    out.extend(part);
                }
            }
            Data::Soa { mname, rname, serial, refresh, retry, expire, minimum } => {
                out.extend(mname.wire());
                out.extend(rname.wire());
                out.extend([*serial, *refresh, *retry, *expire, *minimum].iter().flat_map(|w| w.to_be_bytes()));
            }
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

const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_AVAILABLE: u16 = 0x0080;

/// The answer's bytes, at most `limit` of them: what does not fit is cut off. Additional records go without a word,
/// others set the TC bit, so that the client asks again over TCP (RFC 2181, 9).
pub fn encode(query: &Query, response: &Response, limit: usize) -> Vec<u8> {
    encode_with(query, response, limit, 0)
}

/// The answer to a version of EDNS that is not ours (RFC 6891, 6.1.3).
pub fn encode_bad_version(query: &Query) -> Vec<u8> {
    const BADVERS_HIGH: u8 = 1;
    encode_with(query, &Response::empty(Rcode::NoError), PLAIN_UDP.into(), BADVERS_HIGH)
}

/// `extended`: the upper bits of the code, which only EDNS has room for.
fn encode_with(query: &Query, response: &Response, limit: usize, extended: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut flags = RESPONSE | RECURSION_AVAILABLE | response.rcode as u16;
    flags |= if query.recursion_desired { 0x0100 } else { 0 };
    flags |= if response.authoritative { AUTHORITATIVE } else { 0 };
    out.extend(query.id.to_be_bytes());
    out.extend([0; HEADER - 2]);
    out.extend(&query.question);
    let room = limit.saturating_sub(query.edns.map_or(0, |_| OPT_LENGTH));
    let (answers, fit_answers) = section(&mut out, &response.answers, query, room);
    let (authority, fit_authority) = section(&mut out, &response.authority, query, room);
    let (mut additional, _) = section(&mut out, &response.additional, query, room);
    flags |= if fit_answers && fit_authority { 0 } else { TRUNCATED };
    if let Some(edns) = query.edns {
        write_opt(&mut out, extended, edns.dnssec);
        additional += 1;
    }
    for (at, word) in [(2, flags), (4, 1), (6, answers), (8, authority), (10, additional)] {
        out[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }
    out
}

const DNSSEC_OK: u16 = 0x8000;
/// An empty OPT record's length.
const OPT_LENGTH: usize = 11;

fn write_opt(out: &mut Vec<u8>, extended: u8, dnssec: bool) {
    out.push(0);
    out.extend(rtype::OPT.to_be_bytes());
    out.extend(EDNS_UDP.to_be_bytes());
    out.extend([extended, 0]);
    out.extend(if dnssec { DNSSEC_OK } else { 0 }.to_be_bytes());
    out.extend([0, 0]);
}

/// Appends whole records while they fit; how many did, and whether that was all.
fn section(out: &mut Vec<u8>, records: &[Record], query: &Query, limit: usize) -> (u16, bool) {
    for (count, record) in records.iter().enumerate() {
        let before = out.len();
        if record.name == query.name {
            // The question's name stands right behind the header.
            out.extend([0xc0, HEADER as u8]);
        } else {
            out.extend(record.name.wire());
        }
        out.extend(record.data.rtype().to_be_bytes());
        out.extend(CLASS_IN.to_be_bytes());
        out.extend(record.ttl.to_be_bytes());
        let length_at = out.len();
        out.extend([0, 0]);
        record.data.write(out);
        let length = (out.len() - length_at - 2) as u16;
        out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        if out.len() > limit || count == u16::MAX as usize {
            out.truncate(before);
            return (count as u16, false);
        }
    }
    (records.len() as u16, true)
}

/// The answer to a message that could not be read: a bare header.
pub fn encode_reject(id: u16, rcode: Rcode) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend((RESPONSE | RECURSION_AVAILABLE | rcode as u16).to_be_bytes());
    out.extend([0; HEADER - 4]);
    out
}

/// A query for upstream: one question, recursion wished, EDNS offered.
pub fn encode_query(id: u16, name: &Name, rtype: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1]);
    out.extend(name.wire());
    out.extend(rtype.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    write_opt(&mut out, 0, false);
    out
}

/// A foreign answer, read as far as it must be to check it and to keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub id: u16,
    pub truncated: bool,
    pub name: Name,
    pub rtype: u16,
    pub response: Response,
}

/// None when malformed: then it is not an answer to anything.
pub fn parse_foreign(message: &[u8]) -> Option<Foreign> {
    let flags = u16_at(message, 2)?;
    if flags & RESPONSE == 0 || u16_at(message, 4)? != 1 {
        return None;
    }
    let (name, at) = Name::read(message, HEADER)?;
    if u16_at(message, at + 2)? != CLASS_IN {
        return None;
    }
    let mut at_records = at + 4;
    let answers = records(message, &mut at_records, u16_at(message, 6)?)?;
    let authority = records(message, &mut at_records, u16_at(message, 8)?)?;
    let rcode = Rcode::from_bits(flags);
    Some(Foreign {
        id: u16_at(message, 0)?,
        truncated: flags & TRUNCATED != 0,
        name,
        rtype: u16_at(message, at)?,
        response: Response { rcode, authoritative: false, answers, authority, additional: vec![] },
    })
}

fn records(message: &[u8], at: &mut usize, count: u16) -> Option<Vec<Record>> {
    let mut records = vec![];
    for _ in 0..count {
        let (name, after) = Name::read(message, *at)?;
        let (rtype, class) = (u16_at(message, after)?, u16_at(message, after + 2)?);
        let ttl = u32::from_be_bytes(message.get(after + 4..after + 8)?.try_into().ok()?);
        let start = after + 10;
        let end = start + u16_at(message, after + 8)? as usize;
        message.get(start..end)?;
        let bytes = written_out(message, rtype, start, end)?;
        if class == CLASS_IN {
            records.push(Record { name, ttl, data: Data::Other { rtype, bytes } });
        }
        *at = end;
    }
    Some(records)
}

/// Record data without compression pointers, in the types that may have them (RFC 3597, 4). None when it is not what its
/// type says.
fn written_out(message: &[u8], rtype: u16, start: usize, end: usize) -> Option<Vec<u8>> {
    const MX: u16 = 15;
    // Bytes before the names, names, bytes behind them.
    let (front, names, back) = match rtype {
        rtype::A => (4, 0, 0),
        rtype::AAAA => (16, 0, 0),
        rtype::NS | rtype::CNAME | rtype::PTR => (0, 1, 0),
        rtype::SOA => (0, 2, 20),
        MX => (2, 1, 0),
        rtype::SRV => (6, 1, 0),
        _ => return Some(message.get(start..end)?.to_vec()),
    };
    let mut data = message.get(start..start + front)?.to_vec();
    let mut at = start + front;
    for _ in 0..names {
        let (name, after) = Name::read(message, at)?;
        data.extend(name.wire());
        at = after;
    }
    data.extend(message.get(at..at + back)?);
    (at + back == end).then_some(data)
}
