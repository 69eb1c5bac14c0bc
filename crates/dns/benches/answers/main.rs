//! UDP answers per CPU-second of the server, its memory and latency (goal G10), beside knot and nsd, which serve the same
//! names from a zone file; how long a change takes until it is answered (G11); and how one client fares while another
//! floods. One run, one machine, so ratios count. Each Service has 10 endpoints.
//!
//!     cargo bench -p skiff-dns --bench answers -- [SERVICES ...]              (default: 100 1000 10000 30000)
//!     cargo bench -p skiff-dns --bench answers -- floods [SERVICES]           only the floods

mod floods;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use skiff_dns::{
    acl::Allowed,
    forward::{Forwarder, Upstreams},
    server::{Lanes, Server},
    wire::{self, Name, rtype},
    zone::Zone,
};
use skiff_services::model::{Service, ServiceKey, Slice};
use skiff_testkit::tools;

const SERVE: &str = "SKIFF_BENCH_SERVE";
const ENDPOINTS: usize = 10;
const WINDOW: usize = 64;
const LASTS: Duration = Duration::from_secs(3);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    if let Ok(told) = std::env::var(SERVE) {
        let (services, lanes) = told.split_once(' ').ok_or("SERVICES LANES")?;
        return serve(services.parse()?, lanes.parse()?);
    }
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if std::env::args().any(|a| a == "floods") {
        return sizes.first().map_or_else(|| floods::run(10_000), |n| floods::run(*n));
    }
    let sizes = if sizes.is_empty() { vec![100, 1_000, 10_000, 30_000] } else { sizes };
    print(&format!("load {}", fs::read_to_string("/proc/loadavg")?.trim()));
    print(&format!(
        "{:>8} {:<14} {:>14} {:>10} {:>10} {:>9} {:>9}",
        "services", "server", "per CPU-second", "per second", "RSS MB", "p50 us", "p99 us"
    ));
    for services in sizes {
        run(services)?;
    }
    Ok(())
}

fn run(services: usize) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("skiff-dns-bench-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let zone = zone_file(services, &directory)?;
    for lanes in [1, 2, 4] {
        measure(
            services,
            &format!("skiff, {lanes} lane{}", if lanes == 1 { "" } else { "s" }),
            &ours(services, lanes)?,
        )?;
    }
    type Start = fn(&Path, &Path) -> Result<Peer>;
    for (name, program, start) in [("knot", "knotd", knot as Start), ("nsd", "nsd", nsd)] {
        match tools::find(program) {
            Some(_) => {
                let peer = start(&zone, &directory)?;
                measure(services, name, &peer)?;
                dnsperf(services, name, &peer, &directory)?;
            }
            None => print(&format!("{services:>8} {name:<14} SKIPPED: there is no program {program}")),
        }
    }
    let peer = ours(services, 2)?;
    dnsperf(services, "skiff, 2 lanes", &peer, &directory)?;
    changes(services)?;
    floods::run(services)?;
    Ok(fs::remove_dir_all(&directory)?)
}

fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn cluster_ip(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a60_0100 + n as u32)
}

fn service(n: usize) -> Service {
    let spec = json!({"clusterIP": cluster_ip(n), "ports": [{"name": "http", "port": 80}]});
    let object = json!({"metadata": {"namespace": "default", "name": format!("svc-{n}")}, "spec": spec});
    serde_json::from_value(object).ok().and_then(|o| Service::from_api(&o)).expect("a good Service")
}

fn slice(n: usize) -> Slice {
    let endpoint = |e| json!({"addresses": [Ipv4Addr::from_bits(0x0af4_0001 + (n * ENDPOINTS + e) as u32)]});
    let object = json!({
        "metadata": {"namespace": "default", "name": format!("svc-{n}-1"),
            "labels": {"kubernetes.io/service-name": format!("svc-{n}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    });
    serde_json::from_value(object).ok().and_then(|o| Slice::from_api(&o)).expect("a good slice")
}

fn zone(services: usize) -> Zone {
    let domain = Name::parse("cluster.local").expect("a good name");
    let mut zone = Zone::new(domain, vec![IpAddr::from([10, 96, 0, 10])]);
    zone.add_namespace("default");
    for n in 0..services {
        zone.update(|s| s.apply_service(service(n)));
        zone.update(|s| s.apply_slice(slice(n)));
    }
    zone
}

fn server(
    services: usize,
    lanes: usize,
    upstreams: Vec<SocketAddr>,
) -> Result<(Arc<Server>, Lanes, tokio::runtime::Runtime)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let forwarder = Forwarder::new(Upstreams::Fixed(upstreams), vec![], runtime.handle().clone());
    let domain = Name::parse("cluster.local").ok_or("a name")?;
    let server = Arc::new(Server::new(domain, Arc::new(forwarder), Allowed::private()));
    *server.zone_mut() = Some(zone(services));
    let failed = tokio::sync::mpsc::unbounded_channel().0;
    let lanes = Lanes::open(&server, (Ipv4Addr::LOCALHOST, 0).into(), lanes, runtime.handle(), failed)?;
    Ok((server, lanes, runtime))
}

/// The child: serves until its standard input ends.
fn serve(services: usize, lanes: usize) -> Result<()> {
    // A resolver that never answers.
    let dead = UdpSocket::bind("127.0.0.1:0")?;
    let (server, lanes, runtime) = server(services, lanes, vec![dead.local_addr()?])?;
    let tcp = runtime.block_on(tokio::net::TcpListener::bind(lanes.address()))?;
    print(&lanes.address().port().to_string());
    std::thread::spawn(move || runtime.block_on(server.serve_tcp(tcp)));
    std::io::stdin().read_to_end(&mut vec![])?;
    Ok(())
}

/// A server in a process of its own, ended when dropped.
struct Peer {
    child: Child,
    at: SocketAddr,
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        for pid in tree(self.child.id()) {
            let _ = Command::new("kill").arg(pid.to_string()).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

fn ours(services: usize, lanes: usize) -> Result<Peer> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(SERVE, format!("{services} {lanes}")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("a pipe")?).read_line(&mut line)?;
    Ok(Peer { child, at: (Ipv4Addr::LOCALHOST, line.trim().parse()?).into() })
}

fn zone_file(services: usize, directory: &Path) -> Result<PathBuf> {
    let path = directory.join("zone");
    let mut text = String::from(
        "$ORIGIN cluster.local.\n$TTL 5\n@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 10.96.0.10\n",
    );
    for n in 0..services {
        let ip = cluster_ip(n);
        text +=
            &format!("svc-{n}.default.svc A {ip}\n_http._tcp.svc-{n}.default.svc SRV 0 100 80 svc-{n}.default.svc\n");
    }
    fs::write(&path, text)?;
    Ok(path)
}

fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn knot(zone: &Path, directory: &Path) -> Result<Peer> {
    let (port, file, home) = (free_port()?, directory.join("knot.conf"), directory.display());
    let text = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: {home}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {home}\nzone:\n  - domain: cluster.local\n    file: {}\n    zonefile-sync: -1\n    journal-content: none\n",
        zone.display()
    );
    fs::write(&file, text)?;
    peer(Command::new("knotd").arg("-c").arg(&file), port)
}

fn nsd(zone: &Path, directory: &Path) -> Result<Peer> {
    let (port, file, home) = (free_port()?, directory.join("nsd.conf"), directory.display());
    let text = format!(
        "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: {home}\n  database: \"\"\n  \
         pidfile: {home}/nsd.pid\n  xfrdfile: {home}/xfrd\n  zonelistfile: {home}/list\n  xfrdir: {home}\n  server-count: 1\n\
         remote-control:\n  control-enable: no\nzone:\n  name: cluster.local\n  zonefile: {}\n",
        zone.display()
    );
    fs::write(&file, text)?;
    peer(Command::new("nsd").arg("-d").arg("-c").arg(&file), port)
}

/// Waits until it answers.
fn peer(command: &mut Command, port: u16) -> Result<Peer> {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let peer = Peer { child, at: (Ipv4Addr::LOCALHOST, port).into() };
    let (socket, end) = (client(peer.at)?, Instant::now() + Duration::from_secs(30));
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 1500];
    while Instant::now() < end {
        let _ = socket.send(&question(0, 0));
        if socket.recv(&mut buffer).is_ok_and(|_| buffer[3] & 0xf == 0) {
            return Ok(peer);
        }
    }
    Err("a peer does not answer".into())
}

fn client(at: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

fn question(id: u16, n: usize) -> Vec<u8> {
    let name = Name::parse(&format!("svc-{n}.default.svc.cluster.local")).expect("a good name");
    wire::encode_query(id, &name, rtype::A)
}

/// The process and its children.
fn tree(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|p| p.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

/// CPU seconds and resident MB.
fn used(pid: u32) -> (f64, f64) {
    let (mut cpu, mut memory) = (0.0, 0.0);
    for pid in tree(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        cpu += (ticks(11) + ticks(12)) / 100.0;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident =
            status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
        memory += resident.unwrap_or(0.0) / 1024.0;
    }
    (cpu, memory)
}

fn measure(services: usize, name: &str, peer: &Peer) -> Result<()> {
    let questions: Vec<Vec<u8>> = (0..4096).map(|i| question(i as u16, i * 7919 % services)).collect();
    flood(peer.at, &questions, Duration::from_millis(300))?;
    let (before, start) = (used(peer.child.id()).0, Instant::now());
    let answers = flood(peer.at, &questions, LASTS)?;
    let (cpu, memory) = used(peer.child.id());
    let per_second = answers as f64 / start.elapsed().as_secs_f64();
    let per_cpu = answers as f64 / (cpu - before).max(0.01);
    let (p50, p99) = latency(peer.at, &questions)?;
    print(&format!("{services:>8} {name:<14} {per_cpu:>14.0} {per_second:>10.0} {memory:>10.1} {p50:>9.0} {p99:>9.0}"));
    Ok(())
}

/// dnsperf's own figures: as fast as it can, then at half of that; and the server's CPU time.
fn dnsperf(services: usize, name: &str, peer: &Peer, directory: &Path) -> Result<()> {
    if tools::find("dnsperf").is_none() {
        print(&format!("{services:>8} {name:<14} dnsperf SKIPPED: there is no such program"));
        return Ok(());
    }
    let file = directory.join("questions");
    let questions: String =
        (0..4096).map(|i| format!("svc-{}.default.svc.cluster.local A\n", i * 7919 % services)).collect();
    fs::write(&file, questions)?;
    let run = |more: &[&str]| -> Result<(f64, f64, String)> {
        let mut command = Command::new("dnsperf");
        command
            .args(["-s", "127.0.0.1", "-p", &peer.at.port().to_string(), "-l", "2", "-c", "4", "-T", "1", "-d"])
            .arg(&file);
        let before = used(peer.child.id()).0;
        let text = String::from_utf8(command.args(more).output()?.stdout)?;
        let value = |key: &str| text.lines().find_map(|l| Some(l.trim().strip_prefix(key)?.trim().to_owned()));
        let rate = value("Queries per second:").and_then(|v| v.parse().ok()).ok_or("dnsperf gives no rate")?;
        let answers: f64 = value("Queries completed:")
            .and_then(|v| v.split_whitespace().next()?.parse().ok())
            .ok_or("dnsperf completed nothing")?;
        let per_cpu = answers / (used(peer.child.id()).0 - before).max(0.01);
        Ok((rate, per_cpu, value("Average Latency (s):").unwrap_or_default()))
    };
    let (most, per_cpu, _) = run(&[])?;
    let (half, _, latency) = run(&["-Q", &format!("{:.0}", most / 2.0)])?;
    print(&format!(
        "{services:>8} {name:<14} dnsperf: {per_cpu:.0} per CPU-second, {most:.0} per second; at {half:.0} per second \
         latency {latency} s"
    ));
    Ok(())
}

/// Keeps a window of questions under way; how many were answered.
fn flood(at: SocketAddr, questions: &[Vec<u8>], lasts: Duration) -> Result<u64> {
    let (socket, end) = (client(at)?, Instant::now() + lasts);
    let (mut answers, mut next, mut buffer) = (0, 0, [0; 1500]);
    while Instant::now() < end {
        for _ in 0..WINDOW {
            socket.send(&questions[next % questions.len()])?;
            next += 1;
        }
        for _ in 0..WINDOW {
            // What is lost is not waited for.
            if socket.recv(&mut buffer).is_err() {
                break;
            }
            answers += 1;
        }
    }
    Ok(answers)
}

/// Microseconds of single questions.
fn latency(at: SocketAddr, questions: &[Vec<u8>]) -> Result<(f64, f64)> {
    let (socket, mut buffer, mut took) = (client(at)?, [0; 1500], vec![]);
    for question in questions {
        let start = Instant::now();
        socket.send(question)?;
        if socket.recv(&mut buffer).is_ok() {
            took.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok((at(0.5), at(0.99)))
}

/// From a change of the snapshot until it is answered anew.
fn changes(services: usize) -> Result<()> {
    let (server, lanes, _runtime) = server(services, 1, vec![])?;
    let (socket, mut buffer, mut worst) = (client(lanes.address())?, [0; 1500], Duration::ZERO);
    for round in 0..100usize {
        let start = Instant::now();
        if let Some(zone) = &mut *server.zone_mut() {
            match round % 2 {
                0 => zone.update(|s| s.remove_service(&ServiceKey::new("default", "svc-0"))),
                _ => zone.update(|s| s.apply_service(service(0))),
            }
        }
        loop {
            socket.send(&question(round as u16, 0))?;
            let length = socket.recv(&mut buffer)?;
            if length > 3 && (buffer[3] & 0xf == 0) == (round % 2 == 1) {
                break;
            }
        }
        worst = worst.max(start.elapsed());
    }
    print(&format!("{services:>8} a change is answered anew after at most {worst:?} (of 100)"));
    Ok(())
}
