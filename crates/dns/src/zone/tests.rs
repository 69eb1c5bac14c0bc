//! The zone as a table: question, answer.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_services::model::{Endpoint, Port, Protocol, Service, ServiceType, Slice, SlicePort, TrafficPolicy};

use super::*;
use crate::wire;

fn service(name: &str, ips: &[&str]) -> Service {
    Service {
        key: ServiceKey::new("default", name),
        kind: ServiceType::ClusterIp,
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        headless: ips.is_empty(),
        external_name: None,
        external_ips: vec![],
        load_balancer_ips: vec![],
        ports: vec![],
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        source_ranges: vec![],
        health_check_node_port: None,
        publish_not_ready: false,
        foreign_proxy: false,
        has_selector: true,
    }
}

/// "http/TCP:80"
fn parts(text: &str) -> (Arc<str>, Protocol, u16) {
    let (name, rest) = text.split_once('/').unwrap();
    let (protocol, port) = rest.split_once(':').unwrap();
    (name.into(), Protocol::parse(Some(protocol)).unwrap(), port.parse().unwrap())
}

fn with_ports(mut service: Service, ports: &[&str]) -> Service {
    let port = |(name, protocol, port)| Port { name, protocol, port, target: IntOrString::Int(1), node_port: None };
    service.ports = ports.iter().map(|p| port(parts(p))).collect();
    service
}

fn external(name: &str, target: &str) -> Service {
    Service {
        kind: ServiceType::ExternalName,
        headless: false,
        external_name: Some(target.into()),
        ..service(name, &[])
    }
}

/// An endpoint as "ADDRESS", "ADDRESS HOSTNAME"; with "!" in front it is not ready.
fn endpoint(text: &str) -> Endpoint {
    let (ready, text) = text.strip_prefix('!').map_or((true, text), |rest| (false, rest));
    let (ip, hostname) = text.split_once(' ').map_or((text, None), |(ip, host)| (ip, Some(host)));
    Endpoint {
        ip: ip.parse().unwrap(),
        ready,
        serving: ready,
        terminating: false,
        hostname: hostname.map(Into::into),
        node: None,
        zone: None,
        hint_zones: vec![],
        hint_nodes: vec![],
        pod: None,
    }
}

fn slice(name: &str, service: &str, ports: &[&str], endpoints: &[&str]) -> Slice {
    let port = |(name, protocol, port)| SlicePort { name, protocol, port };
    let endpoints: Vec<_> = endpoints.iter().map(|e| endpoint(e)).collect();
    Slice {
        name: name.into(),
        service: ServiceKey::new("default", service),
        ipv6: endpoints.first().is_some_and(|e| e.ip.is_ipv6()),
        ports: ports.iter().map(|p| port(parts(p))).collect(),
        endpoints,
        trigger_time: None,
    }
}

fn empty() -> Zone {
    let mut zone = Zone::new(Name::parse("cluster.local").unwrap(), vec!["10.96.0.10".parse().unwrap()]);
    zone.set_namespaces(["default".into(), "empty".into()].into());
    zone
}

fn zone() -> Zone {
    let mut zone = empty();
    let services = [
        with_ports(service("web", &["10.96.0.5"]), &["http/TCP:80", "dns/UDP:53"]),
        with_ports(service("plain", &["10.96.0.6"]), &["/TCP:80"]),
        with_ports(service("dual", &["10.96.0.7", "fd00:96::7"]), &["http/TCP:80"]),
        with_ports(service("lonely", &["10.96.0.8"]), &["http/TCP:80"]),
        with_ports(service("db", &[]), &["sql/TCP:5432"]),
        with_ports(service("two", &[]), &["a/TCP:1", "b/TCP:2"]),
        with_ports(service("mixed", &[]), &["http/TCP:80"]),
        service("portless", &[]),
        with_ports(service("unready", &[]), &["http/TCP:80"]),
        with_ports(service("none", &[]), &["http/TCP:80"]),
        external("ext", "Example.org"),
        external("address", "192.0.2.1"),
    ];
    let slices = [
        slice("web-1", "web", &["http/TCP:8080"], &["10.244.0.1", "10.244.0.2 named"]),
        slice("db-1", "db", &["sql/TCP:5432"], &["10.244.0.3 db-0", "10.244.0.4 db-1", "!10.244.0.5 db-2"]),
        // The same endpoint stands in two slices, as while one replaces the other.
        slice("db-2", "db", &["sql/TCP:5432"], &["10.244.0.4 db-1"]),
        slice("two-1", "two", &["a/TCP:1", "b/TCP:2"], &["10.244.0.6 same", "10.244.0.7 same", "10.244.0.8"]),
        slice("mixed-4", "mixed", &["http/TCP:80"], &["10.244.0.9"]),
        slice("mixed-6", "mixed", &["http/TCP:80"], &["fd00:244::", "fd00:244::9"]),
        slice("portless-1", "portless", &[], &["10.244.0.10"]),
        slice("unready-1", "unready", &["http/TCP:80"], &["!10.244.0.11"]),
        slice("orphan-1", "orphan", &["http/TCP:80"], &["10.244.0.12"]),
        // Also an endpoint of web, and the address of a Service.
        slice("shared-1", "two", &["a/TCP:1"], &["10.244.0.1", "10.96.0.6"]),
    ];
    zone.update(|s| services.into_iter().filter_map(|service| s.apply_service(service)).collect::<Vec<_>>());
    zone.update(|s| slices.into_iter().flat_map(|slice| s.apply_slice(slice)).collect::<Vec<_>>());
    zone
}

fn rtype_of(text: &str) -> u16 {
    match text {
        "A" => rtype::A,
        "NS" => rtype::NS,
        "CNAME" => rtype::CNAME,
        "SOA" => rtype::SOA,
        "PTR" => rtype::PTR,
        "MX" => 15,
        "TXT" => rtype::TXT,
        "AAAA" => rtype::AAAA,
        "SRV" => rtype::SRV,
        "ANY" => rtype::ANY,
        other => panic!("{other}"),
    }
}

fn short(name: &Name) -> String {
    let text = name.to_string();
    text.strip_suffix(".cluster.local.").unwrap_or(&text).to_owned()
}

fn show(data: &Data) -> String {
    match data {
        Data::A(ip) => ip.to_string(),
        Data::Aaaa(ip) => ip.to_string(),
        Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => short(name),
        Data::Srv { priority, weight, port, target } => format!("{priority} {weight} {port} {}", short(target)),
        Data::Txt(text) => text.clone(),
        Data::Other { rtype, .. } => format!("TYPE{rtype}"),
        Data::Soa { mname, rname, .. } => format!("{} {}", short(mname), short(rname)),
    }
}

/// The zone that a name is in.
fn enclosing(zone: &Zone, asked: &Name) -> Name {
    let reverse = ["in-addr.arpa", "ip6.arpa"].map(|z| Name::parse(z).unwrap());
    let zones = reverse.into_iter().chain([zone.domain.clone()]);
    zones.into_iter().find(|z| asked.labels_below(z).is_some()).unwrap()
}

fn render(zone: &Zone, answer: Answer, asked: &Name) -> String {
    let response = match answer {
        Answer::Elsewhere => return "elsewhere".into(),
        Answer::Alias { target, cname } => {
            assert_eq!((&cname.name, &cname.data), (asked, &Data::Cname(target.clone())));
            return format!("alias {target}");
        }
        Answer::Here(response) => response,
    };
    assert!(response.authoritative);
    let soa: Vec<&Name> = response.authority.iter().filter(|r| r.data.rtype() == rtype::SOA).map(|r| &r.name).collect();
    let expect = if response.answers.is_empty() { vec![enclosing(zone, asked)] } else { vec![] };
    assert_eq!(soa, expect.iter().collect::<Vec<_>>(), "a \"no\" carries its own zone's SOA, nothing else does");
    match response.rcode {
        Rcode::NxDomain => return "NXDOMAIN".into(),
        Rcode::NoError if response.answers.is_empty() => return "NODATA".into(),
        code => assert_eq!(code, Rcode::NoError),
    }
    assert!(response.answers.iter().all(|r| r.name == *asked && r.ttl == TTL));
    let answers: Vec<String> = response.answers.iter().map(|r| show(&r.data)).collect();
    let glue = response.additional.iter().map(|r| format!("{} {}", short(&r.name), show(&r.data)));
    let glue = glue.collect::<Vec<_>>().join(", ");
    let bar = if glue.is_empty() { "" } else { " | " };
    format!("{}{bar}{glue}", answers.join(", "))
}

/// "NAME TYPE"; a name without a final dot is below the zone.
fn ask(zone: &Zone, question: &str) -> String {
    let (name, rtype) = question.split_once(' ').unwrap();
    let name = match name {
        "@" => zone.domain.clone(),
        full if full.ends_with('.') => Name::parse(full).unwrap(),
        below => Name::parse(&format!("{below}.cluster.local")).unwrap(),
    };
    render(zone, zone.answer(&name, rtype_of(rtype)), &name)
}

fn check(rows: &[(&str, &str)]) {
    let zone = zone();
    for (question, expect) in rows {
        assert_eq!(ask(&zone, question), *expect, "{question}");
    }
}

#[test]
fn the_zone_itself() {
    check(&[
        ("@ SOA", "ns.dns hostmaster"),
        ("@ NS", "ns.dns | ns.dns 10.96.0.10"),
        ("@ A", "NODATA"),
        ("ns.dns A", "10.96.0.10"),
        ("ns.dns AAAA", "NODATA"),
        ("dns NS", "NODATA"),
        ("dns-version TXT", "1.1.0"),
        ("dns-version A", "NODATA"),
        ("x.dns-version TXT", "NXDOMAIN"),
        ("svc A", "NODATA"),
        ("pod A", "NODATA"),
        ("default.svc A", "NODATA"),
        ("empty.svc NS", "NODATA"),
        ("default.pod A", "NODATA"),
        ("missing.svc A", "NXDOMAIN"),
        ("missing.pod A", "NXDOMAIN"),
        ("foo NS", "NXDOMAIN"),
        ("web.default A", "NXDOMAIN"),
        ("web.default.foo A", "NXDOMAIN"),
        ("example.org. A", "elsewhere"),
        ("local. SOA", "elsewhere"),
        ("xcluster.local. A", "elsewhere"),
        (". NS", "elsewhere"),
    ]);
}

#[test]
fn services_with_an_address() {
    check(&[
        ("web.default.svc A", "10.96.0.5"),
        ("WEB.Default.SVC A", "10.96.0.5"),
        ("web.default.svc AAAA", "NODATA"),
        ("web.default.svc MX", "NODATA"),
        ("web.default.svc SOA", "NODATA"),
        ("dual.default.svc A", "10.96.0.7"),
        ("dual.default.svc AAAA", "fd00:96::7"),
        ("dual.default.svc ANY", "10.96.0.7, fd00:96::7"),
        ("lonely.default.svc A", "10.96.0.8"),
        ("missing.default.svc A", "NXDOMAIN"),
        ("orphan.default.svc A", "NXDOMAIN"),
        ("web.empty.svc A", "NXDOMAIN"),
        ("web.missing.svc A", "NXDOMAIN"),
        ("x.web.default.svc A", "NXDOMAIN"),
        ("a.b.c.web.default.svc A", "NXDOMAIN"),
        ("a.b.c.d.e.f.g.h.web.default.svc SRV", "NXDOMAIN"),
        ("*.default.svc A", "NXDOMAIN"),
        ("*.*.svc A", "NXDOMAIN"),
    ]);
}

#[test]
fn ports_of_services_with_an_address() {
    check(&[
        ("_http._tcp.web.default.svc SRV", "0 100 80 web.default.svc | web.default.svc 10.96.0.5"),
        ("_HTTP._TCP.web.default.svc SRV", "0 100 80 web.default.svc | web.default.svc 10.96.0.5"),
        ("_dns._udp.web.default.svc SRV", "0 100 53 web.default.svc | web.default.svc 10.96.0.5"),
        ("_http._udp.web.default.svc SRV", "NXDOMAIN"),
        ("_other._tcp.web.default.svc SRV", "NXDOMAIN"),
        ("http.tcp.web.default.svc SRV", "NXDOMAIN"),
        ("_http._tcp.web.default.svc A", "10.96.0.5"),
        ("_http._tcp.web.default.svc AAAA", "NODATA"),
        ("_http._tcp.web.default.svc TXT", "NODATA"),
        ("_tcp.web.default.svc SRV", "NODATA"),
        ("_sctp.web.default.svc SRV", "NXDOMAIN"),
        ("__tcp.plain.default.svc SRV", "NXDOMAIN"),
        ("_._tcp.plain.default.svc SRV", "NXDOMAIN"),
        ("plain.default.svc SRV", "0 100 80 plain.default.svc | plain.default.svc 10.96.0.6"),
        ("web.default.svc SRV", "0 50 80 web.default.svc, 0 50 53 web.default.svc | web.default.svc 10.96.0.5"),
        (
            "_http._tcp.dual.default.svc SRV",
            "0 100 80 dual.default.svc | dual.default.svc 10.96.0.7, dual.default.svc fd00:96::7",
        ),
        ("_http._tcp.lonely.default.svc SRV", "0 100 80 lonely.default.svc | lonely.default.svc 10.96.0.8"),
    ]);
}

#[test]
fn headless_services() {
    check(&[
        ("db.default.svc A", "10.244.0.3, 10.244.0.4"),
        ("db.default.svc AAAA", "NODATA"),
        ("mixed.default.svc A", "10.244.0.9"),
        ("mixed.default.svc AAAA", "fd00:244::, fd00:244::9"),
        ("portless.default.svc A", "10.244.0.10"),
        ("portless.default.svc SRV", "NODATA"),
        ("unready.default.svc A", "NXDOMAIN"),
        ("unready.default.svc SRV", "NXDOMAIN"),
        ("none.default.svc A", "NXDOMAIN"),
        ("_http._tcp.none.default.svc SRV", "NXDOMAIN"),
    ]);
}

#[test]
fn endpoints_by_name() {
    check(&[
        ("db-0.db.default.svc A", "10.244.0.3"),
        ("DB-0.db.default.svc A", "10.244.0.3"),
        ("db-0.db.default.svc AAAA", "NODATA"),
        ("db-2.db.default.svc A", "NXDOMAIN"),
        ("10-244-0-3.db.default.svc A", "NXDOMAIN"),
        ("same.two.default.svc A", "10.244.0.6, 10.244.0.7"),
        ("10-244-0-8.two.default.svc A", "10.244.0.8"),
        ("10-244-0-10.portless.default.svc A", "10.244.0.10"),
        ("fd00-244--9.mixed.default.svc AAAA", "fd00:244::9"),
        ("fd00-244--0.mixed.default.svc AAAA", "fd00:244::"),
        ("fd00-244--.mixed.default.svc AAAA", "NXDOMAIN"),
        // PTR names these, so they lead back.
        ("10-244-0-1.web.default.svc A", "10.244.0.1"),
        ("named.web.default.svc A", "10.244.0.2"),
        ("10-244-0-11.unready.default.svc A", "NXDOMAIN"),
    ]);
}

#[test]
fn ports_of_headless_services() {
    check(&[
        (
            "_sql._tcp.db.default.svc SRV",
            "0 50 5432 db-0.db.default.svc, 0 50 5432 db-1.db.default.svc | \
             db-0.db.default.svc 10.244.0.3, db-1.db.default.svc 10.244.0.4",
        ),
        ("_sql._tcp.db.default.svc A", "10.244.0.3, 10.244.0.4"),
        (
            "_b._tcp.two.default.svc SRV",
            "0 50 2 same.two.default.svc, 0 50 2 10-244-0-8.two.default.svc | \
             same.two.default.svc 10.244.0.6, same.two.default.svc 10.244.0.7, 10-244-0-8.two.default.svc 10.244.0.8",
        ),
        ("_c._tcp.two.default.svc SRV", "NXDOMAIN"),
        ("_http._tcp.portless.default.svc SRV", "NXDOMAIN"),
        ("_tcp.db.default.svc A", "NODATA"),
    ]);
}

#[test]
fn aliases() {
    check(&[
        ("ext.default.svc A", "alias example.org."),
        ("ext.default.svc CNAME", "alias example.org."),
        ("x.ext.default.svc A", "NXDOMAIN"),
        ("_http._tcp.ext.default.svc SRV", "NXDOMAIN"),
        ("address.default.svc A", "NXDOMAIN"),
    ]);
}

#[test]
fn pods() {
    check(&[
        ("10-244-0-77.default.pod A", "10.244.0.77"),
        ("10-244-0-77.default.pod AAAA", "NODATA"),
        ("fd00-244--1.default.pod AAAA", "fd00:244::1"),
        ("10-244-0-77.missing.pod A", "NXDOMAIN"),
        ("10-244-0.default.pod A", "NXDOMAIN"),
        ("10-244-0-256.default.pod A", "NXDOMAIN"),
        ("name.default.pod A", "NXDOMAIN"),
        ("a.10-244-0-77.default.pod A", "NXDOMAIN"),
    ]);
}

#[test]
fn pods_in_each_mode() {
    let pod = |ns: &str, name: &str, ip: &str| Pod {
        key: (ns.into(), name.into()),
        ips: vec![ip.parse().unwrap()],
        host_network: false,
        plain_search: true,
    };
    for (mode, own, other_ns, nobodys) in [
        (PodNames::Disabled, "NXDOMAIN", "NXDOMAIN", "NXDOMAIN"),
        (PodNames::Insecure, "10.244.0.3", "10.244.0.3", "10.244.0.99"),
        (PodNames::Verified, "10.244.0.3", "NXDOMAIN", "NXDOMAIN"),
    ] {
        let mut zone = empty().with_pod_names(mode);
        zone.pods_mut().apply(pod("default", "db-0", "10.244.0.3"));
        zone.pods_mut().apply(pod("default", "db-6", "fd00:244::3"));
        assert_eq!(ask(&zone, "10-244-0-3.default.pod A"), own, "{mode:?}");
        assert_eq!(ask(&zone, "10-244-0-3.empty.pod A"), other_ns, "{mode:?}");
        assert_eq!(ask(&zone, "10-244-0-99.default.pod A"), nobodys, "{mode:?}");
        assert_eq!(ask(&zone, "default.pod A"), "NODATA", "{mode:?}");
        let six = if mode == PodNames::Disabled { "NXDOMAIN" } else { "fd00:244::3" };
        assert_eq!(ask(&zone, "fd00-244--3.default.pod AAAA"), six, "{mode:?}");
    }
}

#[test]
fn times_to_live_and_serials() {
    let mut zone = empty().with_ttl(17);
    zone.update(|s| s.apply_service(with_ports(service("web", &["10.96.0.5"]), &["http/TCP:80"])));
    let here = |zone: &Zone, text: &str, rtype| match zone.answer(&Name::parse(text).unwrap(), rtype) {
        Answer::Here(response) => response,
        other => panic!("{other:?}"),
    };
    let srv = here(&zone, "_http._tcp.web.default.svc.cluster.local", rtype::SRV);
    assert!(srv.answers.iter().chain(&srv.additional).all(|r| r.ttl == 17));
    let soa = |zone: &Zone| match here(zone, "missing.default.svc.cluster.local", rtype::A).authority.pop() {
        Some(Record { ttl, data: Data::Soa { minimum, serial, .. }, .. }) => (ttl, minimum, serial),
        other => panic!("{other:?}"),
    };
    let before = soa(&zone);
    assert_eq!((before.0, before.1), (17, 17));
    zone.update(|s| s.remove_service(&ServiceKey::new("default", "web")));
    assert_eq!(soa(&zone).2, before.2 + 1, "the serial grows with each change");
    assert_eq!(empty().with_ttl(u32::MAX).ttl, LONGEST_TTL);
}

/// Names of everything in the zone, and of things beside it.
fn names() -> Vec<String> {
    let services = ["web", "plain", "dual", "db", "mixed", "unready", "none", "ext", "missing", "two"];
    let fronts = ["", "a.", "db-0.", "_http._tcp.", "_tcp.", "a.b.c.", "10-244-0-1."];
    let of = |s: &str| fronts.map(|f| format!("{f}{s}.default.svc.cluster.local"));
    let mut names: Vec<String> = services.iter().flat_map(|s| of(s)).collect();
    let others = [
        "cluster.local",
        "local",
        ".",
        "svc.cluster.local",
        "default.svc.cluster.local",
        "x.svc.cluster.local",
        "example.org.cluster.local",
        "example.org.svc.cluster.local",
        "example.org.default.svc.cluster.local",
        "WEB.Default.svc.CLUSTER.local",
        "dns-version.cluster.local",
        "x.dns-version.cluster.local",
        "example.org",
        "10-244-0-1.default.pod.cluster.local",
        "ns.dns.cluster.local",
        "xcluster.local",
        "cluster.local.cluster.local",
    ];
    names.extend(others.map(String::from));
    names
}

#[test]
fn the_short_cut_answers_as_the_long_way() {
    let zone = zone();
    let (mut short, mut out) = (0, [0; 1232]);
    for (n, name) in names().iter().enumerate() {
        for rtype in ["A", "AAAA", "SRV", "TXT", "ANY", "SOA"] {
            for edns in [true, false] {
                let mut message = wire::encode_query(n as u16, &Name::parse(name).unwrap(), rtype_of(rtype));
                if !edns {
                    message.truncate(message.len() - wire::OPT_LENGTH);
                    message[11] = 0;
                }
                // As it was written, in its mixture of cases.
                let front: Vec<u8> = name.bytes().take(3).collect();
                if front.iter().all(u8::is_ascii_alphabetic) {
                    message[13..16].copy_from_slice(&front);
                }
                let Some((length, rcode)) = crate::quick::answer(&zone, &message, &mut out) else { continue };
                let query = wire::Query::parse(&message).unwrap();
                let Answer::Here(response) = zone.answer(&query.name, query.rtype) else { panic!("{name} {rtype}") };
                let long = wire::encode(&query, &crate::server::turned(response, query.id), query.udp_limit());
                assert_eq!(out[..length], long, "{name} {rtype}");
                assert_eq!(rcode as u8, long[3] & 0xf);
                short += 1;
            }
        }
    }
    assert!(short > 200, "the short cut is rarely taken: {short}");
}

#[test]
fn addresses_have_names() {
    // fd00:96::7
    let six = format!("7{}.6.9.0.0.0.0.d.f.ip6.arpa.", ".0".repeat(23));
    check(&[
        ("5.0.96.10.in-addr.arpa. PTR", "web.default.svc"),
        ("5.0.96.10.IN-ADDR.arpa. PTR", "web.default.svc"),
        ("5.0.96.10.in-addr.arpa. A", "NODATA"),
        ("3.0.244.10.in-addr.arpa. PTR", "db-0.db.default.svc"),
        ("2.0.244.10.in-addr.arpa. PTR", "named.web.default.svc"),
        ("1.0.244.10.in-addr.arpa. PTR", "10-244-0-1.two.default.svc, 10-244-0-1.web.default.svc"),
        // The ClusterIP wins over the endpoint of the same address.
        ("6.0.96.10.in-addr.arpa. PTR", "plain.default.svc"),
        ("5.0.244.10.in-addr.arpa. PTR", "elsewhere"),
        ("12.0.244.10.in-addr.arpa. PTR", "elsewhere"),
        ("8.8.8.8.in-addr.arpa. PTR", "elsewhere"),
        ("0.96.10.in-addr.arpa. PTR", "elsewhere"),
        ("x.5.0.96.10.in-addr.arpa. PTR", "elsewhere"),
        ("05.0.96.10.in-addr.arpa. PTR", "elsewhere"),
        (&format!("{six} PTR"), "dual.default.svc"),
        (&format!("{six} TXT"), "NODATA"),
    ]);
}

#[test]
fn reasons() {
    let zone = zone();
    for (question, expect) in [
        ("web.default.svc A", "the ClusterIP of Service default/web, which has 2 ready endpoints of 2"),
        ("web.default.svc AAAA", "Service default/web exists, but has no IPv6 address"),
        ("web.missing.svc A", "there is no namespace \"missing\""),
        ("shop.default.svc A", "there is no Service \"shop\" in namespace \"default\""),
        ("db.default.svc A", "Service default/db is headless: the addresses of its 3 ready endpoints"),
        ("unready.default.svc A", "none of its 1 endpoints is ready"),
        ("ext.default.svc A", "is an alias of \"Example.org\""),
        ("_x._tcp.web.default.svc SRV", "its named ports: _http._tcp, _dns._udp"),
        ("example.org. A", "not below cluster.local., so the resolvers outside are asked"),
        ("5.0.96.10.in-addr.arpa. PTR", "10.96.0.5 is the address of a Service"),
        ("8.8.8.8.in-addr.arpa. PTR", "belongs to nothing in the cluster"),
        ("example.org.cluster.local. A", "there are only svc, pod, dns and dns-version"),
    ] {
        let (name, rtype) = question.split_once(' ').unwrap();
        let full = if name.ends_with('.') { name.into() } else { format!("{name}.cluster.local") };
        let said = crate::why::explain(&zone, &Name::parse(&full).unwrap(), rtype_of(rtype));
        assert!(said.contains(expect), "{question}: {said}");
    }
}

#[test]
fn changes_are_answered_at_once() {
    let mut zone = zone();
    let serial = zone.serial;
    zone.update(|s| s.apply_slice(slice("db-1", "db", &[], &["10.244.0.30"])));
    zone.update(|s| s.remove_slice(&"default".into(), &"db-2".into()));
    zone.update(|s| s.remove_service(&ServiceKey::new("default", "web")));
    assert_eq!(ask(&zone, "db.default.svc A"), "10.244.0.30");
    assert_eq!(ask(&zone, "3.0.244.10.in-addr.arpa. PTR"), "elsewhere");
    assert_eq!(ask(&zone, "30.0.244.10.in-addr.arpa. PTR"), "10-244-0-30.db.default.svc");
    assert_eq!(ask(&zone, "web.default.svc A"), "NXDOMAIN");
    assert_eq!(ask(&zone, "5.0.96.10.in-addr.arpa. PTR"), "elsewhere");
    assert_eq!(ask(&zone, "1.0.244.10.in-addr.arpa. PTR"), "10-244-0-1.two.default.svc");
    assert_ne!(zone.serial, serial);
    zone.remove_namespace("empty");
    assert_eq!(ask(&zone, "empty.svc A"), "NXDOMAIN");
}

mod history {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Service(u8, u8),
        Gone(u8),
        Slice(u8, u8, Vec<u8>),
        SliceGone(u8),
        /// A fresh list with these Services and slices.
        Only(Vec<u8>, Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let some = || prop::collection::vec(0..6u8, 0..4);
        prop_oneof![
            3 => (0..4u8, 0..6u8).prop_map(|(name, how)| Step::Service(name, how)),
            1 => (0..4u8).prop_map(Step::Gone),
            3 => (0..6u8, 0..4u8, some()).prop_map(|(name, of, ends)| Step::Slice(name, of, ends)),
            1 => (0..6u8).prop_map(Step::SliceGone),
            1 => (some(), some()).prop_map(|(services, slices)| Step::Only(services, slices)),
        ]
    }

    fn name(n: u8) -> String {
        format!("s{n}")
    }

    fn made(n: u8, how: u8) -> Service {
        match how {
            0 => external(&name(n), "example.org"),
            1 | 2 => with_ports(service(&name(n), &[]), &["http/TCP:80"]),
            ip => with_ports(service(&name(n), &[&format!("10.96.0.{ip}")]), &["http/TCP:80"]),
        }
    }

    fn made_slice(n: u8, of: u8, ends: &[u8]) -> Slice {
        let text = |e: &u8| match e % 3 {
            0 => format!("10.244.0.{e} host"),
            1 => format!("!10.244.0.{e}"),
            _ => format!("10.244.0.{e}"),
        };
        let texts: Vec<String> = ends.iter().map(text).collect();
        slice(&name(n), &name(of), &["http/TCP:80"], &texts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn take(zone: &mut Zone, step: &Step) {
        match step {
            Step::Service(n, how) => zone.update(|s| s.apply_service(made(*n, *how))),
            Step::Gone(n) => zone.update(|s| s.remove_service(&ServiceKey::new("default", &name(*n)))),
            Step::Slice(n, of, ends) => zone.update(|s| s.apply_slice(made_slice(*n, *of, ends))),
            Step::SliceGone(n) => zone.update(|s| s.remove_slice(&"default".into(), &name(*n).into())),
            Step::Only(services, slices) => {
                let is = |all: &[u8], text: &str| all.iter().any(|n| name(*n) == text);
                zone.update(|s| s.retain(|key| is(services, &key.name), |_, slice| is(slices, slice)));
            }
        }
    }

    fn from_scratch(zone: &Zone) -> Zone {
        let mut new = empty();
        for (_, entry) in zone.snapshot.iter() {
            new.update(|s| entry.service.iter().filter_map(|v| s.apply_service((**v).clone())).collect::<Vec<_>>());
            for slice in entry.slices.values() {
                new.update(|s| s.apply_slice((**slice).clone()));
            }
        }
        new
    }

    fn everything(zone: &Zone) -> Vec<String> {
        let names = (0..4)
            .flat_map(|n| ["", "host.", "10-244-0-2.", "_http._tcp.", "_tcp."].map(|p| format!("{p}s{n}.default.svc")));
        let reverse = (0..6).flat_map(|n| [96, 244].map(|net| format!("{n}.0.{net}.10.in-addr.arpa.")));
        let asked = names.chain(reverse).flat_map(|n| ["A", "SRV", "PTR"].map(|t| format!("{n} {t}")));
        asked.map(|q| format!("{q}: {}", ask(zone, &q))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..Default::default() })]
        #[test]
        fn equals_from_scratch(steps in prop::collection::vec(step(), 1..30)) {
            let mut zone = empty();
            for step in &steps {
                take(&mut zone, step);
            }
            let new = from_scratch(&zone);
            prop_assert_eq!(&zone.snapshot, &new.snapshot);
            prop_assert_eq!(&zone.owners, &new.owners);
            prop_assert_eq!(&zone.book, &new.book);
            prop_assert_eq!(everything(&zone), everything(&new));
        }
    }
}
