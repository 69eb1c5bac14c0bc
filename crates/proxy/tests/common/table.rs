//! Where connections go: one table, in words that mean something in both families. It is asked of the rules as values
//! (`trace.rs`) and replayed with real packets through the real kernel (`packets.rs`).
//!
//! The place: node a has the pods p1 and p2, node b has r1; `out` and `out2` are addresses of a machine outside.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_proxy::ruleset::{Networks, NodeView, Ruleset};
use skiff_services::{choice::Viewpoint, model::ServiceKey, snapshot::Snapshot};

/// Who connects, to what, and the endpoints that may answer, each with `!` when the node's address takes the place of the
/// client's; or `reset`, `unreachable`, `drop`, `untouched`.
pub type Flow = (&'static str, &'static str, &'static str);

pub struct Spec {
    name: &'static str,
    /// Fields of the spec; `external` and `balanced` stand for addresses, `ranges` for loadBalancerSourceRanges.
    more: Value,
    /// `name[/states][%zone][@node]`: as in an EndpointSlice, hints behind `%` and `@`.
    endpoints: &'static str,
}

pub struct Group {
    pub name: &'static str,
    /// Addresses of node a on which NodePorts are served.
    pub node_addresses: &'static [&'static str],
    pub knows_pods: bool,
    pub masquerade_all: bool,
    pub second_service_cidr: bool,
    pub services: Vec<Spec>,
    pub flows: &'static [Flow],
    /// Flows that only the values are asked: where nobody knows which clients are pods, those from outside are not
    /// masqueraded, so that answers of another node's endpoint pass by the node that has translated.
    pub answers_pass_by: &'static [(&'static str, &'static str)],
}

/// Addresses by name; `.0` in IPv4, `.1` in IPv6.
const HOSTS: &[(&str, &str, &str)] = &[
    ("a", "192.0.2.1", "2001:db8::1"),
    ("a2", "192.0.2.11", "2001:db8::1:11"),
    ("b", "192.0.2.2", "2001:db8::2"),
    ("out", "192.0.2.100", "2001:db8::100"),
    ("out2", "192.0.2.200", "2001:db8::200"),
    ("p1", "10.244.0.11", "fd44::11"),
    ("p2", "10.244.0.12", "fd44::12"),
    ("r1", "10.244.1.11", "fd44:0:0:1::11"),
    ("dns", "10.96.0.10", "fd96::a"),
    ("unused", "10.97.200.1", "fd96::fff1"),
    ("elsewhere", "10.200.0.1", "fd97::1"),
    ("loopback", "127.0.0.1", "::1"),
];

pub fn host(name: &str, ipv6: bool) -> IpAddr {
    let (_, v4, v6) = HOSTS.iter().find(|(n, ..)| *n == name).unwrap_or_else(|| panic!("no host {name}"));
    (if ipv6 { v6 } else { v4 }).parse().expect("an address")
}

pub fn name_of(ip: IpAddr) -> Option<&'static str> {
    HOSTS.iter().find(|(_, v4, v6)| v4.parse() == Ok(ip) || v6.parse() == Ok(ip)).map(|(n, ..)| *n)
}

fn numbered(v4: &str, v6: &str, n: usize, ipv6: bool) -> IpAddr {
    let text = if ipv6 { format!("{v6}{n:x}") } else { format!("{v4}{n}") };
    text.parse().expect("an address")
}

fn cluster_ip(n: usize, ipv6: bool) -> IpAddr {
    numbered("10.96.1.", "fd96::1:", n, ipv6)
}

fn balancer_ip(n: usize, ipv6: bool) -> IpAddr {
    numbered("198.51.100.", "2001:db8:51::", n, ipv6)
}

fn external_ip(n: usize, ipv6: bool) -> IpAddr {
    numbered("203.0.113.", "2001:db8:113::", n, ipv6)
}

fn node_port(n: usize) -> u16 {
    30080 + n as u16
}

/// What a source range is called here, in both families.
fn range(name: &str) -> [&'static str; 2] {
    match name {
        "out2" => ["192.0.2.200/32", "2001:db8::200/128"],
        "nodes" => [" 192.0.2.0/28 ", "2001:db8::/124"],
        "pods" => ["10.244.0.0/16", "fd44::/32"],
        "all" => ["0.0.0.0/0", "::/0"],
        other => panic!("no range {other}"),
    }
}

fn service(spec: &Spec, n: usize) -> skiff_services::model::Service {
    let both = |of: fn(usize, bool) -> IpAddr| json!([of(n, false), of(n, true)]);
    let mut port = json!({"port": 80, "targetPort": 8080});
    let mut fields = spec.more.clone();
    let object = fields.as_object_mut().expect("an object");
    if matches!(object.get("type").and_then(Value::as_str), Some("NodePort" | "LoadBalancer")) {
        port["nodePort"] = node_port(n).into();
    }
    if let Some(protocol) = object.remove("protocol") {
        port["protocol"] = protocol;
    }
    if object.remove("external").is_some() {
        object.insert("externalIPs".into(), both(external_ip));
    }
    if let Some(ranges) = object.remove("ranges") {
        let names = ranges.as_str().expect("names").split(' ');
        object.insert("loadBalancerSourceRanges".into(), names.flat_map(range).collect());
    }
    let ingress = object.remove("balanced").map(|mode| {
        let ip = |ipv6| match mode.as_str() {
            Some(mode) => json!({"ip": balancer_ip(n, ipv6), "ipMode": mode}),
            None => json!({"ip": balancer_ip(n, ipv6)}),
        };
        json!([ip(false), ip(true), {"ip": "not an address"}, {"hostname": "lb.example"}])
    });
    object.insert("clusterIP".into(), json!(cluster_ip(n, false)));
    object.insert("clusterIPs".into(), both(cluster_ip));
    object.insert("ports".into(), json!([port]));
    super::service(spec.name, fields, json!({"loadBalancer": {"ingress": ingress}}))
}

fn endpoint(text: &str, ipv6: bool) -> Value {
    let cut = |text: &str, mark: char| {
        let (before, after) = text.split_once(mark).unwrap_or((text, ""));
        (before.to_owned(), after.to_owned())
    };
    let (text, node_hint) = cut(text, '@');
    let (text, zone_hint) = cut(&text, '%');
    let (name, states) = cut(&text, '/');
    let node = if name.starts_with('r') { "b" } else { "a" };
    let states = if states.is_empty() { "rs".into() } else { states };
    let mut endpoint = super::endpoint(&format!("{}@{node} {states}", host(&name, ipv6)));
    if !zone_hint.is_empty() {
        endpoint["hints"]["forZones"] = json!([{"name": zone_hint}]);
    }
    if !node_hint.is_empty() {
        endpoint["hints"]["forNodes"] = json!([{"name": node_hint}]);
    }
    endpoint
}

impl Group {
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (i, spec) in self.services.iter().enumerate() {
            snapshot.apply_service(service(spec, i + 1));
            let protocol = spec.more.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            for ipv6 in [false, true] {
                let endpoints: Vec<Value> = spec.endpoints.split_whitespace().map(|e| endpoint(e, ipv6)).collect();
                let name = format!("{}-{}", spec.name, u8::from(ipv6));
                snapshot.apply_slice(super::slice_of(spec.name, &name, protocol, 8080, ipv6, &endpoints));
            }
        }
        snapshot
    }

    /// The rules of node `a` or `b`.
    pub fn rules(&self, node: &str) -> Ruleset {
        let pods = if node == "a" { ["10.244.0.0/24", "fd44::/64"] } else { ["10.244.1.0/24", "fd44:0:0:1::/64"] };
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("a network")).collect::<Vec<IpNet>>();
        let mut refused = nets(&["10.96.0.0/12", "fd96::/112", "fd96::1:0/112"]);
        if self.second_service_cidr {
            refused.extend(nets(&["10.200.0.0/16", "fd97::/112"]));
        }
        let networks = Networks {
            internal: if self.knows_pods { nets(&pods) } else { vec![] },
            refused,
            masquerade_all: self.masquerade_all,
        };
        let names = if node == "a" { self.node_addresses } else { &["b"] };
        let zone = if node == "a" { "east" } else { "west" };
        let view = NodeView {
            viewpoint: Viewpoint { node: node.into(), zone: Some(zone.into()) },
            addresses: names.iter().flat_map(|n| [host(n, false), host(n, true)]).collect(),
        };
        let mut rules = Ruleset::new("skiff", networks, view);
        let snapshot = self.snapshot();
        let keys: Vec<ServiceKey> = snapshot.iter().map(|(k, _)| k.clone()).collect();
        rules.update(&keys, &snapshot);
        rules
    }

    fn number(&self, service: &str) -> usize {
        self.services.iter().position(|s| s.name == service).unwrap_or_else(|| panic!("no Service {service}")) + 1
    }

    /// "[udp |sctp |icmp ]place[/service][:port]" as protocol, address and port.
    pub fn destination(&self, text: &str, ipv6: bool) -> (u8, IpAddr, u16) {
        let (proto, text) = match text.split_once(' ') {
            Some(("udp", rest)) => (17, rest),
            Some(("sctp", rest)) => (132, rest),
            Some(("icmp", rest)) => (if ipv6 { 58 } else { 1 }, rest),
            _ => (6, text),
        };
        let (place, port) = text.split_once(':').map_or((text, None), |(p, n)| (p, n.parse().ok()));
        let (place, service) = place.split_once('/').map_or((place, None), |(p, s)| (p, Some(self.number(s))));
        let n = service.unwrap_or(0);
        let (ip, usual) = match (place, service) {
            ("cluster", _) => (cluster_ip(n, ipv6), 80),
            ("lb", _) => (balancer_ip(n, ipv6), 80),
            ("ext", _) => (external_ip(n, ipv6), 80),
            (name, Some(n)) => (host(name, ipv6), node_port(n)),
            (name, None) => (host(name, ipv6), 80),
        };
        (proto, ip, port.unwrap_or(usual))
    }

    /// The host, the address that it sends from, and whether it must be told to. `a@lb/web` is node a under that address,
    /// which stands on its loopback device then.
    pub fn source(&self, from: &'static str, ipv6: bool) -> (&'static str, IpAddr, bool) {
        match from.split_once('@') {
            Some((name, place)) => (name, self.destination(place, ipv6).1, true),
            None if from.starts_with("out") => ("out", host(from, ipv6), true),
            None => (from, host(from, ipv6), false),
        }
    }

    /// Addresses of balancers that stand on node a.
    pub fn standing(&self, ipv6: bool) -> Vec<IpAddr> {
        self.flows.iter().filter(|(from, ..)| from.contains('@')).map(|(from, ..)| self.source(from, ipv6).1).collect()
    }
}

fn svc(name: &'static str, endpoints: &'static str, more: Value) -> Spec {
    Spec { name, more, endpoints }
}

fn group(name: &'static str, services: Vec<Spec>, flows: &'static [Flow]) -> Group {
    Group {
        name,
        node_addresses: &["a"],
        knows_pods: true,
        masquerade_all: false,
        second_service_cidr: false,
        services,
        flows,
        answers_pass_by: &[],
    }
}

fn np() -> Value {
    json!({"type": "NodePort"})
}

fn np_local() -> Value {
    json!({"type": "NodePort", "externalTrafficPolicy": "Local"})
}

fn lb(more: Value) -> Value {
    let mut base = json!({"type": "LoadBalancer", "balanced": true});
    base.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    base
}

fn lb_local() -> Value {
    lb(json!({"externalTrafficPolicy": "Local", "external": true}))
}

fn masquerade_services() -> Vec<Spec> {
    vec![
        svc("web", "p1 r1", lb(json!({}))),
        svc("near", "p1 r1", lb_local()),
        svc("inner", "p1 r1", json!({"internalTrafficPolicy": "Local"})),
    ]
}

/// Every group that kube-proxy's own tests have, and what they lack.
pub fn groups() -> Vec<Group> {
    let mut all = basics();
    all.extend(balancers());
    all.extend(policies());
    all.extend(terminating());
    all.extend(masquerading());
    all.extend(oddities());
    all
}

fn basics() -> Vec<Group> {
    vec![
        group(
            "ClusterIP",
            vec![svc("web", "p1 p2 r1", json!({})), svc("dns", "p1 r1", json!({"protocol": "UDP"}))],
            &[
                ("p1", "cluster/web", "p1! p2 r1"),
                ("p2", "cluster/web", "p1 p2! r1"),
                ("r1", "cluster/web", "p1 p2 r1!"),
                ("a", "cluster/web", "p1! p2! r1!"),
                ("b", "cluster/web", "p1! p2! r1!"),
                ("out", "cluster/web", "p1! p2! r1!"),
                ("p1", "cluster/web:81", "reset"),
                ("a", "cluster/web:81", "reset"),
                ("out", "cluster/web:81", "reset"),
                ("p1", "udp cluster/web", "unreachable"),
                ("r1", "sctp cluster/web", "unreachable"),
                ("p1", "icmp cluster/web", "drop"),
                ("r1", "icmp cluster/web", "drop"),
                ("p1", "icmp a", "untouched"),
                ("p1", "udp cluster/dns", "p1! r1"),
                ("r1", "udp cluster/dns", "p1 r1!"),
                ("a", "udp cluster/dns", "p1! r1!"),
                ("out", "udp cluster/dns", "p1! r1!"),
                ("p1", "cluster/dns", "reset"),
                ("p1", "unused", "reset"),
                ("a", "unused", "reset"),
                ("r1", "unused", "reset"),
                ("p1", "udp unused", "unreachable"),
                ("p1", "icmp unused", "drop"),
                ("p1", "elsewhere", "untouched"),
                ("p1", "dns:53", "untouched"),
                ("a", "udp dns:53", "untouched"),
                ("p1", "p2:8080", "untouched"),
            ],
        ),
        Group {
            second_service_cidr: true,
            ..group(
                "a second ServiceCIDR",
                vec![svc("web", "p1", json!({}))],
                &[("p1", "elsewhere", "reset"), ("p1", "unused", "reset"), ("out", "udp elsewhere", "unreachable")],
            )
        },
        group(
            "no endpoints",
            vec![
                svc("none", "", lb(json!({"external": true}))),
                svc("udp", "", json!({"type": "NodePort", "protocol": "UDP"})),
                svc("unready", "p1/x r1/x", np()),
                svc("local", "", lb_local()),
            ],
            &[
                ("p1", "cluster/none", "reset"),
                ("a", "cluster/none", "reset"),
                ("out", "cluster/none", "reset"),
                ("out", "a/none", "reset"),
                ("b", "b/none", "reset"),
                ("out", "lb/none", "reset"),
                ("r1", "lb/none", "reset"),
                ("out", "ext/none", "reset"),
                ("p1", "udp cluster/udp", "unreachable"),
                ("out", "udp a/udp", "unreachable"),
                ("a", "udp a/udp", "unreachable"),
                ("p1", "cluster/unready", "reset"),
                ("out", "a/unready", "reset"),
                ("out", "a/local", "reset"),
                ("out", "lb/local", "reset"),
                ("out", "ext/local", "reset"),
                ("p1", "lb/local", "reset"),
            ],
        ),
        node_ports(
            "NodePorts on the node's first address",
            &["a"],
            &[
                ("out", "a/web", "p1! p2! r1!"),
                ("out", "b/web", "p1! p2! r1!"),
                ("p1", "a/web", "p1! p2! r1!"),
                ("r1", "a/web", "p1! p2! r1!"),
                ("r1", "b/web", "p1! p2! r1!"),
                ("a", "a/web", "p1! p2! r1!"),
                ("b", "a/web", "p1! p2! r1!"),
                ("a", "b/web", "p1! p2! r1!"),
                ("out", "a2/web", "untouched"),
                ("a", "loopback/web", "untouched"),
                ("out", "udp a/web", "untouched"),
                ("out", "a:31999", "untouched"),
                ("p1", "cluster/web:30081", "reset"),
            ],
        ),
        node_ports(
            "NodePorts on two addresses",
            &["a", "a2"],
            &[
                ("out", "a/web", "p1! p2! r1!"),
                ("out", "a2/web", "p1! p2! r1!"),
                ("a", "a2/web", "p1! p2! r1!"),
                ("b", "a2/web", "p1! p2! r1!"),
                ("a", "loopback/web", "untouched"),
            ],
        ),
        node_ports(
            "NodePorts on no address",
            &[],
            &[
                ("out", "a/web", "untouched"),
                ("a", "a/web", "untouched"),
                ("out", "b/web", "p1! p2! r1!"),
                ("p1", "cluster/web", "p1! p2 r1"),
            ],
        ),
    ]
}

fn node_ports(name: &'static str, addresses: &'static [&'static str], flows: &'static [Flow]) -> Group {
    Group { node_addresses: addresses, ..group(name, vec![svc("web", "p1 p2 r1", np())], flows) }
}

fn balancers() -> Vec<Group> {
    vec![
        group(
            "loadBalancerSourceRanges",
            vec![
                svc("one", "p1", lb(json!({"ranges": "out2"}))),
                svc("nodes", "p1", lb(json!({"ranges": "nodes"}))),
                svc("pods", "p1", lb(json!({"ranges": "pods out2"}))),
                svc("open", "p1", lb(json!({"ranges": "all out2"}))),
            ],
            &[
                ("out", "lb/one", "drop"),
                ("out2", "lb/one", "p1!"),
                ("p1", "lb/one", "drop"),
                ("p2", "lb/one", "drop"),
                ("a", "lb/one", "drop"),
                ("a@lb/one", "lb/one", "drop"),
                ("out", "a/one", "p1!"),
                ("p1", "cluster/one", "p1!"),
                ("a", "lb/nodes", "p1!"),
                ("a@lb/nodes", "lb/nodes", "p1!"),
                ("out", "lb/nodes", "drop"),
                ("p2", "lb/nodes", "drop"),
                ("b", "lb/nodes", "p1!"),
                ("p1", "lb/pods", "p1!"),
                ("p2", "lb/pods", "p1!"),
                ("r1", "lb/pods", "p1!"),
                ("out2", "lb/pods", "p1!"),
                ("out", "lb/pods", "drop"),
                ("a", "lb/pods", "drop"),
                ("out", "lb/open", "p1!"),
                ("p2", "lb/open", "p1!"),
                ("a", "lb/open", "p1!"),
                ("out", "cluster/one", "p1!"),
            ],
        ),
        group(
            "ipMode and addresses that are none",
            vec![
                svc("proxy", "p1", lb(json!({"balanced": "Proxy"}))),
                svc("vip", "p1", lb(json!({"balanced": "VIP"}))),
                svc("bad", "p1", json!({"externalIPs": ["junk", "127.0.0.1", "::1"]})),
            ],
            &[
                ("out", "lb/proxy", "untouched"),
                ("out", "a/proxy", "p1!"),
                ("out", "lb/vip", "p1!"),
                ("p2", "cluster/bad", "p1"),
                ("a", "loopback:80", "untouched"),
            ],
        ),
    ]
}

fn policies() -> Vec<Group> {
    vec![
        group(
            "externalTrafficPolicy Cluster",
            vec![svc("web", "p1 p2 r1", lb(json!({"external": true})))],
            &[
                ("out", "lb/web", "p1! p2! r1!"),
                ("p1", "lb/web", "p1! p2! r1!"),
                ("r1", "lb/web", "p1! p2! r1!"),
                ("a", "lb/web", "p1! p2! r1!"),
                ("a@lb/web", "lb/web", "p1! p2! r1!"),
                ("out", "ext/web", "p1! p2! r1!"),
                ("p2", "ext/web", "p1! p2! r1!"),
                ("b", "ext/web", "p1! p2! r1!"),
                ("out", "a/web", "p1! p2! r1!"),
            ],
        ),
        group(
            "externalTrafficPolicy Local",
            vec![svc("near", "p1 r1", lb_local()), svc("away", "r1", lb_local())],
            &[
                ("out", "a/near", "p1"),
                ("out", "lb/near", "p1"),
                ("out", "ext/near", "p1"),
                ("out", "b/near", "r1"),
                ("p1", "a/near", "p1! r1"),
                ("p2", "lb/near", "p1 r1"),
                ("p2", "ext/near", "p1 r1"),
                ("a", "a/near", "p1! r1!"),
                ("a", "lb/near", "p1! r1!"),
                ("a@lb/near", "lb/near", "p1! r1!"),
                ("r1", "lb/near", "p1 r1!"),
                ("r1", "a/near", "p1"),
                ("b", "a/near", "p1"),
                ("b", "b/near", "p1! r1!"),
                ("p2", "b/near", "r1"),
                ("p1", "cluster/near", "p1! r1"),
                ("out", "cluster/near", "p1! r1!"),
                ("out", "a/away", "drop"),
                ("out", "lb/away", "drop"),
                ("out", "ext/away", "drop"),
                ("out", "b/away", "r1"),
                ("p1", "a/away", "r1"),
                ("p1", "lb/away", "r1"),
                ("a", "lb/away", "r1!"),
                ("b", "a/away", "drop"),
            ],
        ),
        group(
            "internalTrafficPolicy Local",
            vec![
                svc("away", "r1", json!({"internalTrafficPolicy": "Local"})),
                svc("both", "p1 r1", json!({"internalTrafficPolicy": "Local"})),
                svc("none", "", json!({"internalTrafficPolicy": "Local"})),
                svc("port", "p1 r1", json!({"type": "NodePort", "internalTrafficPolicy": "Local"})),
            ],
            &[
                ("p1", "cluster/away", "drop"),
                ("a", "cluster/away", "drop"),
                ("r1", "cluster/away", "r1!"),
                ("p1", "cluster/both", "p1!"),
                ("p2", "cluster/both", "p1"),
                ("a", "cluster/both", "p1!"),
                ("r1", "cluster/both", "r1!"),
                ("b", "cluster/both", "r1!"),
                ("out", "cluster/both", "p1!"),
                ("p1", "cluster/none", "reset"),
                ("out", "a/port", "p1! r1!"),
            ],
        ),
        group(
            "topology",
            vec![
                svc("zones", "p1%east r1%west", json!({})),
                svc("half", "p1%east r1", json!({})),
                svc("nodes", "p1%west@a r1%east@b", json!({})),
                svc("other", "p1%north r1%north", json!({})),
                svc("port", "p1%east r1%west", np()),
                svc("local", "p1%west r1%east", np_local()),
            ],
            &[
                ("p2", "cluster/zones", "p1"),
                ("r1", "cluster/zones", "r1!"),
                ("p2", "cluster/half", "p1 r1"),
                ("p2", "cluster/nodes", "p1"),
                ("b", "cluster/nodes", "r1!"),
                ("p2", "cluster/other", "p1 r1"),
                ("out", "a/port", "p1!"),
                ("out", "b/port", "r1!"),
                ("out", "a/local", "p1"),
            ],
        ),
    ]
}

fn terminating() -> Vec<Group> {
    vec![
        group(
            "terminating endpoints, policy Cluster",
            vec![
                svc("some", "p1/st p2 r1", np()),
                svc("only", "p1/st r1/st", np()),
                svc("none", "p1/t r1/t", np()),
                svc("far", "p1/t r1/st", np()),
                svc("unready", "p1/s r1/s", np()),
            ],
            &[
                ("p1", "cluster/some", "p2 r1"),
                ("out", "a/some", "p2! r1!"),
                ("p1", "cluster/only", "p1! r1"),
                ("out", "a/only", "p1! r1!"),
                ("p1", "cluster/none", "reset"),
                ("out", "a/none", "reset"),
                ("p1", "cluster/far", "r1"),
                ("p1", "cluster/unready", "reset"),
            ],
        ),
        group(
            "terminating endpoints, policy Local",
            vec![
                svc("some", "p1/st p2 r1", lb_local()),
                svc("only", "p1/st r1", lb_local()),
                svc("far", "r1/st", lb_local()),
                svc("unusable", "p1/t r1", lb_local()),
                svc("none", "p1/t r1/t", lb_local()),
                svc("inner", "p1/st r1", json!({"internalTrafficPolicy": "Local"})),
            ],
            &[
                ("out", "a/some", "p2"),
                ("out", "lb/some", "p2"),
                ("p1", "cluster/some", "p2 r1"),
                ("out", "a/only", "p1"),
                ("out", "lb/only", "p1"),
                ("p1", "lb/only", "r1"),
                ("p1", "cluster/only", "r1"),
                ("out", "a/far", "drop"),
                ("out", "b/far", "r1"),
                ("p1", "a/far", "r1"),
                ("out", "a/unusable", "drop"),
                ("p1", "cluster/unusable", "r1"),
                ("out", "a/none", "reset"),
                ("p2", "cluster/inner", "p1"),
                ("r1", "cluster/inner", "r1!"),
            ],
        ),
    ]
}

/// kube-proxy's four configurations over clients inside, on the node and outside.
fn masquerading() -> Vec<Group> {
    let configured = |name, knows_pods, masquerade_all, answers_pass_by, flows| Group {
        knows_pods,
        masquerade_all,
        answers_pass_by,
        ..group(name, masquerade_services(), flows)
    };
    vec![
        configured(
            "masquerade: pods are known",
            true,
            false,
            &[],
            &[
                ("p1", "cluster/web", "p1! r1"),
                ("p1", "a/web", "p1! r1!"),
                ("p1", "lb/web", "p1! r1!"),
                ("a", "cluster/web", "p1! r1!"),
                ("a", "a/web", "p1! r1!"),
                ("a", "lb/web", "p1! r1!"),
                ("out", "cluster/web", "p1! r1!"),
                ("out", "a/web", "p1! r1!"),
                ("out", "lb/web", "p1! r1!"),
                ("p1", "cluster/near", "p1! r1"),
                ("p1", "a/near", "p1! r1"),
                ("a", "cluster/near", "p1! r1!"),
                ("a", "a/near", "p1! r1!"),
                ("out", "cluster/near", "p1! r1!"),
                ("out", "a/near", "p1"),
                ("p2", "cluster/inner", "p1"),
                ("a", "cluster/inner", "p1!"),
                ("out", "cluster/inner", "p1!"),
            ],
        ),
        configured(
            "masquerade: all, pods are known",
            true,
            true,
            &[],
            &[
                ("p2", "cluster/web", "p1! r1!"),
                ("p2", "lb/web", "p1! r1!"),
                ("a", "cluster/web", "p1! r1!"),
                ("out", "cluster/web", "p1! r1!"),
                ("p2", "cluster/near", "p1! r1!"),
                ("p2", "a/near", "p1 r1"),
                ("a", "a/near", "p1! r1!"),
                ("out", "a/near", "p1"),
                ("p2", "cluster/inner", "p1!"),
                ("out", "cluster/inner", "p1!"),
            ],
        ),
        configured(
            "masquerade: pods are unknown",
            false,
            false,
            &[("out", "cluster/web"), ("out", "cluster/near")],
            &[
                ("p2", "cluster/web", "p1 r1"),
                ("p1", "cluster/web", "p1! r1"),
                ("p2", "a/web", "p1! r1!"),
                ("a", "cluster/web", "p1! r1!"),
                ("out", "cluster/web", "p1 r1"),
                ("out", "lb/web", "p1! r1!"),
                ("p2", "a/near", "p1"),
                ("a", "a/near", "p1! r1!"),
                ("out", "a/near", "p1"),
                ("out", "cluster/near", "p1 r1"),
                ("p2", "cluster/inner", "p1"),
                ("out", "cluster/inner", "p1"),
            ],
        ),
        configured(
            "masquerade: all, pods are unknown",
            false,
            true,
            &[],
            &[
                ("p2", "cluster/web", "p1! r1!"),
                ("p2", "a/web", "p1! r1!"),
                ("a", "cluster/web", "p1! r1!"),
                ("out", "cluster/web", "p1! r1!"),
                ("p2", "a/near", "p1"),
                ("out", "a/near", "p1"),
                ("out", "cluster/near", "p1! r1!"),
                ("p2", "cluster/inner", "p1!"),
                ("out", "cluster/inner", "p1!"),
            ],
        ),
    ]
}

fn oddities() -> Vec<Group> {
    let sticky = |base: Value| {
        let mut base = base;
        base["sessionAffinity"] = "ClientIP".into();
        base["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 100}});
        base
    };
    vec![
        group(
            "affinity, to whom a client may go",
            vec![
                svc("web", "p1 p2 r1", sticky(json!({}))),
                svc("near", "p1 r1", sticky(lb_local())),
                svc("away", "r1", sticky(lb_local())),
                svc("none", "", sticky(np())),
            ],
            &[
                ("p1", "cluster/web", "one of p1! p2 r1"),
                ("a", "cluster/web", "one of p1! p2! r1!"),
                ("r1", "cluster/web", "one of p1 p2 r1!"),
                ("out", "lb/near", "p1"),
                ("p2", "lb/near", "one of p1 r1"),
                ("out", "b/near", "r1"),
                ("out", "lb/away", "drop"),
                ("p2", "cluster/away", "r1"),
                ("p2", "cluster/none", "reset"),
                ("out", "a/none", "reset"),
            ],
        ),
        group(
            "the whole ruleset",
            vec![
                svc("web", "p1 p2 r1", np()),
                svc("near", "p2 r1", lb_local()),
                svc("guarded", "p1", lb(json!({"ranges": "out2"}))),
                svc("stays", "p1 r1", sticky(json!({}))),
                svc("none", "", json!({"protocol": "UDP"})),
            ],
            &[("p1", "cluster/web", "p1! p2 r1"), ("out", "lb/near", "p2"), ("p1", "udp cluster/none", "unreachable")],
        ),
        group(
            "SCTP",
            vec![svc("sctp", "r1", json!({"type": "NodePort", "protocol": "SCTP"}))],
            &[
                ("p1", "sctp cluster/sctp", "r1"),
                ("a", "sctp cluster/sctp", "r1!"),
                ("out", "sctp a/sctp", "r1!"),
                ("p1", "cluster/sctp", "reset"),
                ("p1", "sctp unused", "unreachable"),
            ],
        ),
    ]
}
