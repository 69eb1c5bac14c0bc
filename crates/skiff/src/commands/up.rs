//! `skiff up`: decide what the cluster is, start its daemon, tell its story, return when it answers.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::preflight;
use crate::{
    cli::{Shape, Up},
    cluster::{
        config::{Config, Patience, ipv6_here, random_prefix},
        lock, network,
        paths::Paths,
        probe, store,
    },
    report::{self, Line},
};

/// The port that Kubernetes API servers usually have, and how many after it are tried.
const API_PORTS: std::ops::Range<u16> = 6443..6543;

pub(crate) fn run(args: &Up) -> Result<ExitCode> {
    let begun = Instant::now();
    let paths = super::paths_of(&args.which)?;
    if !only_control_plane(&paths, &args.shape)? {
        preflight::check()?;
    }
    let timeout = Duration::from_secs(args.timeout);
    let _turn = turn(timeout)?;
    if is_running(&paths)? {
        refuse_another(&paths, &args.shape)?;
        report::show(&Line::Warning(format!("cluster {:?} is already running", args.which.name)));
        return Ok(ExitCode::SUCCESS);
    }
    let config = decide(&args.which.name, &paths, &args.shape)?;
    let mut daemon = start(&config, &paths)?;
    follow(&mut daemon, &paths, timeout)?;
    finish(&config, &paths, begun.elapsed());
    Ok(ExitCode::SUCCESS)
}

/// Whether the cluster has a daemon that answers. One that was killed keeps its lock until the kernel has taken all of it
/// down, so the lock alone says too much.
fn is_running(paths: &Paths) -> Result<bool> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    if lock::holder(&paths.lock())?.is_none() {
        return Ok(false);
    }
    let Some(config) = Config::load(&paths.config())? else { return Ok(true) };
    let gone = async {
        while lock::holder(&paths.lock())?.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(false)
    };
    let answers = async {
        probe::answers(&config, paths).await.map(|()| true).with_context(|| {
            format!(
                "cluster {0:?} runs but does not answer; start it anew: `skiff down --name {0}`, then `skiff up`",
                config.name
            )
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let running = runtime.block_on(async {
        tokio::select! {
            gone = gone => gone,
            answers = answers => answers,
        }
    });
    runtime.shutdown_background();
    running
}

/// Whether the cluster has, or will have, no nodes on this machine.
fn only_control_plane(paths: &Paths, shape: &Shape) -> Result<bool> {
    let kept = Config::load(&paths.config())?.map(|config| config.nodes);
    Ok(kept.or(shape.nodes) == Some(0))
}

/// One after the other: a subnet and a port that are free for two starts at once would be chosen by both. An abstract
/// socket belongs to the network namespace, as they do, and is gone with whoever holds it.
fn turn(timeout: Duration) -> Result<UnixListener> {
    let name = SocketAddr::from_abstract_name("skiff-up")?;
    let end = Instant::now() + timeout;
    loop {
        match UnixListener::bind_addr(&name) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            other => return other.context("wait for other starts of clusters"),
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!(
                "another `skiff up` has not ended after {} s; see which with `pgrep -af 'skiff up'`",
                timeout.as_secs()
            );
        }
        // Whoever has the turn never answers; the connection ends with it.
        if let Ok(mut holder) = UnixStream::connect_addr(&name) {
            holder.set_read_timeout(Some(left))?;
            let _ended_or_late = holder.read(&mut [0]);
        }
    }
}

fn finish(config: &Config, paths: &Paths, time: Duration) {
    let named = if config.name == "skiff" { String::new() } else { format!(" -c {}", config.name) };
    eprintln!("Cluster {:?} is up after {}. Next:", config.name, report::took(time));
    eprintln!("  skiff kubectl{named} get all -A");
    eprintln!("  export KUBECONFIG={}    # for any kubectl", paths.kubeconfig().display());
}

/// The cluster's configuration: the kept one, or a new one by the flags.
pub(crate) fn decide(name: &str, paths: &Paths, shape: &Shape) -> Result<Config> {
    if let Some(mut config) = Config::load(&paths.config())? {
        refuse_other_shape(&config, shape)?;
        config.api_port = api_port(shape.api_port.or(Some(config.api_port)))?;
        if !shape.dns_upstream.is_empty() {
            config.dns_upstreams = shape.dns_upstream.clone();
        }
        config.dns_end_walks = shape.dns_end_search_walks.unwrap_or(config.dns_end_walks);
        be_patient(&mut config, shape);
        config.audit_log = audit_log(shape, config.audit_log)?;
        if let Some(pool) = &shape.lb_pool {
            config.lb_pool = pool.clone();
        }
        config.advertise = shape.advertise_address.or(config.advertise);
        config.etcd = store::decide(name, Some(&config.etcd), &shape.store)?;
        config.check().map_err(anyhow::Error::msg)?;
        config.save(&paths.config())?;
        return Ok(config);
    }
    let mut config = Config::new(name, free_index()?, shape.nodes.unwrap_or(1), api_port(shape.api_port)?);
    config.zones = shape.zones.unwrap_or(0);
    config.dns_upstreams = shape.dns_upstream.clone();
    config.dns_end_walks = shape.dns_end_search_walks.unwrap_or(false);
    config.service_cidr = shape.service_cidr.unwrap_or(config.service_cidr);
    config.pod_cidr = shape.pod_cidr.unwrap_or(config.pod_cidr);
    config.lb_pool = shape.lb_pool.clone().unwrap_or(config.lb_pool);
    // Servers elsewhere could not know a prefix that was drawn here.
    config.ipv6 = if config.nodes == 0 && shape.ipv6.is_none() { None } else { prefix6(shape)? };
    be_patient(&mut config, shape);
    config.audit_log = audit_log(shape, None)?;
    config.advertise = shape.advertise_address;
    config.etcd = store::decide(name, None, &shape.store)?;
    config.check().map_err(anyhow::Error::msg)?;
    config.save(&paths.config())?;
    Ok(config)
}

/// The subnet and the API port for a cluster that comes from elsewhere: its own ones if they are free here.
pub(super) fn place(config: &Config) -> Result<(u8, u16)> {
    let used = used_indexes()?;
    let index = if used.contains(&config.index) { free_index()? } else { config.index };
    Ok((index, api_port(Some(config.api_port)).or_else(|_| api_port(None))?))
}

/// The new cluster's IPv6 prefix, if it is to have one.
fn prefix6(shape: &Shape) -> Result<Option<ipnet::Ipv6Net>> {
    if shape.ipv6 == Some(false) {
        return Ok(None);
    }
    match (ipv6_here(), shape.ipv6) {
        (Ok(()), _) => Ok(Some(random_prefix())),
        (Err(why), Some(_)) => bail!("--ipv6: this machine has no IPv6: {why}"),
        (Err(why), None) => {
            report::show(&Line::Warning(format!("the cluster has no IPv6 addresses, as this machine has none: {why}")));
            Ok(None)
        }
    }
}

/// Where it shall be from now on; the empty path: nowhere. The daemon has another directory of its own.
fn audit_log(shape: &Shape, kept: Option<PathBuf>) -> Result<Option<PathBuf>> {
    match &shape.audit_log_path {
        None => Ok(kept),
        Some(path) if path.as_os_str().is_empty() => Ok(None),
        Some(path) => Ok(Some(std::path::absolute(path).with_context(|| format!("--audit-log-path {path:?}"))?)),
    }
}

fn be_patient(config: &mut Config, shape: &Shape) {
    let patience = &mut config.patience;
    let Patience { node_monitor_grace, not_ready, unreachable } = *patience;
    *patience = Patience {
        node_monitor_grace: shape.node_monitor_grace_period.unwrap_or(node_monitor_grace),
        not_ready: shape.default_not_ready_toleration_seconds.unwrap_or(not_ready),
        unreachable: shape.default_unreachable_toleration_seconds.unwrap_or(unreachable),
    };
}

/// A running cluster keeps its port and its pool too.
fn refuse_another(paths: &Paths, shape: &Shape) -> Result<()> {
    let Some(config) = Config::load(&paths.config())? else { return Ok(()) };
    refuse_other_shape(&config, shape)?;
    if shape.lb_pool.as_ref().is_some_and(|pool| *pool != config.lb_pool) {
        bail!(
            "cluster {0:?} is running with --lb-pool {1}; to give it another, stop it first: `skiff down --name {0}`",
            config.name,
            config.lb_pool
        );
    }
    match shape.api_port {
        Some(port) if port != config.api_port => bail!(
            "cluster {0:?} is running with --api-port {1}; to give it another, stop it first: `skiff down --name {0}`",
            config.name,
            config.api_port
        ),
        _ => Ok(()),
    }
}

/// An existing cluster keeps its shape: silence about a flag that has no effect would mislead.
fn refuse_other_shape(config: &Config, shape: &Shape) -> Result<()> {
    let differs = [
        ("--nodes", shape.nodes.is_some_and(|n| n != config.nodes), config.nodes.to_string()),
        ("--zones", shape.zones.is_some_and(|z| z != config.zones), config.zones.to_string()),
        (
            "--service-cidr",
            shape.service_cidr.is_some_and(|c| c != config.service_cidr),
            config.service_cidr.to_string(),
        ),
        ("--ipv6", shape.ipv6.is_some_and(|wish| wish != config.ipv6.is_some()), config.ipv6.is_some().to_string()),
        ("--pod-cidr", shape.pod_cidr.is_some_and(|c| c != config.pod_cidr), config.pod_cidr.to_string()),
    ];
    match differs.iter().find(|d| d.1) {
        None => Ok(()),
        Some((flag, _, kept)) => bail!(
            "cluster {0:?} exists with {flag} {kept}; leave the flag out, take another --name, or remove the cluster with \
             `skiff down --delete --name {0}`",
            config.name
        ),
    }
}

/// The wished port if it is free, else the first free one.
fn api_port(wish: Option<u16>) -> Result<u16> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    match wish {
        Some(port) if free(&port) => Ok(port),
        Some(port) => bail!(
            "port {port} of 127.0.0.1 is in use by another program (`ss -ltnp 'sport = :{port}'` names it); choose another \
             with --api-port"
        ),
        None => API_PORTS.clone().find(|p| free(p)).with_context(|| {
            format!(
                "all ports from {} to {} of 127.0.0.1 are in use; choose one with --api-port",
                API_PORTS.start, API_PORTS.end
            )
        }),
    }
}

/// A node subnet that neither the host nor another cluster uses.
fn free_index() -> Result<u8> {
    let used = used_indexes()?;
    (0..=254)
        .find(|i| !used.contains(i))
        .context("all node subnets from 172.30.0.0/24 on are taken by the host's routes")
}

fn used_indexes() -> Result<BTreeSet<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut used: BTreeSet<u8> = runtime.block_on(network::apply::used_indexes())?.into_iter().collect();
    for name in Paths::clusters() {
        used.extend(Config::load(&Paths::of(&name).config())?.map(|c| c.index));
    }
    Ok(used)
}

fn start(config: &Config, paths: &Paths) -> Result<Child> {
    let log_path = paths.server_log();
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.with_context(|| log_path.display().to_string())?;
    let program = std::env::current_exe().context("find this program's own file")?;
    Command::new(program)
        .args(["server", "--report", "--name", &config.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/")
        // A group of its own: Ctrl-C at the terminal ends `up`, not the cluster.
        .process_group(0)
        .spawn()
        .context("start the cluster's daemon")
}

/// Shows the daemon's story until it is ready, fails, ends or takes too long.
fn follow(daemon: &mut Child, paths: &Paths, timeout: Duration) -> Result<()> {
    let log_start = fs::metadata(paths.server_log()).map_or(0, |m| m.len());
    let lines = read_lines(daemon.stdout.take().context("the daemon's standard output")?);
    let end = Instant::now() + timeout;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Line::Ready) => return Ok(()),
            Ok(Line::Failed(why)) => bail!("{why}"),
            Ok(line) => report::show(&line),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!(
                "the cluster is not ready after {} s; its daemon goes on: see {} and `skiff status`",
                timeout.as_secs(),
                paths.server_log().display()
            ),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!(
                "the daemon ended before it was ready{}; its log is {}",
                log_tail(paths, log_start),
                paths.server_log().display()
            ),
        }
    }
}

fn read_lines(out: ChildStdout) -> mpsc::Receiver<Line> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // Only lines of the story count; a library's own print is not for the user.
            if let Ok(line) = serde_json::from_str(&line)
                && tx.send(line).is_err()
            {
                return;
            }
        }
    });
    rx
}

fn log_tail(paths: &Paths, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(paths.server_log())?;
        file.seek(SeekFrom::Start(from))?;
        io::read_to_string(file)
    };
    match read().unwrap_or_default().lines().rev().find(|l| !l.trim().is_empty()) {
        Some(line) => format!(": {}", line.trim()),
        None => String::new(),
    }
}
