//! What other servers answer.

use super::*;

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
