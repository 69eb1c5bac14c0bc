//! Answers and questions of ours, as bytes.

use std::collections::HashMap;

use super::*;

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
    let room = limit.saturating_sub(query.edns.map_or(0, |_| OPT_LENGTH));
    let mut writer = Writer::new(query, room);
    let mut counts = [0; 3];
    let sections = [&response.answers, &response.authority, &response.additional];
    for (section, count) in sections.into_iter().zip(&mut counts) {
        *count = writer.section(section);
    }
    let [answers, authority, mut additional] = counts;
    let fit = (usize::from(answers), usize::from(authority)) == (response.answers.len(), response.authority.len());
    let mut out = writer.out;
    if let Some(edns) = query.edns {
        write_opt(&mut out, extended, edns.dnssec);
        additional += 1;
    }
    let mut flags = RESPONSE | RECURSION_AVAILABLE | response.rcode as u16;
    flags |= if query.recursion_desired { RECURSION_DESIRED } else { 0 };
    flags |= if response.authoritative { AUTHORITATIVE } else { 0 };
    flags |= if fit { 0 } else { TRUNCATED };
    for (at, word) in [(2, flags), (4, 1), (6, answers), (8, authority), (10, additional)] {
        out[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }
    out
}

/// Where a compression pointer can still lead.
const REACH: usize = 0x4000;

/// Writes records behind a question. A name, or the end of a name, that stands in the message already is pointed to
/// (RFC 1035, 4.1.4).
struct Writer<'a> {
    out: Vec<u8>,
    limit: usize,
    /// Once a record did not fit, nothing more is written: pointers to its names would lead nowhere.
    full: bool,
    names: HashMap<&'a [u8], u16>,
}

impl<'a> Writer<'a> {
    fn new(query: &'a Query, limit: usize) -> Self {
        let mut out = Vec::with_capacity(512);
        out.extend(query.id.to_be_bytes());
        out.extend([0; HEADER - 2]);
        let mut writer = Writer { out, limit, full: false, names: HashMap::new() };
        writer.name(&query.name, false);
        // As it was sent, in its own mixture of cases.
        writer.out.truncate(HEADER);
        writer.out.extend(&query.question);
        writer
    }

    /// Appends whole records while they fit; how many did.
    fn section(&mut self, records: &'a [Record]) -> u16 {
        let mut count = 0;
        for record in records {
            let before = self.out.len();
            if self.full || count == u16::MAX {
                break;
            }
            self.record(record);
            if self.out.len() > self.limit {
                self.out.truncate(before);
                self.full = true;
                break;
            }
            count += 1;
        }
        count
    }

    fn record(&mut self, record: &'a Record) {
        self.name(&record.name, true);
        self.out.extend(record.data.rtype().to_be_bytes());
        self.out.extend(CLASS_IN.to_be_bytes());
        self.out.extend(record.ttl.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend([0, 0]);
        self.data(&record.data);
        let length = (self.out.len() - length_at - 2) as u16;
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn data(&mut self, data: &'a Data) {
        match data {
            Data::Other { bytes, .. } => self.out.extend(bytes),
            Data::A(ip) => self.out.extend(ip.octets()),
            Data::Aaaa(ip) => self.out.extend(ip.octets()),
            Data::Cname(n) | Data::Ns(n) | Data::Ptr(n) => self.name(n, true),
            Data::Srv { priority, weight, port, target } => {
                self.out.extend([*priority, *weight, *port].iter().flat_map(|w| w.to_be_bytes()));
                // Not to be compressed (RFC 2782), but others may point to it.
                self.name(target, false);
            }
            Data::Txt(text) => {
                for part in text.as_bytes().chunks(255) {
                    self.out.push(part.len() as u8);
                    self.out.extend(part);
                }
            }
            Data::Soa { mname, rname, serial, refresh, retry, expire, minimum } => {
                self.name(mname, true);
                self.name(rname, true);
                self.out.extend([*serial, *refresh, *retry, *expire, *minimum].iter().flat_map(|w| w.to_be_bytes()));
            }
        }
    }

    fn name(&mut self, name: &'a Name, compress: bool) {
        let mut rest = name.wire();
        while let [length, ..] = rest
            && *length > 0
        {
            match self.names.get(rest) {
                Some(at) if compress => return self.out.extend((0xc000 | at).to_be_bytes()),
                Some(_) => {}
                None if self.out.len() < REACH => {
                    self.names.insert(rest, self.out.len() as u16);
                }
                None => {}
            }
            let (label, tail) = rest.split_at(usize::from(*length) + 1);
            self.out.extend(label);
            rest = tail;
        }
        self.out.push(0);
    }
}

fn write_opt(out: &mut Vec<u8>, extended: u8, dnssec: bool) {
    out.extend(opt(extended, dnssec));
}

/// An OPT record that says how much we take over UDP.
pub(crate) fn opt(extended: u8, dnssec: bool) -> [u8; OPT_LENGTH] {
    let [size_high, size_low] = EDNS_UDP.to_be_bytes();
    let flags = if dnssec { (DNSSEC_OK >> 8) as u8 } else { 0 };
    [0, 0, rtype::OPT as u8, size_high, size_low, extended, 0, flags, 0, 0, 0]
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
