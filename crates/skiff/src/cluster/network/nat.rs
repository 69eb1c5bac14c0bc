//! The way out: what leaves a node for elsewhere takes the node's address (two clusters of one host may have pods of the
//! same address), and what leaves the host takes the host's. A table for each, which belongs to the daemon's socket; where
//! the kernel can, it outlives a killed daemon so that pods keep their way out.
//!
//! The same table keeps connection tracking away from the node's DNS server: nothing is translated there, and a tracker that
//! is full, or that is surprised by the questions for A and AAAA at once, drops one of them, which costs five seconds.

use std::net::IpAddr;

use ipnet::IpNet;
use skiff_nft::{
    BEFORE_TRACKING, Chain, Data, Error, Expr, Family, Field, Header, Hook, HookPoint, Kernel, Layout, Netlink,
    Ownership, Packed, Reg, Rule, Set, SetSpec, Table, TableRef, Target, Value, diff,
};

/// Where the priority of source NAT stands and ours (nftables(8): srcnat).
const SOURCE_NAT: i32 = 100;
const FROM: &str = "from";
const KEEP: &str = "keep";
/// As it stands in a packet.
const DNS_PORT: [u8; 2] = 53u16.to_be_bytes();

/// Keeps others from changing the table for as long as it lives.
#[derive(Debug)]
pub(crate) struct WayOut(#[expect(dead_code, reason = "its socket owns the table")] Netlink);

/// Addresses from the first to the last.
pub(crate) type Range = (IpAddr, IpAddr);

pub(crate) fn all_of(net: IpNet) -> Range {
    (net.network(), net.broadcast())
}

/// What comes from one of the ranges `from` and goes to none of those to `keep` takes the address of the device that it
/// leaves by, in each family that has such ranges. What is said with the DNS server at `dns` is not tracked. Call on a thread
/// in the namespace that is left.
pub(crate) fn open(cluster: &str, from: &[Range], keep: &[Range], dns: Option<IpAddr>) -> Result<WayOut, Error> {
    let mut kernel = Netlink::open(Ownership::Exclusive)?;
    for family in FAMILIES {
        let of = |ranges: &[Range]| -> Vec<Range> { ranges.iter().copied().filter(|r| is_of(family, r)).collect() };
        let (from, keep) = (of(from), of(keep));
        let untracked = dns.filter(|ip| Family::of(*ip) == family).map(|ip| untracked(family, ip));
        let wanted = (!from.is_empty()).then(|| table(family, &from, &keep, untracked));
        make(&mut kernel, family, cluster, wanted.as_ref())?;
    }
    Ok(WayOut(kernel))
}

const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

fn is_of(family: Family, range: &Range) -> bool {
    range.0.is_ipv4() == (family == Family::Ip)
}

/// Removes what a daemon left.
pub(crate) fn close(cluster: &str) -> Result<(), Error> {
    let mut kernel = Netlink::open(Ownership::Exclusive)?;
    FAMILIES.into_iter().try_for_each(|family| make(&mut kernel, family, cluster, None))
}

fn make(kernel: &mut Netlink, family: Family, cluster: &str, want: Option<&Table>) -> Result<(), Error> {
    let id = TableRef::new(family, &format!("skiff-{cluster}"));
    let batch = diff(&id, kernel.dump(&id)?.as_ref(), want);
    if batch.is_empty() { Ok(()) } else { kernel.commit(&batch) }
}

type Chains = [(String, Chain); 2];

fn table(family: Family, from: &[Range], keep: &[Range], untracked: Option<Chains>) -> Table {
    let comment = "what leaves the cluster for elsewhere".into();
    // Addresses of IPv6 fill four registers.
    let (source, target) = (Reg(0), Reg(4));
    let exprs = vec![
        Expr::saddr(family, source),
        Expr::lookup(FROM, source, Target::Match),
        Expr::daddr(family, target),
        Expr::lookup(KEEP, target, Target::Absent),
        Expr::Masquerade,
    ];
    let hook = Some(Hook { point: HookPoint::Postrouting, priority: SOURCE_NAT });
    let masquerade = ("postrouting".into(), Chain { hook, rules: vec![Rule { exprs, comment }] });
    Table {
        sets: [(FROM.into(), set(from)), (KEEP.into(), set(keep))].into(),
        chains: untracked.into_iter().flatten().chain([masquerade]).collect(),
    }
}

/// Questions to the server and its answers: from pods, and from the node itself.
fn untracked(family: Family, dns: IpAddr) -> Chains {
    let (ip, port) = (Reg(0), Reg(4));
    let is = |src, value| Expr::Cmp { src, equal: true, value };
    let rule = |address: Expr, of_port: Expr, comment: &str| Rule {
        exprs: vec![
            address,
            is(ip, Packed::new().addr(dns)),
            of_port,
            is(port, Packed::from_bytes(&DNS_PORT).unwrap_or_default()),
            Expr::NoTrack,
        ],
        comment: comment.into(),
    };
    let source_port = Expr::Payload { header: Header::Transport, offset: 0, len: 2, dst: port };
    let questions = || rule(Expr::daddr(family, ip), Expr::dport(port), "questions for the node's DNS server");
    let answers = rule(Expr::saddr(family, ip), source_port, "its answers");
    let chain = |point, rules| Chain { hook: Some(Hook { point, priority: BEFORE_TRACKING }), rules };
    [
        ("dns-in".into(), chain(HookPoint::Prerouting, vec![questions()])),
        ("dns-out".into(), chain(HookPoint::Output, vec![questions(), answers])),
    ]
}

fn set(ranges: &[Range]) -> Set {
    let spec = SetSpec { key: vec![Field::Addr], layout: Layout::Interval, ..SetSpec::default() };
    let address = |ip| Packed::new().addr(ip);
    let value = |last| Value { end: Some(Box::new(address(last))), data: Data::None, comment: None };
    Set { spec, elements: ranges.iter().map(|(first, last)| (address(*first), value(*last))).collect() }
}
