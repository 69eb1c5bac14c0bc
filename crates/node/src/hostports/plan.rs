//! Which host ports a pod wants, and the tables that make them.
//!
//! ```text
//! prerouting  to an address of this node: addresses[dst] or ports[dst] -> the pod
//! output      the same, but for clients that send from a loopback address
//! postrouting hairpin -> masquerade
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};
use skiff_nft::{
    Chain, CtKey, Data, DataKind, Element, Expr, Family, Field, Hook, HookPoint, Layout, Packed, Reg, Rule, Set,
    SetSpec, Table, TableRef, Target,
    conntrack::{Flow, STATUS_DNAT},
};
use skiff_services::model::Protocol;

use super::{HostPort, Published};

const TABLE: &str = "skiff-hostports";
const PORTS: &str = "ports";
const ADDRESSES: &str = "addresses";
const HAIRPIN: &str = "hairpin";
const LOOPBACK: &str = "loopback";
const SERVICES: &str = "services";
/// After the proxy (-100, 100): a node port of a Service comes first.
const PRIORITY: i32 = -99;
const SOURCE_PRIORITY: i32 = 101;
const RTN_LOCAL: u32 = 2;
const TCP: u8 = 6;

/// What the rules depend on besides the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The node's own addresses, as far as clients use them.
    pub node: Vec<IpAddr>,
    /// Addresses that stand on this node but belong to Services: they have no host ports.
    pub services: Vec<IpAddr>,
}

/// Pods of the host's network have their ports as they are.
pub fn wanted(pod: &Pod, ip: IpAddr) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.host_network != Some(true)) else { return vec![] };
    let mut ports: Vec<HostPort> =
        containers(spec).flat_map(|c| c.ports.iter().flatten()).filter_map(host_port).collect();
    ports.retain(|p| p.ip.is_none_or(|own| own.is_ipv4() == ip.is_ipv4()));
    ports.iter_mut().for_each(|p| p.ip = p.ip.filter(|own| !own.is_unspecified()));
    ports.sort();
    ports.dedup();
    ports
}

/// Those that run as long as the pod does.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    spec.init_containers.iter().flatten().filter(sidecar).chain(&spec.containers)
}

fn host_port(port: &ContainerPort) -> Option<HostPort> {
    let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
    let ip = match port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    Some(HostPort {
        ip,
        protocol: Protocol::parse(port.protocol.as_deref())?.number(),
        port: number(port.host_port?)?,
        to: number(port.container_port)?,
    })
}

fn collide(a: &HostPort, b: &HostPort) -> bool {
    let same_address = a.ip.is_none() || b.ip.is_none() || a.ip == b.ip;
    (a.protocol, a.port) == (b.protocol, b.port) && same_address
}

/// A port that another pod has already, and that pod.
pub(super) fn conflict<'a>(
    published: &'a BTreeMap<String, Published>,
    owner: &str,
    ports: &'a [HostPort],
) -> Option<(&'a HostPort, &'a str)> {
    let others = || published.iter().filter(|(o, _)| *o != owner).map(|(_, p)| p);
    let taken = |port: &&HostPort| others().find(|other| other.ports.iter().any(|p| collide(p, port)));
    ports.iter().find_map(|port| Some((port, taken(&port)?.pod.as_str())))
}

fn is_of(port: &HostPort, flow: &Flow) -> bool {
    flow.proto == port.protocol && flow.proto != TCP && flow.original.port() == port.port
}

/// A flow that was led to the pod.
pub(super) fn used(former: &Published, flow: &Flow) -> bool {
    let led = |p: &HostPort| is_of(p, flow) && (flow.answers.ip(), flow.answers.port()) == (former.ip, p.to);
    flow.status & STATUS_DNAT != 0 && former.ports.iter().any(led)
}

/// A flow to the port that began before the pod had it.
pub(super) fn bypasses(published: &Published, around: &Surroundings, flow: &Flow) -> bool {
    let to = flow.original.ip();
    let own = |p: &HostPort| is_of(p, flow) && p.ip.map_or(around.node.contains(&to), |ip| ip == to);
    flow.answers.ip() != published.ip && published.ports.iter().any(own)
}

/// Both families' tables; None for one that nobody needs.
pub(super) fn tables<'a>(
    published: impl Iterator<Item = &'a Published> + Clone,
    around: &Surroundings,
) -> Vec<(TableRef, Option<Table>)> {
    let table = |family| {
        let ours = published.clone().filter(|p| Family::of(p.ip) == family);
        let mut ports = ours.flat_map(|p| p.ports.iter().map(move |port| (p, port))).peekable();
        ports.peek()?;
        Some(Rules { family }.table(ports, around))
    };
    [Family::Ip, Family::Ip6].into_iter().map(|family| (TableRef::new(family, TABLE), table(family))).collect()
}

#[derive(Clone, Copy)]
struct Rules {
    family: Family,
}

impl Rules {
    fn table<'a>(self, ports: impl Iterator<Item = (&'a Published, &'a HostPort)>, around: &Surroundings) -> Table {
        let mut table = Table { sets: sets(), chains: BTreeMap::new() };
        let mut put = |set: &str, element: Element| {
            let set = table.sets.get_mut(set).expect("the name is one of sets()");
            set.elements.insert(element.key, element.value);
        };
        for (pod, port) in ports {
            let target = Data::Packed(Packed::new().addr(pod.ip).port(port.to));
            let (set, key) = match port.ip {
                Some(ip) => (ADDRESSES, Packed::new().addr(ip)),
                None => (PORTS, Packed::new()),
            };
            let key = key.proto(port.protocol).port(port.port);
            put(set, Element::new(key, target, Some(pod.pod.as_str().into())));
            put(HAIRPIN, Element::new(Packed::new().addr(pod.ip).addr(pod.ip), Data::None, None));
        }
        for ip in around.services.iter().filter(|ip| Family::of(**ip) == self.family) {
            put(SERVICES, Element::new(Packed::new().addr(*ip), Data::None, None));
        }
        let (first, last) = self.loopback();
        put(LOOPBACK, Element::range(Packed::new().addr(first), Packed::new().addr(last), None));
        table.chains = self.chains();
        table
    }

    fn loopback(self) -> (IpAddr, IpAddr) {
        match self.family {
            Family::Ip => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 255, 255, 255).into()),
            Family::Ip6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        }
    }

    fn chains(self) -> BTreeMap<String, Chain> {
        let not_loopback = vec![Expr::saddr(self.family, Reg(0)), Expr::lookup(LOOPBACK, Reg(0), Target::Absent)];
        let base = |point, priority, rules| Chain { hook: Some(Hook { point, priority }), rules };
        BTreeMap::from([
            ("prerouting".into(), base(HookPoint::Prerouting, PRIORITY, self.lead(&[]))),
            ("output".into(), base(HookPoint::Output, PRIORITY, self.lead(&not_loopback))),
            ("postrouting".into(), base(HookPoint::Postrouting, SOURCE_PRIORITY, vec![self.hairpin()])),
        ])
    }

    fn words(self) -> u8 {
        (self.family.addr_len() / 4) as u8
    }

    fn lead(self, condition: &[Expr]) -> Vec<Rule> {
        let port = |at: u8| [Expr::L4Proto { dst: Reg(at) }, Expr::dport(Reg(at + 1))];
        let local = [
            Expr::FibDaddrType { dst: Reg(0) },
            Expr::Cmp { src: Reg(0), equal: true, value: Packed::new().number(RTN_LOCAL) },
        ];
        let dnat = |map| {
            let found = Expr::lookup(map, Reg(0), Target::Reg(Reg(0)));
            [found, Expr::Dnat { addr: Reg(0), port: Reg(self.words()) }]
        };
        let daddr = [Expr::daddr(self.family, Reg(0))];
        let not_a_service = [Expr::daddr(self.family, Reg(0)), Expr::lookup(SERVICES, Reg(0), Target::Absent)];
        let rule = |comment: &str, parts: &[&[Expr]]| Rule { exprs: parts.concat(), comment: comment.into() };
        vec![
            rule("a port of one address", &[&local, condition, &daddr, &port(self.words()), &dnat(ADDRESSES)]),
            rule("a port of every address", &[&local, condition, &not_a_service, &port(0), &dnat(PORTS)]),
        ]
    }

    fn hairpin(self) -> Rule {
        let exprs = vec![
            Expr::Ct { key: CtKey::Status, dst: Reg(0) },
            Expr::And { reg: Reg(0), mask: STATUS_DNAT },
            Expr::Cmp { src: Reg(0), equal: false, value: Packed::new().number(0) },
            Expr::saddr(self.family, Reg(0)),
            Expr::daddr(self.family, Reg(self.words())),
            Expr::lookup(HAIRPIN, Reg(0), Target::Match),
            Expr::Masquerade,
        ];
        Rule { exprs, comment: "a pod that reaches itself".into() }
    }
}

fn sets() -> BTreeMap<String, Set> {
    use Field::{Addr, Port, Proto};
    let set = |key: &[Field], layout| SetSpec { key: key.to_vec(), data: DataKind::None, layout };
    let map =
        |key: &[Field]| SetSpec { key: key.to_vec(), data: DataKind::Fields(vec![Addr, Port]), layout: Layout::Exact };
    let all = [
        (PORTS, map(&[Proto, Port])),
        (ADDRESSES, map(&[Addr, Proto, Port])),
        (HAIRPIN, set(&[Addr, Addr], Layout::Exact)),
        (LOOPBACK, set(&[Addr], Layout::Interval)),
        (SERVICES, set(&[Addr], Layout::Exact)),
    ];
    all.into_iter().map(|(name, spec)| (name.to_owned(), Set { spec, ..Set::default() })).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
