//! A table as text: for golden tests, for `explain`, for people. Close to nft's language; where that cannot say what a
//! rule does (a look-up fed into another), this says it plainly.

use std::{
    fmt::{self, Write},
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    expr::{CtKey, Expr, Header, Rejection, Target, Update},
    packed::Packed,
    value::{Chain, Data, DataKind, Family, Field, HookPoint, Layout, Rule, Set, Table, TableRef, Value, Verdict},
};

pub fn render(id: &TableRef, table: &Table) -> String {
    let mut out = String::new();
    write_table(&mut out, id, table).expect("writing into a String does not fail");
    out
}

fn write_table(out: &mut String, id: &TableRef, table: &Table) -> fmt::Result {
    writeln!(out, "table {id} {{")?;
    for (name, set) in &table.sets {
        write_set(out, id.family, name, set)?;
    }
    for (name, chain) in &table.chains {
        write_chain(out, id.family, name, chain)?;
    }
    writeln!(out, "}}")
}

fn write_set(out: &mut String, family: Family, name: &str, set: &Set) -> fmt::Result {
    let spec = &set.spec;
    let kind = if spec.data == DataKind::None { "set" } else { "map" };
    write!(out, "  {kind} {name} {{ {}", type_names(&spec.key))?;
    match &spec.data {
        DataKind::None => {}
        DataKind::Verdict => write!(out, " : verdict")?,
        DataKind::Fields(fields) => write!(out, " : {}", type_names(fields))?,
    }
    match spec.layout {
        Layout::Exact => {}
        Layout::Interval | Layout::Ranges => write!(out, "; interval")?,
        Layout::Dynamic { timeout_ms, size } => write!(out, "; dynamic, timeout {}s, size {size}", timeout_ms / 1000)?,
    }
    writeln!(out)?;
    for (key, value) in &set.elements {
        writeln!(out, "    {}", element(family, set, key, value))?;
    }
    writeln!(out, "  }}")
}

fn type_names(fields: &[Field]) -> String {
    let name = |f: &Field| match f {
        Field::Addr => "addr",
        Field::Proto => "proto",
        Field::Port => "port",
        Field::Number => "slot",
        Field::Mark => "mark",
    };
    fields.iter().map(name).collect::<Vec<_>>().join(" . ")
}

/// One element as text, with its comment.
fn element(family: Family, set: &Set, key: &Packed, value: &Value) -> String {
    let mut out = packed(family, &set.spec.key, key);
    if let Some(end) = &value.end {
        out = format!("{out} - {}", packed(family, &set.spec.key, end));
    }
    match (&value.data, &set.spec.data) {
        (Data::Packed(data), DataKind::Fields(fields)) => out = format!("{out} : {}", packed(family, fields, data)),
        (Data::Verdict(v), _) => out = format!("{out} : {}", verdict(v)),
        _ => {}
    }
    match &value.comment {
        Some(comment) => format!("{out} \"{comment}\""),
        None => out,
    }
}

fn packed(family: Family, fields: &[Field], value: &Packed) -> String {
    let mut rest = value.as_bytes();
    let mut out = vec![];
    for field in fields {
        let Some((head, tail)) = rest.split_at_checked(field.len(family)) else { break };
        out.push(one(*field, head));
        rest = tail;
    }
    out.join(" . ")
}

fn one(field: Field, b: &[u8]) -> String {
    let word = |b: &[u8]| b.try_into().map_or(0, u32::from_ne_bytes);
    match field {
        Field::Addr => match (<[u8; 4]>::try_from(b), <[u8; 16]>::try_from(b)) {
            (Ok(v4), _) => Ipv4Addr::from(v4).to_string(),
            (_, Ok(v6)) => Ipv6Addr::from(v6).to_string(),
            _ => String::new(),
        },
        Field::Proto => match b.first() {
            Some(6) => "tcp".into(),
            Some(17) => "udp".into(),
            Some(132) => "sctp".into(),
            other => format!("{}", other.copied().unwrap_or_default()),
        },
        Field::Port => format!("{}", u16::from_be_bytes([b[0], b[1]])),
        Field::Number => format!("{}", word(b)),
        Field::Mark => format!("{:#x}", word(b)),
    }
}

fn write_chain(out: &mut String, family: Family, name: &str, chain: &Chain) -> fmt::Result {
    write!(out, "  chain {name} {{")?;
    if let Some(hook) = chain.hook {
        let point = HookPoint::ALL.iter().find(|(p, ..)| *p == hook.point).map_or("?", |(.., n)| *n);
        write!(out, " {} {point} {}", hook.kind(), hook.priority)?;
    }
    writeln!(out)?;
    for rule in &chain.rules {
        writeln!(out, "    {}", write_rule(family, rule))?;
    }
    writeln!(out, "  }}")
}

fn write_rule(family: Family, rule: &Rule) -> String {
    let mut out = rule.exprs.iter().map(|e| expr(family, e)).collect::<Vec<_>>().join("; ");
    if !rule.comment.is_empty() {
        let _ = write!(out, " \"{}\"", rule.comment);
    }
    out
}

fn verdict(v: &Verdict) -> String {
    match v {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Return => "return".into(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn expr(family: Family, e: &Expr) -> String {
    match e {
        Expr::Payload { header, offset, dst, .. } => format!("r{} = {}", dst.0, payload(family, *header, *offset)),
        Expr::L4Proto { dst } => format!("r{} = meta l4proto", dst.0),
        Expr::Ct { key, dst } => {
            let name = match key {
                CtKey::Status => "ct status",
                CtKey::OriginalDaddr => "ct original daddr",
                CtKey::OriginalDport => "ct original proto-dst",
            };
            format!("r{} = {name}", dst.0)
        }
        Expr::FibDaddrType { dst } => format!("r{} = fib daddr type", dst.0),
        Expr::FibSaddrType { dst } => format!("r{} = fib saddr type", dst.0),
        Expr::And { reg, mask } => format!("r{} &= {mask:#x}", reg.0),
        Expr::Cmp { src, equal, value } => format!("r{} {} {value:?}", src.0, if *equal { "==" } else { "!=" }),
        Expr::Immediate { dst, value } => format!("r{} = {value:?}", dst.0),
        Expr::Verdict(v) => verdict(v),
        Expr::Lookup { set, src, target } => match target {
            Target::Match => format!("r{} in @{set}", src.0),
            Target::Absent => format!("r{} not in @{set}", src.0),
            Target::Reg(dst) => format!("r{} = @{set}[r{}]", dst.0, src.0),
            Target::Verdict => format!("verdict @{set}[r{}]", src.0),
        },
        Expr::Random { modulus, dst } => format!("r{} = random mod {modulus}", dst.0),
        Expr::Dynset { set, op, key, data, timeout_ms } => {
            let op = match op {
                Update::Add => "add",
                Update::Update => "update",
                Update::Delete => "delete",
            };
            format!("{op} @{set}[r{}] = r{} timeout {}s", key.0, data.0, timeout_ms / 1000)
        }
        Expr::Dnat { addr, port } => format!("dnat to r{}:r{}", addr.0, port.0),
        Expr::Masquerade => "masquerade fully-random".into(),
        Expr::Reject(Rejection::TcpReset) => "reject with tcp reset".into(),
        Expr::Reject(Rejection::PortUnreachable) => "reject with port unreachable".into(),
        Expr::NoTrack => "notrack".into(),
        Expr::Counter => "counter".into(),
        Expr::Foreign(name) => format!("foreign {name}"),
    }
}

fn payload(family: Family, header: Header, offset: u32) -> &'static str {
    match (header, family, offset) {
        (Header::Network, Family::Ip, 12) | (Header::Network, Family::Ip6, 8) => "saddr",
        (Header::Network, Family::Ip, 16) | (Header::Network, Family::Ip6, 24) => "daddr",
        (Header::Transport, _, 2) => "dport",
        _ => "payload",
    }
}
