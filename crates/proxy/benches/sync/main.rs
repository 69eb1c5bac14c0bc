//! What the proxy costs, at 100 to 30,000 Services: G7 a cold start (time, memory, processor), G8 one endpoint changed, G9
//! how long a connection takes to begin, G11 a Service made and gone (the rule's part), G12 an endpoint gone until the
//! last packet to it. Beside it, in the same run, the shape that kube-proxy gives its rules; loading that grows faster
//! than the number of Services, so its number is bounded.
//!
//! `cargo bench -p skiff-proxy --bench sync [-- MOST_SERVICES PEER_SERVICES]`; needs root or user namespaces. Every size is
//! measured in a process and a network namespace of its own.
#![allow(clippy::print_stdout, reason = "figures are the result")]

mod api;
mod cluster;
#[path = "../../tests/common/mod.rs"]
mod common;
mod connects;
mod figures;
mod peer;
mod rules;
mod whole;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use figures::MARK;
use whole::machine;

const INSIDE: &str = "SKIFF_BENCH_INSIDE";
const SIZES: [u32; 4] = [100, 1000, 10_000, 30_000];

/// By size and name, in seconds.
type Figures = BTreeMap<(u32, String), f64>;

/// Runs a part of the benchmark in namespaces of its own, and shows what it says.
fn apart(part: &str, services: u32, figures: &mut Figures) {
    let flags = if rustix::process::geteuid().is_root() { "-nm" } else { "-Urnm" };
    let me = std::env::current_exe().expect("own path");
    let mut command = Command::new("unshare");
    command.arg(flags).arg(me).args([part.to_owned(), services.to_string()]).env(INSIDE, "1").stdout(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return println!("SKIPPED: {part}: unshare is not installed") };
    for line in BufReader::new(child.stdout.take().expect("stdout")).lines().map_while(Result::ok) {
        let Some(figure) = line.strip_prefix(MARK) else {
            println!("{line}");
            continue;
        };
        let (name, value) = figure.split_once(' ').expect("name and value");
        figures.insert((services, name.into()), value.parse().expect("a number"));
    }
    if !child.wait().is_ok_and(|s| s.success()) {
        println!("SKIPPED: {part} with {services} Services: no network namespaces here, or it failed above");
    }
}

fn compare(figures: &Figures) {
    let get = |n: u32, name: &str| figures.get(&(n, name.into())).copied();
    for n in SIZES {
        let ratio = |ours: &str, theirs: &str| get(n, theirs).zip(get(n, ours)).map(|(theirs, ours)| theirs / ours);
        if let (Some(cold), Some(one)) = (ratio("cold", "peer-cold"), ratio("one", "peer-one")) {
            println!("kube-proxy's shape over ours at {n:6}: cold {cold:.0} times, one endpoint {one:.0} times");
        }
    }
    for name in ["one", "made", "event", "gone", "connect"] {
        let sizes: Vec<(u32, f64)> = SIZES.iter().filter_map(|n| Some((*n, get(*n, name)?))).collect();
        if let (Some((few, small)), Some((many, large))) = (sizes.first(), sizes.last()) {
            println!("{name:8} at {many} Services over {few}: {:.2}", large / small);
        }
    }
    let goals = [(10_000, "cold", 0.6), (30_000, "one", 0.001), (30_000, "event", 0.001), (30_000, "gone", 0.05)];
    for (n, name, goal) in goals {
        if let Some(value) = get(n, name) {
            println!("{name:8} at {n}: {:.2} of the goal ({goal} s)", value / goal);
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u32> = words.iter().filter_map(|a| a.parse().ok()).collect();
    if std::env::var_os(INSIDE).is_some() {
        return match words[0].as_str() {
            "rules" => rules::run(numbers[0]),
            "whole" => whole::run(numbers[0]),
            "connects" => connects::run(numbers[0]),
            _ => peer::run(numbers[0]),
        };
    }
    let most = numbers.first().copied().unwrap_or(30_000);
    let peers = numbers.get(1).copied().unwrap_or(10_000);
    let mut figures = Figures::new();
    machine();
    for part in ["rules", "whole", "connects"] {
        SIZES.iter().filter(|n| **n <= most).for_each(|n| apart(part, *n, &mut figures));
        machine();
    }
    if peer::is_there() {
        SIZES.iter().filter(|n| **n <= peers).for_each(|n| apart("peer", *n, &mut figures));
    } else {
        println!("SKIPPED: kube-proxy's shape: nft is not installed");
    }
    machine();
    compare(&figures);
}
