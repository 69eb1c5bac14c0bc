//! The table of `common/table.rs` replayed with real packets through the real kernel: two nodes with their rules, clients
//! in pods, on the nodes and outside, both families; as root, and as root of a user namespace only.

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::mpsc,
    time::Duration,
};

use common::{
    isolated::{in_user_namespace, isolated, sh},
    net::{SCTP, Seen, World, attempt, init, raw},
    table::{Group, groups, host, name_of},
};
use rustix::net::{RecvFlags, SendFlags};
use skiff_nft::{Netlink, Ownership};
use skiff_proxy::{
    conntrack::{Cleanup, Conntrack},
    sync::Syncer,
};

/// Every endpoint answers within this number of tries, or is missing: of four, one would be missed once in 10^24 times.
const TRIES: usize = 200;
/// An answer that comes later was never sent.
const LONG: Duration = Duration::from_secs(20);
/// Silence is told apart from an answer within this time; a late answer can only hide an error, not make one.
const SHORT: Duration = Duration::from_millis(400);

#[test]
fn packets_go_where_the_table_says() {
    isolated("packets_go_where_the_table_says", replay);
}

#[test]
fn packets_go_where_the_table_says_in_a_user_namespace() {
    in_user_namespace("packets_go_where_the_table_says_in_a_user_namespace", replay);
}

fn replay() {
    let world = World::new();
    let mut wrong = vec![];
    let mut asked = 0;
    for group in groups() {
        load(&world, &group);
        let questions: Vec<Question> = [false, true].iter().flat_map(|v6| questions(&group, *v6)).collect();
        asked += questions.len();
        wrong.extend(ask(&world, questions).into_iter().map(|w| format!("{}: {w}", group.name)));
        for ip in [false, true].iter().flat_map(|v6| group.standing(*v6)) {
            sh(&format!("ip addr del {ip} dev lo"));
        }
    }
    eprintln!("{asked} flows, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The rules of both nodes; those of the group before are brought over by difference, as a proxy that comes back does.
fn load(world: &World, group: &Group) {
    for ip in [false, true].iter().flat_map(|v6| group.standing(*v6)) {
        sh(&format!("ip addr add {ip} dev lo"));
    }
    for node in ["a", "b"] {
        let (rules, snapshot) = (group.rules(node), group.snapshot());
        world.run(node, move || {
            let everything = Cleanup::everything(snapshot.iter().map(|(key, _)| rules.plan(key)));
            let mut syncer = Syncer::new(Netlink::open(Ownership::Exclusive).unwrap(), rules.clone());
            syncer.full().unwrap();
            everything.carry_out(&mut Conntrack::open().unwrap()).unwrap();
        });
    }
}

struct Question {
    text: String,
    from: &'static str,
    source: IpAddr,
    bind: bool,
    proto: u8,
    to: SocketAddr,
    want: Want,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Want {
    Refused,
    Silence,
    /// Ping comes back.
    Echo,
    /// Endpoints, each with whether it sees the client's own address; `one` when a client stays with one.
    Answers {
        all: BTreeSet<(IpAddr, bool)>,
        one: bool,
    },
}

fn questions(group: &Group, ipv6: bool) -> Vec<Question> {
    let ask = |(from, to, want): &(&'static str, &'static str, &'static str)| {
        let (proto, ip, port) = group.destination(to, ipv6);
        let (from, source, bind) = group.source(from, ipv6);
        let want = match *want {
            "reset" | "unreachable" => Want::Refused,
            "drop" => Want::Silence,
            // Nobody listens on the nodes; elsewhere such packets have no place to go in this world.
            "untouched" if ["a", "a2", "b", "dns", "loopback"].contains(&name_of(ip)?) => match proto {
                6 | 17 => Want::Refused,
                _ => Want::Echo,
            },
            "untouched" => return None,
            names => answers(names, ipv6),
        };
        // Kernels without SCTP sockets answer no association: where it arrives has a test of its own.
        if proto == SCTP && matches!(want, Want::Answers { .. }) {
            return None;
        }
        Some(Question { text: format!("{from} {to} ({ip})"), from, source, bind, proto, to: (ip, port).into(), want })
    };
    group.flows.iter().filter(|(from, to, _)| !group.answers_pass_by.contains(&(from, to))).filter_map(ask).collect()
}

fn answers(names: &str, ipv6: bool) -> Want {
    let list = names.strip_prefix("one of ").unwrap_or(names);
    let one = |name: &str| (host(name.trim_end_matches('!'), ipv6), name.ends_with('!'));
    Want::Answers { all: list.split(' ').map(one).collect(), one: list != names }
}

/// All at once, each from a thread in its host's namespace.
fn ask(world: &World, questions: Vec<Question>) -> Vec<String> {
    let (tell, told) = mpsc::channel();
    for question in questions {
        let tell = tell.clone();
        let from = question.from;
        world.run(from, move || {
            std::thread::spawn(move || {
                let seen = tries(&question);
                let _ = tell.send(judge(&question, &seen));
            });
        });
    }
    drop(tell);
    told.iter().flatten().collect()
}

fn tries(q: &Question) -> Vec<Seen> {
    let bind = q.bind.then_some(q.source);
    let Want::Answers { all, one } = &q.want else {
        let patience = if q.want == Want::Silence { SHORT } else { LONG };
        return vec![attempt(q.proto, bind, q.to, patience)];
    };
    let mut seen = vec![];
    let wanted = if *one { 1 } else { all.len() };
    let least = if *one { 20 } else { 3 };
    for _ in 0..TRIES {
        seen.push(attempt(q.proto, bind, q.to, LONG));
        let answers = seen.iter().collect::<BTreeSet<_>>().len();
        if matches!(seen.last(), Some(Seen::Silence)) || seen.len() >= least && answers >= wanted {
            break;
        }
    }
    seen
}

fn judge(q: &Question, seen: &[Seen]) -> Option<String> {
    let right = match &q.want {
        Want::Refused => seen == [Seen::Refused],
        Want::Silence => seen == [Seen::Silence],
        Want::Echo => seen == [Seen::Echo],
        Want::Answers { all, one } => {
            let endpoints: BTreeSet<IpAddr> = seen.iter().filter_map(endpoint).collect();
            let count = if *one { 1 } else { all.len() };
            endpoints.len() == count && seen.iter().all(|s| all.iter().any(|w| fits(q, w, s)))
        }
    };
    (!right).then(|| format!("{}: {seen:?} instead of {:?}", q.text, q.want))
}

fn endpoint(seen: &Seen) -> Option<IpAddr> {
    if let Seen::Answer { endpoint, .. } = seen { Some(*endpoint) } else { None }
}

/// The node's own address may take the place of itself.
fn fits(q: &Question, (ip, masqueraded): &(IpAddr, bool), seen: &Seen) -> bool {
    let Seen::Answer { endpoint, client } = seen else { return false };
    let on_node = ["a", "b"].contains(&q.from) && !q.bind;
    endpoint == ip && if *masqueraded { on_node || *client != q.source } else { *client == q.source }
}

/// Who sent the packets that reach r1, by source port.
fn listen_at(world: &World, ipv6: bool) -> mpsc::Receiver<(u16, IpAddr)> {
    let (tell, told) = mpsc::channel();
    world.run("r1", move || {
        let socket = raw(SCTP, ipv6).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok((n, _, Some(from))) = rustix::net::recvfrom(&socket, &mut buffer[..], RecvFlags::empty()) {
                // IPv4 comes with its header.
                let packet = if ipv6 { &buffer[..n] } else { &buffer[20..n] };
                assert!(packet.len() >= 20 && packet[2..4] == 8080u16.to_be_bytes());
                let port = u16::from_be_bytes([packet[0], packet[1]]);
                let from = SocketAddr::try_from(from).unwrap();
                if tell.send((port, from.ip())).is_err() {
                    return;
                }
            }
        });
    });
    told
}

#[test]
fn sctp_associations_are_translated() {
    isolated("sctp_associations_are_translated", || {
        let world = World::new();
        let group = groups().into_iter().find(|g| g.name == "SCTP").unwrap();
        load(&world, &group);
        for ipv6 in [false, true] {
            let arrivals = listen_at(&world, ipv6);
            for (i, (from, to, want)) in group.flows.iter().filter(|f| f.2.starts_with("r1")).enumerate() {
                let (_, ip, port) = group.destination(to, ipv6);
                let sport = 7000 + i as u16;
                world.run(from, move || {
                    let to = SocketAddr::new(ip, 0);
                    rustix::net::sendto(raw(SCTP, ipv6).unwrap(), &init(sport, port), SendFlags::empty(), &to).unwrap();
                });
                let (seen_port, client) = arrivals.recv_timeout(LONG).expect("the packet arrives");
                // A node's packets come from one of its addresses in any case.
                let masqueraded = want.ends_with('!');
                assert!(*from == "a" || (client == host(from, ipv6)) != masqueraded, "{from} {to}: {client}");
                assert!(masqueraded || seen_port == sport, "{from} {to}: port {seen_port}");
            }
        }
    });
}
