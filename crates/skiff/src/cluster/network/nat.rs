//! The way out: what leaves the cluster for elsewhere takes the host's address. One table on the host, which belongs to
//! the daemon's socket; where the kernel can, it outlives a killed daemon so that pods keep their way out.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use skiff_nft::{
    Chain, Data, Element, Error, Expr, Family, Field, Hook, HookPoint, Kernel, Layout, Netlink, Ownership, Packed, Reg,
    Rule, Set, SetSpec, Table, TableRef, Target, Value, diff,
};

/// Where the priority of source NAT stands and ours (nftables(8): srcnat).
const SOURCE_NAT: i32 = 100;
const INSIDE: &str = "inside";

/// Keeps others from changing the table for as long as it lives.
#[derive(Debug)]
pub(crate) struct WayOut(#[expect(dead_code, reason = "its socket owns the table")] Netlink);

/// Opens the way out for these ranges. Call on a thread in the host's namespace.
pub(crate) fn open(cluster: &str, inside: &[Ipv4Net]) -> Result<WayOut, Error> {
    let mut kernel = Netlink::open(Ownership::Exclusive)?;
    make(&mut kernel, cluster, Some(&table(inside)))?;
    Ok(WayOut(kernel))
}

/// Removes what a daemon left.
pub(crate) fn close(cluster: &str) -> Result<(), Error> {
    make(&mut Netlink::open(Ownership::Exclusive)?, cluster, None)
}

fn make(kernel: &mut Netlink, cluster: &str, want: Option<&Table>) -> Result<(), Error> {
    let id = TableRef::new(Family::Ip, &format!("skiff-{cluster}"));
    let batch = diff(&id, kernel.dump(&id)?.as_ref(), want);
    if batch.is_empty() { Ok(()) } else { kernel.commit(&batch) }
}

fn table(inside: &[Ipv4Net]) -> Table {
    let spec = SetSpec { key: vec![Field::Addr], layout: Layout::Interval, ..SetSpec::default() };
    let elements = inside.iter().map(range).map(|e| (e.key, e.value)).collect();
    let comment = "what leaves the cluster for elsewhere".into();
    let (from, to) = (Reg(0), Reg(1));
    let exprs = vec![
        Expr::saddr(Family::Ip, from),
        Expr::lookup(INSIDE, from, Target::Match),
        Expr::daddr(Family::Ip, to),
        Expr::lookup(INSIDE, to, Target::Absent),
        Expr::Masquerade,
    ];
    let hook = Some(Hook { point: HookPoint::Postrouting, priority: SOURCE_NAT });
    Table {
        sets: [(INSIDE.into(), Set { spec, elements })].into(),
        chains: [("postrouting".into(), Chain { hook, rules: vec![Rule { exprs, comment }] })].into(),
    }
}

fn range(net: &Ipv4Net) -> Element {
    let address = |ip| Packed::new().addr(IpAddr::V4(ip));
    let value = Value { end: Some(address(net.broadcast())), data: Data::None, comment: None };
    Element { key: address(net.network()), value }
}
