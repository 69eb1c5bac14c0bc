//! Questions as clients send them.

use super::{DNSSEC_OK, EDNS_UDP, HEADER, Name, PLAIN_UDP, Rcode, rtype, u16_at};

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
