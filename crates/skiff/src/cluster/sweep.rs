//! Removes what a cluster and its pods have on this machine, found by where it is: processes by control group or by the
//! shim's arguments, mounts by path, links and namespaces by the plan, control groups by name.

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::{UnmountFlags, unmount},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{agent, config::Config, network, paths::Paths};

/// How much was there to remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    processes: usize,
    mounts: usize,
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} container processes, {} mounts, the network", self.processes, self.mounts)
    }
}

/// Call only when no daemon of the cluster runs.
pub(crate) fn run(config: &Config, paths: &Paths) -> Result<Swept> {
    let group = cgroup(&config.name);
    let swept = processes_and_mounts(&group, paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(network::apply::down(&network::plan::network(config, paths, false)))?;
    network::nat::close(&config.name)?;
    network::forwarding::restore(&paths.run).context("/proc/sys/net")?;
    remove_cgroups(&group);
    remove_run(paths)?;
    Ok(swept)
}

/// What an agent and its pods have on this machine. Call in the node's network namespace, when no such agent runs.
pub(crate) fn agent(name: &str, dns: IpAddr, pods: Ipv4Net, paths: &Paths) -> Result<Swept> {
    let group = agent::cgroup(name);
    let swept = processes_and_mounts(&group, paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(network::apply::unwire_agent(dns, pods))?;
    network::nat::close(agent::WAY_OUT)?;
    skiff_proxy::remove_tables(skiff_proxy::TABLE)?;
    remove_cgroups(&group);
    remove_run(paths)?;
    Ok(swept)
}

/// What one node of the cluster has, as a reboot would: its disk stays. Call when nothing of it runs but its containers.
pub(crate) fn node(group: &str, name: &str, paths: &Paths) -> Result<Swept> {
    let own = Paths { data: paths.node_data(name), run: paths.node_run(name) };
    let swept = processes_and_mounts(group, &own)?;
    network::netns::remove(&paths.netns(name)).with_context(|| format!("remove the namespace of node {name}"))?;
    remove_cgroups(group);
    remove_run(&own)?;
    Ok(swept)
}

fn processes_and_mounts(group: &str, paths: &Paths) -> Result<Swept> {
    let processes = kill_processes(group, paths).context("end the containers")?;
    let mounts = unmount_below(&[&paths.run, &paths.data])?;
    Ok(Swept { processes, mounts })
}

fn remove_run(paths: &Paths) -> Result<()> {
    match fs::remove_dir_all(&paths.run) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).context(paths.run.display().to_string()),
        _ => {}
    }
    // Below /run the directory of all clusters goes with the last one.
    paths.run.parent().map(fs::remove_dir);
    Ok(())
}

/// The control group that all of a cluster's containers are below, in each hierarchy.
pub(crate) fn cgroup(cluster: &str) -> String {
    format!("skiff/{cluster}")
}

/// Kills until none is left: a shim may have been starting a container while we looked.
fn kill_processes(group: &str, paths: &Paths) -> io::Result<usize> {
    let mut killed = 0;
    for _ in 0..10 {
        let found = processes(group, paths)?;
        if found.is_empty() {
            return Ok(killed);
        }
        killed += found.len();
        let dying: Vec<_> = found.into_iter().filter_map(kill).collect();
        let limit = Timespec { tv_sec: Duration::from_secs(5).as_secs() as i64, tv_nsec: 0 };
        for process in &dying {
            poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit))?;
        }
    }
    Err(io::Error::other("new processes keep appearing; is another daemon of this cluster running?"))
}

fn kill(pid: Pid) -> Option<rustix::fd::OwnedFd> {
    // A process that is gone already is what is wanted.
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    pidfd_send_signal(&process, Signal::KILL).ok()?;
    Some(process)
}

fn processes(group: &str, paths: &Paths) -> io::Result<Vec<Pid>> {
    let group = format!("/{group}/");
    // With its slash: the name of one may begin with that of another.
    let run = format!("{}/", paths.run.display());
    let mut found = vec![];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        if belongs(&entry.path(), &group, &run) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn belongs(proc: &Path, group: &str, run: &str) -> bool {
    // What cannot be read has ended meanwhile. A zombie has an empty command line and nothing left to end.
    let Ok(command) = fs::read(proc.join("cmdline")) else { return false };
    if command.is_empty() {
        return false;
    }
    let mut args = command.split(|b| *b == 0);
    let shim = args.nth(1) == Some(b"shim") && args.any(|a| a.starts_with(run.as_bytes()));
    let grouped = || fs::read_to_string(proc.join("cgroup")).is_ok_and(|g| g.lines().any(|l| l.contains(group)));
    shim || grouped()
}

/// The unpacked layers that running containers stand on. Each container's root is mounted in its own mount namespace.
pub(crate) fn layers_in_use(group: &str, paths: &Paths) -> io::Result<Vec<PathBuf>> {
    let mut layers = vec![];
    for pid in processes(group, paths)? {
        // What cannot be read has ended meanwhile.
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", pid.as_raw_nonzero())).unwrap_or_default();
        let lower = table.lines().filter_map(|l| l.split_once("lowerdir=")).map(|(_, rest)| rest);
        let stacks = lower.map(|rest| rest.split(',').next().unwrap_or_default());
        layers.extend(stacks.flat_map(|stack| stack.split(':')).map(PathBuf::from));
    }
    layers.sort();
    layers.dedup();
    Ok(layers)
}

/// Unmounts everything below the directories, the innermost first.
fn unmount_below(dirs: &[&Path]) -> Result<usize> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let mut below: Vec<PathBuf> =
        table.lines().filter_map(mount_point).filter(|p| dirs.iter().any(|d| p.starts_with(d))).collect();
    below.reverse();
    for path in &below {
        match unmount(path, UnmountFlags::DETACH) {
            // Already gone with what it was mounted on.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e).with_context(|| format!("unmount {}", path.display())),
        }
    }
    Ok(below.len())
}

/// The fifth field, in which the kernel writes blanks and backslashes as octal numbers (proc(5)).
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    Some(plain.iter().fold(field.to_owned(), |path, (code, text)| path.replace(code, text)).into())
}

/// Removes the control groups in every hierarchy, from the leaves up. Only empty ones go, and only ours.
fn remove_cgroups(group: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        remove_groups(&hierarchy.join(group));
        // The directory of all clusters (or agents) goes with the last one.
        let _ = Path::new(group).parent().map(|all| fs::remove_dir(hierarchy.join(all)));
    }
}

fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402/x rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some("/mnt 2/x".into()));
        assert_eq!(mount_point("36 35"), None);
    }
}
