//! Any bytes as a question and as a foreign answer: no panic, and whatever is understood can be said again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_dns::wire::{self, Query, Rcode, Response};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(query) = Query::parse(bytes) {
        let answer = wire::encode(&query, &Response::empty(Rcode::NxDomain), query.udp_limit());
        assert!(answer.len() <= query.udp_limit());
    }
    if let Some(foreign) = wire::parse_foreign(bytes) {
        let Ok(query) = Query::parse(&wire::encode_query(foreign.id, &foreign.name, foreign.rtype)) else { return };
        let again = wire::encode(&query, &foreign.response, u16::MAX.into());
        assert!(wire::parse_foreign(&again).is_some());
    }
});
