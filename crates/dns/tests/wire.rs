//! Messages: whatever comes in, nothing breaks; whatever goes out, an independent parser reads the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, Query as Question};
use hickory_proto::rr::{Name as TheirName, RecordType};
use proptest::prelude::*;
use skiff_dns::wire::{
    Data, EDNS_UDP, HEADER, MAX_NAME, Name, Query, Rcode, Record, Reject, Response, encode, encode_bad_version,
    encode_query, encode_reject, parse_foreign, rtype,
};

fn label() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-z0-9_-]{1,20}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..63).prop_map(|mut l| { l.make_ascii_lowercase(); l }),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    let labels = prop::collection::vec(label(), 0..6);
    labels.prop_filter_map("a name is at most 255 bytes", |l| Name::from_labels(l.iter().map(Vec::as_slice)))
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Data::A(Ipv4Addr::from(ip))),
        any::<[u8; 16]>().prop_map(|ip| Data::Aaaa(Ipv6Addr::from(ip))),
        name().prop_map(Data::Cname),
        name().prop_map(Data::Ns),
        name().prop_map(Data::Ptr),
        "[ -~]{1,600}".prop_map(Data::Txt),
        (any::<[u16; 3]>(), name()).prop_map(|([priority, weight, port], target)| Data::Srv {
            priority,
            weight,
            port,
            target
        }),
        (name(), name(), any::<[u32; 5]>()).prop_map(|(mname, rname, [serial, refresh, retry, expire, minimum])| {
            Data::Soa { mname, rname, serial, refresh, retry, expire, minimum }
        }),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (name(), any::<u32>(), data()).prop_map(|(name, ttl, data)| Record { name, ttl, data });
    prop::collection::vec(record, 0..20)
}

fn response() -> impl Strategy<Value = Response> {
    (records(), records(), records(), any::<bool>()).prop_map(|(answers, authority, additional, authoritative)| {
        Response { rcode: Rcode::NoError, authoritative, answers, authority, additional }
    })
}

/// A question as another program writes it.
fn theirs(name: &Name, edns: Option<u16>) -> Vec<u8> {
    let labels = name.labels();
    let mut message = Message::new();
    message.set_id(7).set_recursion_desired(true);
    message.add_query(Question::query(TheirName::from_labels(labels).unwrap(), RecordType::A));
    if let Some(size) = edns {
        message.extensions_mut().get_or_insert_default().set_max_payload(size);
    }
    message.to_vec().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..Default::default() })]

    #[test]
    fn names_are_printed_and_read_back(name in name()) {
        prop_assert_eq!(Name::parse(&name.to_string()), Some(name.clone()));
        prop_assert_eq!(Name::read(name.wire(), 0), Some((name.clone(), name.wire().len())));
    }

    #[test]
    fn any_text_is_a_name_or_none(text in any::<String>()) {
        if let Some(name) = Name::parse(&text) {
            prop_assert!(name.wire().len() <= MAX_NAME);
            prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Query::parse(&bytes);
        let _ = parse_foreign(&bytes);
        // Mostly pointers, behind a header that promises much.
        let mut looping = vec![0, 1, 0x80, 0, 0, 1, 0, 9, 0, 9, 0, 9];
        looping.extend(bytes.iter().map(|b| if b % 3 == 0 { 0xc0 } else { b % 64 }));
        let _ = parse_foreign(&looping);
        looping[2] = 0;
        let _ = Query::parse(&looping);
    }

    #[test]
    fn a_question_that_was_bent_is_survived(name in name(), at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = theirs(&name, Some(1232));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(query) = Query::parse(&bytes) {
            let answer = encode(&query, &Response::empty(Rcode::NxDomain), query.udp_limit());
            prop_assert!(Message::from_vec(&answer).is_ok(), "{answer:02x?}");
        }
    }

    #[test]
    fn questions_are_read(name in name(), edns in prop::option::of(any::<u16>())) {
        let query = Query::parse(&theirs(&name, edns)).unwrap();
        prop_assert_eq!((&query.name, query.rtype, query.class, query.id), (&name, rtype::A, 1, 7));
        prop_assert!(query.recursion_desired);
        prop_assert_eq!(query.edns.is_some(), edns.is_some());
        prop_assert_eq!(query.udp_limit() as u16, edns.unwrap_or(512).clamp(512, EDNS_UDP));
        let ours = Query::parse(&encode_query(7, &name, rtype::A)).unwrap();
        prop_assert_eq!(ours.question, query.question);
    }

    #[test]
    fn answers_fit_and_are_read_back(name in name(), edns in prop::option::of(any::<u16>()), response in response(), limit in 512..70_000usize) {
        let query = Query::parse(&theirs(&name, edns)).unwrap();
        let limit = limit.min(u16::MAX.into());
        let bytes = encode(&query, &response, limit);
        prop_assert!(bytes.len() <= limit);
        let message = Message::from_vec(&bytes).unwrap();
        prop_assert_eq!(message.id(), 7);
        prop_assert_eq!(message.extensions().is_some(), edns.is_some());
        let (kept, meant) = (message.answers().len(), response.answers.len());
        let cut = kept < meant || message.name_servers().len() < response.authority.len();
        prop_assert_eq!(message.truncated(), cut);
        for (theirs, ours) in message.answers().iter().zip(&response.answers) {
            prop_assert_eq!(theirs.ttl(), ours.ttl);
            prop_assert_eq!(u16::from(theirs.record_type()), ours.data.rtype());
            prop_assert_eq!(theirs.name().iter().collect::<Vec<_>>(), ours.name.labels());
        }
        let again = parse_foreign(&bytes).unwrap();
        prop_assert_eq!(again.response.answers.len(), kept);
        prop_assert_eq!(again.name, query.name);
        prop_assert_eq!(again.truncated, cut);
    }

    #[test]
    fn foreign_answers_keep_their_meaning(name in name(), response in response()) {
        // Encoded, read as foreign, encoded and read again: the same, whatever was compressed before.
        let query = Query::parse(&theirs(&name, None)).unwrap();
        let response = Response { additional: vec![], ..response };
        let bytes = encode(&query, &response, u16::MAX.into());
        let foreign = parse_foreign(&bytes).unwrap();
        let again = encode(&query, &foreign.response, u16::MAX.into());
        prop_assert_eq!(parse_foreign(&again), Some(foreign));
    }
}

fn message(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|c| u8::from_str_radix(&c.iter().collect::<String>(), 16).unwrap()).collect()
}

#[test]
fn what_is_refused_and_how() {
    let formerr = Err(Reject::With(1, Rcode::FormErr));
    let head = "0001 0100 0001 0000 0000 0000";
    for (hex, expect) in [
        ("0001 0100 0001 0000 0000", Err(Reject::Silently)),
        ("0001 8100 0001 0000 0000 0000 00 0001 0001", Err(Reject::Silently)),
        ("0001 0900 0001 0000 0000 0000 00 0001 0001", Err(Reject::With(1, Rcode::NotImp))),
        ("0001 0100 0000 0000 0000 0000 00 0001 0001", formerr.clone()),
        ("0001 0100 0002 0000 0000 0000 00 0001 0001 00 0001 0001", formerr.clone()),
        ("0001 0100 0001 0001 0000 0000 00 0001 0001", formerr.clone()),
        (&format!("{head} 00 0001 00"), formerr.clone()),
        (&format!("{head} 03 6161"), formerr.clone()),
        (&format!("{head} 4161 00 0001 0001"), formerr.clone()),
        // Pointers: to itself, into the header, forward.
        (&format!("{head} c00c 0001 0001"), formerr.clone()),
        (&format!("{head} c000 0001 0001"), formerr.clone()),
        (&format!("{head} c0ff 0001 0001"), formerr.clone()),
        (&format!("{head} 0161 c00c 0001 0001"), formerr.clone()),
        // Two OPT records; an OPT record that is not at the root.
        (
            "0001 0100 0001 0000 0000 0002 00 0001 0001 00 0029 04d0 0000 0000 0000 00 0029 04d0 0000 0000 0000",
            formerr.clone(),
        ),
        ("0001 0100 0001 0000 0000 0001 00 0001 0001 0161 00 0029 04d0 0000 0000 0000", formerr),
    ] {
        assert_eq!(Query::parse(&message(hex)), expect, "{hex}");
    }
}

#[test]
fn a_long_name_is_the_longest() {
    let sixty_three = "a".repeat(63);
    let longest = format!("{0}.{0}.{0}.{1}", sixty_three, "a".repeat(61));
    assert_eq!(Name::parse(&longest).unwrap().wire().len(), MAX_NAME);
    assert_eq!(Name::read(Name::parse(&longest).unwrap().wire(), 0).unwrap().1, MAX_NAME);
    assert!(Name::parse(&format!("{longest}a")).is_none());
    assert!(Name::parse(&format!("{sixty_three}a")).is_none());
    for wrong in ["a..b", ".a", "..", "\\", "a\\25", "a\\256", "a\\2"] {
        assert!(Name::parse(wrong).is_none(), "{wrong}");
    }
    assert_eq!(Name::parse("A.B.").unwrap().to_string(), "a.b.");
    assert_eq!(Name::parse(r"a\.b\\\032.c").unwrap().to_string(), r"a\.b\\\032.c.");
    assert_eq!(Name::parse("").unwrap().to_string(), ".");
}

#[test]
fn chains_of_pointers_are_cut() {
    let mut bytes = vec![0; HEADER + 1];
    let mut last = HEADER;
    for _ in 0..1000 {
        let at = bytes.len();
        bytes.extend((0xc000 | last as u16).to_be_bytes());
        last = at;
    }
    assert!(Name::read(&bytes, HEADER + 1).is_some(), "one pointer is fine");
    assert!(Name::read(&bytes, last).is_none());
}

#[test]
fn another_edns_version_is_told_ours() {
    let mut bytes = theirs(&Name::parse("a.b").unwrap(), Some(1232));
    let version = bytes.len() - 5;
    bytes[version] = 1;
    let query = Query::parse(&bytes).unwrap();
    assert_eq!(query.edns.unwrap().version, 1);
    let answer = Message::from_vec(&encode_bad_version(&query)).unwrap();
    // BADVERS, which shares its number with BADSIG.
    assert_eq!(u16::from(answer.response_code()), 16);
}

#[test]
fn a_reject_is_a_header() {
    let message = Message::from_vec(&encode_reject(9, Rcode::FormErr)).unwrap();
    assert_eq!((message.id(), message.response_code()), (9, hickory_proto::op::ResponseCode::FormErr));
}
