//! The short cut: what nearly everybody asks (addresses of Services, and names that do not exist) is answered from the
//! question's bytes to the answer's, without allocation. Whatever is unusual about a question is left to the long way,
//! and where both answer, they answer the same bytes.

use crate::{
    wire::{
        AUTHORITATIVE, CLASS_IN, DNSSEC_OK, EDNS_UDP, HEADER, MAX_NAME, OPT_LENGTH, PLAIN_UDP, RECURSION_AVAILABLE,
        RECURSION_DESIRED, RESPONSE, Rcode, opt, rtype, u16_at,
    },
    zone::{A_LENGTH, AAAA_LENGTH, Page, Zone},
};

/// A name has at most this many labels.
const MAX_LABELS: usize = MAX_NAME / 2;

/// A question of the usual form.
struct Asked<'a> {
    message: &'a [u8],
    /// In lower case, with the final zero.
    name: [u8; MAX_NAME],
    name_length: usize,
    /// Where each label starts in `name`.
    labels: [u8; MAX_LABELS],
    count: usize,
    rtype: u16,
    /// Whether there is EDNS, and its wish for DNSSEC.
    edns: Option<bool>,
    limit: usize,
}

impl<'a> Asked<'a> {
    /// None unless it has one plain question of class IN and at most one OPT record, to the last byte.
    fn read(message: &'a [u8]) -> Option<Self> {
        const NOT_PLAIN: u16 = !RECURSION_DESIRED & 0xf800;
        let counts = message.get(4..HEADER)?;
        if u16_at(message, 2)? & NOT_PLAIN != 0 || counts[..7] != [0, 1, 0, 0, 0, 0, 0] || counts[7] > 1 {
            return None;
        }
        let mut asked = Asked {
            message,
            name: [0; MAX_NAME],
            name_length: 0,
            labels: [0; MAX_LABELS],
            count: 0,
            rtype: 0,
            edns: None,
            limit: PLAIN_UDP.into(),
        };
        asked.read_name()?;
        let end = asked.question_end();
        asked.rtype = u16_at(message, end - 4)?;
        if u16_at(message, end - 2)? != CLASS_IN {
            return None;
        }
        match counts[7] {
            0 => (message.len() == end).then_some(asked),
            _ => asked.read_opt(message.get(end..)?),
        }
    }

    fn read_name(&mut self) -> Option<()> {
        let mut at = HEADER;
        loop {
            let length = usize::from(*self.message.get(at)?);
            if length == 0 {
                self.name_length = at + 1 - HEADER;
                return Some(());
            }
            let start = at - HEADER;
            // The final zero must still have room.
            if length > 63 || start + 1 + length >= MAX_NAME {
                return None;
            }
            let label = self.message.get(at..at + 1 + length)?;
            self.name[start..start + 1 + length].copy_from_slice(label);
            self.name[start + 1..start + 1 + length].make_ascii_lowercase();
            *self.labels.get_mut(self.count)? = start as u8;
            self.count += 1;
            at += 1 + length;
        }
    }

    fn read_opt(mut self, opt: &[u8]) -> Option<Self> {
        let version = *opt.get(6)?;
        let length = OPT_LENGTH + usize::from(u16_at(opt, 9)?);
        if opt[0] != 0 || u16_at(opt, 1)? != rtype::OPT || version != 0 || opt.len() != length {
            return None;
        }
        self.limit = u16_at(opt, 3)?.clamp(PLAIN_UDP, EDNS_UDP).into();
        self.edns = Some(u16_at(opt, 7)? & DNSSEC_OK != 0);
        Some(self)
    }

    fn question_end(&self) -> usize {
        HEADER + self.name_length + 4
    }

    fn id(&self) -> u16 {
        u16::from_be_bytes([self.message[0], self.message[1]])
    }

    /// How many labels stand before `domain`.
    fn labels_before(&self, domain: &[u8]) -> Option<usize> {
        let cut = self.name_length.checked_sub(domain.len())?;
        if self.name[cut..self.name_length] != *domain {
            return None;
        }
        match self.labels[..self.count].iter().position(|start| usize::from(*start) == cut) {
            Some(before) => Some(before),
            None => (domain.len() == 1).then_some(self.count),
        }
    }

    /// Labels `from` to `to`, as they stand in the name.
    fn between(&self, from: usize, to: usize) -> &[u8] {
        let end = if to < self.count { usize::from(self.labels[to]) } else { self.name_length - 1 };
        &self.name[usize::from(self.labels[from])..end]
    }
}

enum Verdict<'z> {
    Records {
        records: &'z [u8],
        each: usize,
    },
    /// There is no such record (the name exists), or no such name.
    No(Rcode),
}

/// How many labels are before the zone's, and what is said.
fn decide<'z>(zone: &'z Zone, asked: &Asked<'_>) -> Option<(usize, Verdict<'z>)> {
    let before = asked.labels_before(zone.domain().wire())?;
    let no_name = Some((before, Verdict::No(Rcode::NxDomain)));
    match asked.between(before.checked_sub(1)?, before) {
        b"\x03svc" if before >= 3 => {}
        b"\x03svc" | b"\x03pod" | b"\x03dns" | b"\x0bdns-version" => return None,
        _ => return no_name,
    }
    match (zone.page(asked.between(before - 3, before - 1)), before - 3) {
        (None, _) | (Some(_), 3..) | (Some(Page::Nobody), _) => no_name,
        (Some(Page::Addresses { a, aaaa }), 0) => {
            let (records, each) = match asked.rtype {
                rtype::A => (a, A_LENGTH),
                rtype::AAAA => (aaaa, AAAA_LENGTH),
                _ => return None,
            };
            let verdict = match records.is_empty() {
                true => Verdict::No(Rcode::NoError),
                false => Verdict::Records { records, each },
            };
            Some((before, verdict))
        }
        _ => None,
    }
}

/// The answer's length in `out`, with its code; None when the long way must be taken.
pub fn answer(zone: &Zone, message: &[u8], out: &mut [u8]) -> Option<(usize, Rcode)> {
    let asked = Asked::read(message)?;
    let (before, verdict) = decide(zone, &asked)?;
    let mut to = Out { bytes: out.get_mut(..asked.limit)?, at: 0 };
    let rcode = if let Verdict::No(rcode) = verdict { rcode } else { Rcode::NoError };
    let desired = u16_at(message, 2)? & RECURSION_DESIRED;
    to.put(&message[..2])?;
    to.put(&(RESPONSE | AUTHORITATIVE | RECURSION_AVAILABLE | desired | rcode as u16).to_be_bytes())?;
    let (answers, authority) = match verdict {
        Verdict::Records { records, each } => ((records.len() / each) as u16, 0u8),
        Verdict::No(_) => (0, 1),
    };
    let [high, low] = answers.to_be_bytes();
    to.put(&[0, 1, high, low, 0, authority, 0, u8::from(asked.edns.is_some())])?;
    to.put(&message[HEADER..asked.question_end()])?;
    match verdict {
        Verdict::Records { records, each } => {
            let turn = usize::from(asked.id()) % usize::from(answers) * each;
            to.put(&records[turn..])?;
            to.put(&records[..turn])?;
        }
        Verdict::No(_) => put_soa(&mut to, zone, domain_at(&asked, before))?,
    }
    if let Some(dnssec) = asked.edns {
        to.put(&opt(0, dnssec))?;
    }
    Some((to.at, rcode))
}

/// Where the zone's name stands in the message.
fn domain_at(asked: &Asked<'_>, before: usize) -> u16 {
    let start = if before < asked.count { usize::from(asked.labels[before]) } else { asked.name_length - 1 };
    (HEADER + start) as u16
}

fn put_soa(to: &mut Out<'_>, zone: &Zone, domain_at: u16) -> Option<()> {
    let domain = (0xc000 | domain_at).to_be_bytes();
    to.put(&domain)?;
    to.put(&rtype::SOA.to_be_bytes())?;
    to.put(&CLASS_IN.to_be_bytes())?;
    to.put(&zone.ttl().to_be_bytes())?;
    let (mname, rname) = (b"\x02ns\x03dns", b"\x0ahostmaster");
    let length = (mname.len() + rname.len() + 2 * domain.len() + 20) as u16;
    to.put(&length.to_be_bytes())?;
    for part in [mname.as_slice(), &domain, rname, &domain] {
        to.put(part)?;
    }
    zone.soa_numbers().iter().try_for_each(|n| to.put(&n.to_be_bytes()))
}

/// What was written so far; None when it does not fit.
struct Out<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }
}
