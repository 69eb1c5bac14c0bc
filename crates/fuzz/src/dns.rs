//! Questions and answers from the network.

use std::sync::LazyLock;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde_json::json;
use skiff_dns::{
    quick,
    wire::{self, EDNS_UDP, Name, Query, Rcode, Response},
    zone::{Answer, Zone},
};
use skiff_services::{
    model::{Service, ServiceKey, Slice},
    snapshot::Snapshot,
};

/// As a question, and as another server's answer: whatever is understood can be said again.
pub(crate) fn message(bytes: &[u8]) {
    if let Ok(query) = Query::parse(bytes) {
        let answer = wire::encode(&query, &Response::empty(Rcode::NxDomain), query.udp_limit());
        assert!(answer.len() <= query.udp_limit());
    }
    if let Some(foreign) = wire::parse_foreign(bytes) {
        let Ok(query) = Query::parse(&wire::encode_query(foreign.id, &foreign.name, foreign.rtype)) else { return };
        let again = wire::encode(&query, &foreign.response, u16::MAX.into());
        assert!(wire::parse_foreign(&again).is_some());
    }
    let _ = Name::read(bytes, 0);
    if let Some(name) = std::str::from_utf8(bytes).ok().and_then(Name::parse) {
        assert_eq!(Name::parse(&name.to_string()), Some(name));
    }
}

/// Put to a zone: the short cut says what the long way says. Not always in the same room: where a question holds part of
/// another name of the answer, only the long way points to it.
pub(crate) fn question(bytes: &[u8]) {
    let mut out = [0; EDNS_UDP as usize];
    let short = quick::answer(&ZONE, bytes, &mut out);
    let Ok(query) = Query::parse(bytes) else {
        assert!(short.is_none(), "the short cut answers what is no question");
        return;
    };
    let Answer::Here(response) = ZONE.answer(&query.name, query.rtype) else {
        assert!(short.is_none(), "the short cut answers for others");
        return;
    };
    let long = wire::encode(&query, &response, query.udp_limit());
    assert!(long.len() <= query.udp_limit());
    let Some((length, rcode)) = short else { return };
    assert!(length <= query.udp_limit() && rcode as u8 == long[3] & 0xf);
    assert_eq!(out[..HEADER], long[..HEADER]);
    assert_eq!(meaning(&out[..length]), meaning(&long));
}

/// Several addresses come in turn.
fn meaning(message: &[u8]) -> Option<wire::Foreign> {
    let mut read = wire::parse_foreign(message)?;
    read.response.answers.sort_by_key(|record| format!("{record:?}"));
    Some(read)
}

/// Octets before the question.
const HEADER: usize = 12;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let domain = Name::parse("cluster.local").expect("a name");
    let mut zone = Zone::new(domain, vec!["10.96.0.10".parse().expect("an address")]);
    zone.add_namespace("default");
    zone.update(fill);
    zone
});

fn fill(snapshot: &mut Snapshot) -> Vec<ServiceKey> {
    let port = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let service = |name: &str, spec: serde_json::Value| -> core::Service {
        let whole = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        serde_json::from_value(whole).expect("a Service")
    };
    let services = [
        service("web", json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ports": port})),
        service("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": port})),
        service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
    ];
    let slice = json!({
        "metadata": {"name": "db-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.1"], "hostname": "db-0"}, {"addresses": ["10.244.0.2"]}],
    });
    let slice: discovery::EndpointSlice = serde_json::from_value(slice).expect("a slice");
    let mut dirty = vec![];
    dirty.extend(services.iter().filter_map(Service::from_api).flat_map(|s| snapshot.apply_service(s)));
    dirty.extend(Slice::from_api(&slice).into_iter().flat_map(|s| snapshot.apply_slice(s)));
    dirty
}

#[cfg(test)]
mod tests {
    use skiff_dns::wire::rtype;

    use super::*;

    /// Else the comparison would compare nothing.
    #[test]
    fn the_zone_answers_by_the_short_cut() {
        let mut out = [0; EDNS_UDP as usize];
        for name in
            ["web.default.svc.cluster.local", "db.default.svc.cluster.local", "nobody.default.svc.cluster.local"]
        {
            let message = wire::encode_query(1, &Name::parse(name).expect("a name"), rtype::A);
            assert!(quick::answer(&ZONE, &message, &mut out).is_some(), "{name}");
        }
    }
}
