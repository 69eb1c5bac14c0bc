//! `skiff status`: which clusters are here, whether they run and answer.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Output, Status, Which},
    cluster::{config::Config, lock, paths::Paths},
    report,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    /// Running: the daemon lives and its API port answers. Starting: not yet. Stopped: there is no daemon.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    nodes: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_ip: Option<Ipv4Addr>,
    api: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    kubeconfig: String,
}

/// Exit code 0: every cluster asked for runs; 3: one does not; 4: there is none.
pub(crate) fn run(args: &Status) -> Result<ExitCode> {
    let rows = match &args.name {
        Some(name) => vec![row(super::existing(&Which { name: name.clone() })?)?],
        None => all()?,
    };
    match args.output {
        Output::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?,
        Output::Yaml => super::print(&serde_yaml_ng::to_string(&rows)?)?,
        Output::Table if rows.is_empty() => eprintln!("{}", super::known_clusters()),
        Output::Table => super::print(&table(&rows))?,
    }
    Ok(match rows.as_slice() {
        [] => ExitCode::from(4),
        rows if rows.iter().all(|r| r.state == "Running") => ExitCode::SUCCESS,
        _ => ExitCode::from(3),
    })
}

fn all() -> Result<Vec<Row>> {
    let mut rows = vec![];
    for name in Paths::clusters() {
        let paths = Paths::of(&name);
        if let Some(config) = Config::load(&paths.config())? {
            rows.push(row((config, paths))?);
        }
    }
    Ok(rows)
}

fn row((config, paths): (Config, Paths)) -> Result<Row> {
    let pid = lock::holder(&paths.lock())?;
    let api = SocketAddr::from((Ipv4Addr::LOCALHOST, config.api_port));
    let answers = || TcpStream::connect_timeout(&api, Duration::from_secs(2)).is_ok();
    let state = match pid {
        None => "Stopped",
        Some(_) if answers() => "Running",
        Some(_) => "Starting",
    };
    Ok(Row {
        state,
        pid,
        nodes: config.nodes,
        node_ip: (config.nodes > 0).then(|| config.node_ip(0)),
        api: format!("https://{api}"),
        memory_bytes: pid.and_then(resident),
        kubeconfig: paths.kubeconfig().display().to_string(),
        name: config.name,
    })
}

/// Resident memory of a process.
fn resident(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn table(rows: &[Row]) -> String {
    let head = ["NAME", "STATE", "NODES", "NODE-IP", "API", "MEMORY"].map(str::to_owned);
    let memory = |r: &Row| r.memory_bytes.map_or("-".into(), |b| format!("{:.0} MB", b as f64 / 1e6));
    let ip = |r: &Row| r.node_ip.map_or("-".into(), |ip| ip.to_string());
    let line = |r: &Row| [r.name.clone(), r.state.into(), r.nodes.to_string(), ip(r), r.api.clone(), memory(r)];
    let all: Vec<_> = std::iter::once(head).chain(rows.iter().map(line)).collect();
    report::table(&all)
}
