//! The part of a table that does not depend on single Services: its sets, its chains, and the verdict maps that lead from
//! a class to a chain.
//!
//! ```text
//! prerouting  guarded? -> drop            a client that loadBalancerSourceRanges does not admit
//!             internal: services[dst].inside  -> pick -> pick-N | sticky-T | no-endpoints | drop
//!             anybody:  services[dst].outside -> pick -> ...
//!             addresses, service-cidrs -> unserved
//! output      the same, every client being inside
//! postrouting translated only: hairpin -> masquerade;  from this node -> masquerade
//!             masquerade[original dst] -> masquerade;  masquerade-outside[original dst] and not internal -> masquerade
//! ```
//!
//! Chains are few and shared: a Service is elements of maps, so a change costs the same whatever the number of Services.
//! Chains for 1 to 64 endpoints are always there; others stand as long as a frontend has that class, since making a chain
//! that reads a large map takes the kernel milliseconds.
//!
//! Registers. A rule must load what it reads, so `pick-N` loads the key again. A map whose result is the key of another
//! look-up begins with a padding word: nft's printer takes the result for an empty value and aborts when it is looked up;
//! with the padding it sees what an earlier expression left in the next register. It then prints `daddr vmap @pick`,
//! which is not the whole truth; the rule's comment says it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use skiff_nft::{
    Chain, CtKey, Data, DataKind, Element, Expr, Family, Field, Hook, HookPoint, Layout, Packed, Reg, Rejection, Rule,
    Set, SetSpec, Table, Target, Update, Verdict,
};

use super::class::{Class, View};

pub(super) const SERVICES: &str = "services";
pub(super) const ADDRESSES: &str = "addresses";
pub(super) const HAIRPIN: &str = "hairpin";
pub(super) const MASQUERADE: &str = "masquerade";
pub(super) const MASQUERADE_OUTSIDE: &str = "masquerade-outside";
pub(super) const GUARDED: &str = "guarded";
pub(super) const ADMITTED: &str = "admitted";
const INTERNAL: &str = "internal";
const SERVICE_CIDRS: &str = "service-cidrs";
const CLIENTS: &str = "clients";
const PICK: &str = "pick";
const CHOOSE: &str = "choose";
const SPILL: &str = "spill";

/// Endpoint counts whose chains are always there.
const READY_MADE: usize = 64;
const MAX_CLIENTS: u32 = 1 << 20;
const LONGEST_AFFINITY_MS: u64 = 86_400_000;
const TCP: u8 = 6;
const RTN_LOCAL: u32 = 2;
const STATUS_DNAT: u32 = 0x20;

/// What all rules depend on besides the Services.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Networks {
    /// Pods: clients from here keep their address and see all endpoints.
    pub internal: Vec<IpNet>,
    /// Where ClusterIPs and load balancers' addresses come from: whatever nobody serves there is refused.
    pub refused: Vec<IpNet>,
    /// Whoever connects to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
}

pub(super) fn skeleton(family: Family, networks: &Networks, classes: impl IntoIterator<Item = Class>) -> Table {
    let ready_made = (1..=READY_MADE).map(|n| Class::new(View::Near, None, n));
    let classes: BTreeSet<Class> = classes.into_iter().filter(|c| c.serves()).chain(ready_made).collect();
    let mut table = Table { sets: sets(), chains: BTreeMap::new() };
    let layout = Registers { family };
    fill_ranges(&mut table, family, INTERNAL, &networks.internal);
    fill_ranges(&mut table, family, SERVICE_CIDRS, &networks.refused);
    fill_verdicts(&mut table, &classes);
    table.chains.insert("prerouting".into(), base(HookPoint::Prerouting, -100, layout.prerouting()));
    table.chains.insert("output".into(), base(HookPoint::Output, -100, layout.output()));
    table.chains.insert("postrouting".into(), base(HookPoint::Postrouting, 100, layout.postrouting()));
    table.chains.insert("no-endpoints".into(), plain(refusal("Service without endpoints")));
    table.chains.insert("unserved".into(), plain(layout.unserved()));
    for class in classes {
        for (name, rules) in layout.chains_of(class) {
            table.chains.entry(name).or_insert_with(|| plain(rules));
        }
    }
    table
}

fn sets() -> BTreeMap<String, Set> {
    use Field::{Addr, Mark, Number, Port, Proto};
    let frontend = [Addr, Proto, Port];
    let with = |last: Field| [Addr, Proto, Port, last].to_vec();
    let set = |key: &[Field], layout| SetSpec { key: key.to_vec(), data: DataKind::None, layout };
    let map =
        |key: Vec<Field>, data: &[Field]| SetSpec { key, data: DataKind::Fields(data.to_vec()), layout: Layout::Exact };
    let verdicts = || SetSpec { key: vec![Mark], data: DataKind::Verdict, layout: Layout::Exact };
    let remembered = Layout::Dynamic { timeout_ms: LONGEST_AFFINITY_MS, size: MAX_CLIENTS };
    let mut all = vec![
        (SERVICES, map(frontend.to_vec(), &[Mark, Mark, Mark])),
        (CLIENTS, SetSpec { layout: remembered, ..map(with(Addr), &[Mark, Addr, Port]) }),
        (PICK, verdicts()),
        (CHOOSE, verdicts()),
        (SPILL, verdicts()),
        (ADDRESSES, set(&[Addr], Layout::Exact)),
        (INTERNAL, set(&[Addr], Layout::Interval)),
        (SERVICE_CIDRS, set(&[Addr], Layout::Interval)),
        (HAIRPIN, set(&[Addr, Addr], Layout::Exact)),
        (MASQUERADE, set(&frontend, Layout::Exact)),
        (MASQUERADE_OUTSIDE, set(&frontend, Layout::Exact)),
        (GUARDED, set(&frontend, Layout::Exact)),
        (ADMITTED, set(&with(Addr), Layout::Ranges)),
    ];
    for view in View::ALL {
        all.push((view.endpoints(), map(with(Number), &[Addr, Port])));
        all.push((view.sticky_endpoints(), map(with(Mark), &[Mark, Addr, Port])));
        all.push((view.sticky_live(), set(&[Addr, Port, Addr, Proto, Port], Layout::Exact)));
    }
    all.into_iter().map(|(name, spec)| (name.to_owned(), Set { spec, ..Set::default() })).collect()
}

fn fill_ranges(table: &mut Table, family: Family, set: &str, nets: &[IpNet]) {
    let ours: Vec<IpNet> = nets.iter().filter(|n| Family::of(n.addr()) == family).copied().collect();
    let elements = IpNet::aggregate(&ours).into_iter().map(|net| {
        let (first, last) = (Packed::new().addr(net.network()), Packed::new().addr(net.broadcast()));
        Element::range(first, last, None)
    });
    fill(table, set, elements);
}

fn fill(table: &mut Table, set: &str, elements: impl IntoIterator<Item = Element>) {
    let set = table.sets.get_mut(set).expect("the name is one of sets()");
    set.elements.extend(elements.into_iter().map(|e| (e.key, e.value)));
}

fn fill_verdicts(table: &mut Table, classes: &BTreeSet<Class>) {
    let element = |class: Class, verdict| Element::new(Packed::new().number(class.0), Data::Verdict(verdict), None);
    let first = |c: &Class| match c.sticky_seconds() {
        None => pick_chain(*c),
        Some(_) => sticky_chain(*c),
    };
    let sticky = || classes.iter().filter(|c| c.sticky_seconds().is_some());
    fill(table, PICK, classes.iter().map(|c| element(*c, Verdict::Goto(first(c).into()))));
    fill(
        table,
        PICK,
        [element(Class::REJECT, Verdict::Goto("no-endpoints".into())), element(Class::DROP, Verdict::Drop)],
    );
    fill(table, CHOOSE, sticky().map(|c| element(*c, Verdict::Jump(choose_chain(*c).into()))));
    fill(table, SPILL, sticky().map(|c| element(*c, Verdict::Goto(spill_chain(*c).into()))));
}

fn pick_chain(class: Class) -> String {
    format!("{}pick-{}", class.view().prefix(), class.endpoints())
}

fn sticky_chain(class: Class) -> String {
    format!("{}sticky-{}s", class.view().prefix(), class.sticky_seconds().unwrap_or(0))
}

fn choose_chain(class: Class) -> String {
    format!("{}choose-{}", class.view().prefix(), class.endpoints())
}

fn spill_chain(class: Class) -> String {
    format!("{}spill-{}", class.view().prefix(), class.endpoints())
}

fn plain(rules: Vec<Rule>) -> Chain {
    Chain { hook: None, rules }
}

fn base(point: HookPoint, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { hook: Some(Hook { point, priority }), rules }
}

fn rule(comment: &str, parts: impl IntoIterator<Item = Vec<Expr>>) -> Rule {
    Rule { exprs: parts.into_iter().flatten().collect(), comment: comment.into() }
}

fn is_protocol(number: u8) -> Vec<Expr> {
    vec![
        Expr::L4Proto { dst: Reg(0) },
        Expr::Cmp { src: Reg(0), equal: true, value: Packed::from_bytes(&[number]).unwrap_or_default() },
    ]
}

/// TCP clients learn of it at once by a reset: an ICMP error that arrives while the same machine's connect() still holds
/// its socket is lost, and the client would try again after a second.
fn refusal(comment: &str) -> Vec<Rule> {
    vec![
        rule(comment, [is_protocol(TCP), vec![Expr::Counter, Expr::Reject(Rejection::TcpReset)]]),
        rule(comment, [vec![Expr::Counter, Expr::Reject(Rejection::PortUnreachable)]]),
    ]
}

/// Where values stand in the registers, which depends on the length of an address.
#[derive(Clone, Copy)]
struct Registers {
    family: Family,
}

/// pad, endpoint address, endpoint port, then a frontend and one more: fills all sixteen registers in IPv6.
struct StickyRegisters {
    pad: Reg,
    ip: Reg,
    port: Reg,
    key: Reg,
    last: Reg,
}

impl Registers {
    fn words(self) -> u8 {
        (self.family.addr_len() / 4) as u8
    }

    /// daddr . l4proto . dport
    fn key(self, at: Reg) -> Vec<Expr> {
        let next = Reg(at.0 + self.words());
        vec![Expr::daddr(self.family, at), Expr::L4Proto { dst: next }, Expr::dport(Reg(next.0 + 1))]
    }

    fn after_key(self, at: Reg) -> Reg {
        Reg(at.0 + self.words() + 2)
    }

    /// Leaves the class for clients inside or outside in register 2, where the key began.
    fn class(self, inside: bool) -> Vec<Expr> {
        let dst = if inside { Reg(1) } else { Reg(0) };
        let mut exprs = self.key(Reg(2));
        exprs.push(Expr::lookup(SERVICES, Reg(2), Target::Reg(dst)));
        exprs
    }

    fn dispatch(self, inside: bool, map: &str) -> Vec<Expr> {
        [self.class(inside), vec![Expr::lookup(map, Reg(2), Target::Verdict)]].concat()
    }

    fn client_in_internal(self, target: Target) -> Vec<Expr> {
        vec![Expr::saddr(self.family, Reg(0)), Expr::lookup(INTERNAL, Reg(0), target)]
    }

    fn guard(self) -> Rule {
        let after = self.after_key(Reg(0));
        let admitted = vec![
            Expr::lookup(GUARDED, Reg(0), Target::Match),
            Expr::saddr(self.family, after),
            Expr::lookup(ADMITTED, Reg(0), Target::Absent),
            Expr::Counter,
            Expr::Verdict(Verdict::Drop),
        ];
        rule("client outside loadBalancerSourceRanges", [self.key(Reg(0)), admitted])
    }

    /// An address of the Service network that stands on this very node (the cluster's DNS) is left alone.
    fn unserved_in(self, set: &str, comment: &str) -> Rule {
        let exprs = vec![
            Expr::daddr(self.family, Reg(0)),
            Expr::lookup(set, Reg(0), Target::Match),
            Expr::FibDaddrType { dst: Reg(0) },
            Expr::Cmp { src: Reg(0), equal: false, value: Packed::new().number(RTN_LOCAL) },
            Expr::Verdict(Verdict::Goto("unserved".into())),
        ];
        rule(comment, [exprs])
    }

    fn prerouting(self) -> Vec<Rule> {
        vec![
            self.guard(),
            rule(
                "clients inside: (ip daddr . meta l4proto . th dport map @services, 2nd word) vmap @pick",
                [self.client_in_internal(Target::Match), self.dispatch(true, PICK)],
            ),
            rule(
                "clients outside: (ip daddr . meta l4proto . th dport map @services, 3rd word) vmap @pick",
                [self.dispatch(false, PICK)],
            ),
            self.unserved_in(ADDRESSES, "unused port of a ClusterIP"),
            self.unserved_in(SERVICE_CIDRS, "unused address of the Service network"),
        ]
    }

    fn output(self) -> Vec<Rule> {
        vec![
            self.guard(),
            rule(
                "this node: (ip daddr . meta l4proto . th dport map @services, 2nd word) vmap @pick",
                [self.dispatch(true, PICK)],
            ),
            self.unserved_in(ADDRESSES, "unused port of a ClusterIP"),
            self.unserved_in(SERVICE_CIDRS, "unused address of the Service network"),
        ]
    }

    /// Ports are refused; whatever has none (ping) gets no answer, as a Service's address never has.
    fn unserved(self) -> Vec<Rule> {
        let unreachable = || vec![Expr::Counter, Expr::Reject(Rejection::PortUnreachable)];
        vec![
            rule("nobody serves here", [is_protocol(TCP), vec![Expr::Counter, Expr::Reject(Rejection::TcpReset)]]),
            rule("nobody serves here", [is_protocol(17), unreachable()]),
            rule("nobody serves here", [is_protocol(132), unreachable()]),
            rule("a Service's address answers no ping", [vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]]),
        ]
    }

    fn translated() -> Vec<Expr> {
        vec![
            Expr::Ct { key: CtKey::Status, dst: Reg(0) },
            Expr::And { reg: Reg(0), mask: STATUS_DNAT },
            Expr::Cmp { src: Reg(0), equal: false, value: Packed::new().number(0) },
        ]
    }

    fn postrouting(self) -> Vec<Rule> {
        let pair = vec![
            Expr::saddr(self.family, Reg(0)),
            Expr::daddr(self.family, Reg(self.words())),
            Expr::lookup(HAIRPIN, Reg(0), Target::Match),
        ];
        let from_here = vec![
            Expr::FibSaddrType { dst: Reg(0) },
            Expr::Cmp { src: Reg(0), equal: true, value: Packed::new().number(RTN_LOCAL) },
        ];
        let outside = || self.client_in_internal(Target::Absent);
        let masquerade = || vec![Expr::Masquerade];
        let translated = |comment, conditions: Vec<Vec<Expr>>| {
            rule(comment, [Self::translated()].into_iter().chain(conditions).chain([masquerade()]))
        };
        vec![
            translated("an endpoint that reaches itself", vec![pair]),
            translated("this node: its address was chosen for the frontend", vec![from_here]),
            translated("answers must come back through this node", vec![self.original_in(MASQUERADE)]),
            translated(
                "clients outside must be answered through this node",
                vec![self.original_in(MASQUERADE_OUTSIDE), outside()],
            ),
        ]
    }

    fn original_in(self, set: &str) -> Vec<Expr> {
        let words = self.words();
        vec![
            Expr::Ct { key: CtKey::OriginalDaddr, dst: Reg(0) },
            Expr::L4Proto { dst: Reg(words) },
            Expr::Ct { key: CtKey::OriginalDport, dst: Reg(words + 1) },
            Expr::lookup(set, Reg(0), Target::Match),
        ]
    }

    fn chains_of(self, class: Class) -> Vec<(String, Vec<Rule>)> {
        match class.sticky_seconds() {
            None => vec![(pick_chain(class), self.pick(class))],
            Some(seconds) => vec![
                (sticky_chain(class), self.sticky(class.view(), seconds)),
                (choose_chain(class), vec![self.choose(class)]),
                (spill_chain(class), vec![self.spill(class)]),
            ],
        }
    }

    /// The last rule is for the moment in which a change of the endpoint count is half seen: slot 0 exists always.
    fn pick(self, class: Class) -> Vec<Rule> {
        let slot = self.after_key(Reg(0));
        let chosen = vec![
            Expr::Random { modulus: class.endpoints() as u32, dst: slot },
            Expr::lookup(class.view().endpoints(), Reg(0), Target::Reg(Reg(0))),
            Expr::Dnat { addr: Reg(0), port: Reg(self.words()) },
        ];
        let mut rules = vec![rule("", [self.key(Reg(0)), chosen])];
        if class.endpoints() > 1 {
            let first = pick_chain(Class::new(class.view(), None, 1));
            rules.push(rule("slot is gone: take the first", [vec![Expr::Verdict(Verdict::Goto(first.into()))]]));
        }
        rules
    }

    fn sticky_registers(self) -> StickyRegisters {
        let words = self.words();
        let (ip, port) = (Reg(1), Reg(1 + words));
        let key = Reg(port.0 + 1);
        StickyRegisters { pad: Reg(0), ip, port, key, last: Reg(key.0 + words + 2) }
    }

    /// What nft's printer takes for the endpoint: see the module's words on registers.
    fn decoys(self, r: &StickyRegisters) -> Vec<Expr> {
        vec![Expr::daddr(self.family, r.ip), Expr::dport(r.port)]
    }

    fn remembered(self, view: View, seconds: u32, comment: &str) -> Rule {
        let r = self.sticky_registers();
        let find = vec![
            Expr::saddr(self.family, r.last),
            Expr::lookup(CLIENTS, r.key, Target::Reg(r.pad)),
            Expr::Immediate { dst: r.pad, value: Packed::new().number(0) },
            Expr::lookup(view.sticky_live(), r.ip, Target::Match),
            Expr::Dynset {
                set: CLIENTS.into(),
                op: Update::Update,
                key: r.key,
                data: r.pad,
                timeout_ms: u64::from(seconds) * 1000,
            },
            Expr::Dnat { addr: r.ip, port: r.port },
        ];
        rule(comment, [self.decoys(&r), self.key(r.key), find])
    }

    fn sticky(self, view: View, seconds: u32) -> Vec<Rule> {
        let inside = view == View::Near;
        vec![
            self.remembered(view, seconds, "known client whose endpoint lives"),
            rule("choose an endpoint and remember it", [self.dispatch(inside, CHOOSE)]),
            self.remembered(view, seconds, "the endpoint just chosen"),
            rule("no room to remember: any endpoint", [self.dispatch(inside, SPILL)]),
        ]
    }

    /// Writes down a random endpoint for the client. Deletes first: adding never changes what an element holds.
    fn choose(self, class: Class) -> Rule {
        let r = self.sticky_registers();
        let dynset = |op| Expr::Dynset { set: CLIENTS.into(), op, key: r.key, data: r.pad, timeout_ms: 0 };
        let remember = vec![
            Expr::Random { modulus: class.endpoints() as u32, dst: r.last },
            Expr::lookup(class.view().sticky_endpoints(), r.key, Target::Reg(r.pad)),
            Expr::Immediate { dst: r.pad, value: Packed::new().number(0) },
            Expr::saddr(self.family, r.last),
            dynset(Update::Delete),
            dynset(Update::Add),
        ];
        rule(
            "random endpoint of @sticky-endpoints, remembered in @clients",
            [self.decoys(&r), self.key(r.key), remember],
        )
    }

    fn spill(self, class: Class) -> Rule {
        let r = self.sticky_registers();
        let go = vec![
            Expr::Random { modulus: class.endpoints() as u32, dst: r.last },
            Expr::lookup(class.view().sticky_endpoints(), r.key, Target::Reg(r.pad)),
            Expr::Dnat { addr: r.ip, port: r.port },
        ];
        rule("random endpoint of @sticky-endpoints", [self.decoys(&r), self.key(r.key), go])
    }
}
