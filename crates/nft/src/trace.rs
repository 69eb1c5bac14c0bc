//! Asks a table where a packet would go, by running its rules on registers as the kernel does. Where the kernel would
//! throw dice, the trace follows every side and says how likely each is.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    expr::{CtKey, Expr, Header, Reg, Rejection, Target, Update},
    packed::Packed,
    value::{Data, HookPoint, Layout, Set, Table, Verdict},
};

/// Jumps deeper than this are refused by the kernel.
const MAX_DEPTH: usize = 16;
const STATUS_DNAT: u32 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Came in by an interface.
    Outside,
    /// Sent by a process of this node.
    Node,
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub origin: Origin,
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    pub proto: u8,
    pub dport: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The rules have nothing to say about it.
    Untouched,
    Drop,
    Reset,
    Unreachable,
    To {
        endpoint: SocketAddr,
        masqueraded: bool,
    },
}

/// What can happen to a packet, with the probability of each; they add up to one.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Outcome {
    pub fates: BTreeMap<Fate, f64>,
    /// What the rules would remember (map, key, data): for a second packet of the same client.
    pub remembered: Vec<(Arc<str>, Packed, Packed)>,
}

impl Outcome {
    /// The endpoints that it may reach.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let to = |f: &Fate| if let Fate::To { endpoint, .. } = f { Some(*endpoint) } else { None };
        self.fates.keys().filter_map(to).collect()
    }
}

/// What else the kernel knows.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Addresses of the node itself.
    pub local: Vec<IpAddr>,
    /// What earlier packets left in dynamic maps.
    pub remembered: HashMap<(Arc<str>, Packed), Packed>,
}

#[derive(Clone, Debug)]
struct Branch {
    registers: [u8; 64],
    share: f64,
    memory: HashMap<(Arc<str>, Packed), Option<Packed>>,
    translated: Option<SocketAddr>,
    masqueraded: bool,
}

enum Step {
    Next,
    /// The rule does not match: on to the next rule.
    NoMatch,
    Verdict(Verdict),
    Done(Fate),
}

struct Tracer<'a> {
    table: &'a Table,
    world: &'a World,
    packet: Packet,
    /// The packet as it stands at the hook that is being run.
    daddr: IpAddr,
    dport: u16,
}

/// Runs the packet through the hooks of its way.
pub fn trace(table: &Table, world: &World, packet: Packet) -> Outcome {
    let first = if packet.origin == Origin::Outside { HookPoint::Prerouting } else { HookPoint::Output };
    let tracer = Tracer { table, world, packet, daddr: packet.daddr, dport: packet.dport };
    let start = Branch { registers: [0; 64], share: 1.0, memory: HashMap::new(), translated: None, masqueraded: false };
    let mut outcome = Outcome::default();
    for (branch, fate) in tracer.hook(first, start) {
        if fate != Fate::Untouched {
            tracer.record(&mut outcome, branch, fate);
            continue;
        }
        let mut after = Tracer { ..tracer };
        if let Some(to) = branch.translated {
            (after.daddr, after.dport) = (to.ip(), to.port());
        }
        for (branch, fate) in after.hook(HookPoint::Postrouting, branch) {
            after.record(&mut outcome, branch, fate);
        }
    }
    outcome
}

impl Tracer<'_> {
    fn record(&self, outcome: &mut Outcome, branch: Branch, fate: Fate) {
        let fate = match (fate, branch.translated) {
            (Fate::Untouched, Some(endpoint)) => Fate::To { endpoint, masqueraded: branch.masqueraded },
            (fate, _) => fate,
        };
        *outcome.fates.entry(fate).or_default() += branch.share;
        let kept = branch.memory.into_iter().filter_map(|((set, key), data)| Some((set, key, data?)));
        outcome.remembered.extend(kept);
    }

    fn hook(&self, point: HookPoint, branch: Branch) -> Vec<(Branch, Fate)> {
        let chains = self.table.chains.iter().filter(|(_, c)| c.hook.is_some_and(|h| h.point == point));
        let mut ended = vec![];
        let mut running = vec![branch];
        for (name, _) in chains {
            running = running.drain(..).flat_map(|b| self.chain(name, b, 0, &mut ended)).collect();
        }
        ended.extend(running.into_iter().map(|b| (b, Fate::Untouched)));
        ended
    }

    /// The branches that come to the end of the chain without a verdict. Those that meet their fate go into `ended`.
    fn chain(&self, name: &str, branch: Branch, depth: usize, ended: &mut Vec<(Branch, Fate)>) -> Vec<Branch> {
        let mut running = vec![branch];
        let mut out = vec![];
        let Some(chain) = self.table.chains.get(name).filter(|_| depth < MAX_DEPTH) else { return running };
        for rule in &chain.rules {
            let mut next = vec![];
            for branch in running {
                for (branch, step) in self.rule(&rule.exprs, branch) {
                    match step {
                        Step::Next | Step::NoMatch => next.push(branch),
                        Step::Done(fate) => ended.push((branch, fate)),
                        Step::Verdict(Verdict::Accept) => ended.push((branch, Fate::Untouched)),
                        Step::Verdict(Verdict::Drop) => ended.push((branch, Fate::Drop)),
                        Step::Verdict(Verdict::Return) => out.push(branch),
                        Step::Verdict(Verdict::Jump(to)) => next.extend(self.chain(&to, branch, depth + 1, ended)),
                        Step::Verdict(Verdict::Goto(to)) => out.extend(self.chain(&to, branch, depth + 1, ended)),
                    }
                }
            }
            running = next;
        }
        out.extend(running);
        out
    }

    /// Runs one rule; only dice make more than one branch of it.
    fn rule(&self, exprs: &[Expr], mut branch: Branch) -> Vec<(Branch, Step)> {
        for (i, e) in exprs.iter().enumerate() {
            if let Expr::Random { modulus, dst } = e {
                let sides = (*modulus).max(1);
                let roll = |side: u32| {
                    let mut b = branch.clone();
                    b.share /= f64::from(sides);
                    b.put(*dst, &side.to_ne_bytes());
                    self.rule(&exprs[i + 1..], b)
                };
                return (0..sides).flat_map(roll).collect();
            }
            match self.step(e, &mut branch) {
                Step::Next => {}
                other => return vec![(branch, other)],
            }
        }
        vec![(branch, Step::Next)]
    }

    fn step(&self, e: &Expr, b: &mut Branch) -> Step {
        match e {
            Expr::Payload { header, offset, len, dst } => match self.payload(*header, *offset, *len) {
                Some(bytes) => b.put(*dst, &bytes),
                None => return Step::NoMatch,
            },
            Expr::L4Proto { dst } => b.put(*dst, &[self.packet.proto]),
            Expr::Ct { key, dst } => match key {
                CtKey::Status => b.put(*dst, &if b.translated.is_some() { STATUS_DNAT } else { 0 }.to_ne_bytes()),
                CtKey::OriginalDaddr => b.put(*dst, &octets(self.packet.daddr)),
                CtKey::OriginalDport => b.put(*dst, &self.packet.dport.to_be_bytes()),
            },
            Expr::FibDaddrType { dst } => b.put(*dst, &self.fib_type(self.daddr)),
            Expr::FibSaddrType { dst } => b.put(*dst, &self.fib_type(self.packet.saddr)),
            Expr::And { reg, mask } => {
                let value = Packed::from_bytes(b.get(*reg, 4)).and_then(|p| p.number_at(0)).unwrap_or(0);
                b.put(*reg, &(value & mask).to_ne_bytes());
            }
            Expr::Cmp { src, equal, value } => {
                if (b.get(*src, value.as_bytes().len()) == value.as_bytes()) != *equal {
                    return Step::NoMatch;
                }
            }
            Expr::Immediate { dst, value } => b.put(*dst, value.as_bytes()),
            Expr::Verdict(v) => return Step::Verdict(v.clone()),
            Expr::Lookup { set, src, target } => return self.lookup(b, set, *src, *target),
            Expr::Dynset { set, op, key, data, .. } => self.dynset(b, set, *op, *key, *data),
            Expr::Dnat { addr, port } => {
                b.translated = b.socket(*addr, *port, self.packet.daddr.is_ipv4());
                return Step::Verdict(Verdict::Accept);
            }
            Expr::Masquerade => {
                b.masqueraded = true;
                return Step::Verdict(Verdict::Accept);
            }
            Expr::Reject(Rejection::TcpReset) => return Step::Done(Fate::Reset),
            Expr::Reject(Rejection::PortUnreachable) => return Step::Done(Fate::Unreachable),
            Expr::NoTrack | Expr::Counter | Expr::Random { .. } => {}
            Expr::Foreign(_) => return Step::NoMatch,
        }
        Step::Next
    }

    /// RTN_LOCAL or RTN_UNICAST.
    fn fib_type(&self, ip: IpAddr) -> [u8; 4] {
        let kind: u32 = if self.world.local.contains(&ip) { 2 } else { 1 };
        kind.to_ne_bytes()
    }

    fn payload(&self, header: Header, offset: u32, len: u32) -> Option<Vec<u8>> {
        let v4 = self.packet.daddr.is_ipv4();
        match (header, offset, len) {
            (Header::Network, 12, 4) if v4 => Some(octets(self.packet.saddr)),
            (Header::Network, 16, 4) if v4 => Some(octets(self.daddr)),
            (Header::Network, 8, 16) if !v4 => Some(octets(self.packet.saddr)),
            (Header::Network, 24, 16) if !v4 => Some(octets(self.daddr)),
            // ICMP has no ports there, but the kernel reads the bytes all the same.
            (Header::Transport, 2, 2) => Some(self.dport.to_be_bytes().to_vec()),
            _ => None,
        }
    }

    fn lookup(&self, b: &mut Branch, name: &Arc<str>, src: Reg, target: Target) -> Step {
        let Some(set) = self.table.sets.get(&**name) else { return Step::NoMatch };
        let len = set.spec.key_len(crate::Family::of(self.packet.daddr));
        let Some(key) = Packed::from_bytes(b.get(src, len)) else { return Step::NoMatch };
        let found = self.find(b, name, set, key);
        match (target, found) {
            (Target::Match, Some(_)) | (Target::Absent, None) => Step::Next,
            (Target::Reg(dst), Some(Data::Packed(data))) => {
                b.put(dst, data.as_bytes());
                Step::Next
            }
            (Target::Verdict, Some(Data::Verdict(v))) => Step::Verdict(v),
            _ => Step::NoMatch,
        }
    }

    fn find(&self, b: &Branch, name: &Arc<str>, set: &Set, key: Packed) -> Option<Data> {
        if set.spec.is_dynamic() {
            let id = (name.clone(), key);
            let known = match b.memory.get(&id) {
                Some(now) => *now,
                None => self.world.remembered.get(&id).copied(),
            };
            return known.map(Data::Packed);
        }
        match set.spec.layout {
            Layout::Exact => set.elements.get(&key).map(|v| v.data.clone()),
            _ => {
                let inside =
                    set.elements.iter().find(|(start, v)| in_range(set, self.packet, start, v.end.as_deref(), &key));
                inside.map(|(_, v)| v.data.clone())
            }
        }
    }

    fn dynset(&self, b: &mut Branch, name: &Arc<str>, op: Update, key: Reg, data: Reg) {
        let Some(set) = self.table.sets.get(&**name) else { return };
        let family = crate::Family::of(self.packet.daddr);
        let data_len: usize = match &set.spec.data {
            crate::DataKind::Fields(fields) => fields.iter().map(|f| f.len(family)).sum(),
            _ => 0,
        };
        let Some(key) = Packed::from_bytes(b.get(key, set.spec.key_len(family))) else { return };
        let value = Packed::from_bytes(b.get(data, data_len));
        let present = self.find(b, name, set, key).is_some();
        match op {
            Update::Delete => {
                b.memory.insert((name.clone(), key), None);
            }
            // An existing element keeps its data.
            Update::Add | Update::Update if present => {}
            Update::Add | Update::Update => {
                b.memory.insert((name.clone(), key), value);
            }
        }
    }
}

/// Field by field: a concatenation of ranges is a box, not a line.
fn in_range(set: &Set, packet: Packet, start: &Packed, end: Option<&Packed>, key: &Packed) -> bool {
    let family = crate::Family::of(packet.daddr);
    let (start, end, key) = (start.as_bytes(), end.unwrap_or(start).as_bytes(), key.as_bytes());
    let mut at = 0;
    set.spec.key.iter().all(|field| {
        let span = at..at + field.len(family);
        at = span.end;
        start[span.clone()] <= key[span.clone()] && key[span.clone()] <= end[span]
    })
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Branch {
    /// Writes whole words, as the kernel pads what is shorter.
    fn put(&mut self, reg: Reg, bytes: &[u8]) {
        let at = usize::from(reg.0) * 4;
        let padded = bytes.len().next_multiple_of(4);
        if let Some(words) = self.registers.get_mut(at..at + padded) {
            words.fill(0);
            words[..bytes.len()].copy_from_slice(bytes);
        }
    }

    fn get(&self, reg: Reg, len: usize) -> &[u8] {
        let at = usize::from(reg.0) * 4;
        self.registers.get(at..at + len).unwrap_or_default()
    }

    fn socket(&self, addr: Reg, port: Reg, v4: bool) -> Option<SocketAddr> {
        let ip = if v4 {
            IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(self.get(addr, 4)).ok()?))
        } else {
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(self.get(addr, 16)).ok()?))
        };
        let port = u16::from_be_bytes(self.get(port, 2).try_into().ok()?);
        Some(SocketAddr::new(ip, port))
    }
}
