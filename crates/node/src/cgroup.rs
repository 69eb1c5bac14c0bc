//! Control groups of containers: limits, membership and out-of-memory kills, on cgroup v1, v2 and both at once.
//!
//! We own what lies under `skiff/` and nothing else: only directories that we made are ever removed, and only empty
//! ones. Where control groups cannot be used, containers run without limits and `Group::problems` says why.

use std::{
    fs,
    fs::File,
    io,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use crate::runtime::Resources;

/// The controllers that we use. The device controller exists on v1 only; without it containers get no `CAP_MKNOD`.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "devices"];

/// Devices that every container may open: null, zero, full, random, urandom, tty, console, ptmx and pty slaves.
const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Where one hierarchy is mounted and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    pub v2: bool,
    pub controllers: Vec<String>,
}

/// One setting: a file of a group and what to write into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub controller: &'static str,
    pub file: &'static str,
    pub value: String,
}

/// A group in every hierarchy that is of use.
#[derive(Debug)]
pub struct Group {
    dirs: Vec<(Hierarchy, PathBuf)>,
    /// What could not be done, in words; empty when every limit stands.
    pub problems: Vec<String>,
}

/// Reads the machine's hierarchies from `/proc/self/mountinfo`.
pub fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let mut found = parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?);
    for hierarchy in found.iter_mut().filter(|h| h.v2) {
        let offered = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = ours(offered.split_whitespace());
    }
    found.retain(|h| !h.controllers.is_empty());
    Ok(found)
}

fn ours<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter(|name| CONTROLLERS.contains(name)).map(str::to_owned).collect()
}

/// Fields of mountinfo: `id parent dev root mountpoint options [optional…] - type source superoptions`.
fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
        if !mount.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let hierarchy = match kind {
            "cgroup2" => Hierarchy { mount, v2: true, controllers: Vec::new() },
            "cgroup" => Hierarchy { mount, v2: false, controllers: ours(options.split(',')) },
            _ => continue,
        };
        found.retain(|known| known.mount != hierarchy.mount);
        found.push(hierarchy);
    }
    found
}

/// What to write for these limits. Pure.
pub fn settings(limits: &Resources, privileged: bool, v2: bool) -> Vec<Setting> {
    let mut list = Vec::new();
    let mut set = |controller, file, value: String| list.push(Setting { controller, file, value });
    let period = limits.cpu_period.unwrap_or(100_000);
    if let Some(bytes) = limits.memory {
        set("memory", if v2 { "memory.max" } else { "memory.limit_in_bytes" }, bytes.to_string());
    }
    match (limits.cpu_quota, v2) {
        (Some(quota), true) => set("cpu", "cpu.max", format!("{quota} {period}")),
        (Some(quota), false) => {
            set("cpu", "cpu.cfs_period_us", period.to_string());
            set("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
        (None, _) => {}
    }
    match (limits.cpu_shares, v2) {
        (Some(shares), true) => set("cpu", "cpu.weight", weight(shares).to_string()),
        (Some(shares), false) => set("cpu", "cpu.shares", shares.max(2).to_string()),
        (None, _) => {}
    }
    if let Some(pids) = limits.pids {
        set("pids", "pids.max", pids.to_string());
    }
    if !v2 && !privileged {
        set("devices", "devices.deny", "a".to_owned());
        DEVICES.iter().for_each(|rule| set("devices", "devices.allow", (*rule).to_owned()));
    }
    list
}

/// v1's shares (2..262144) on v2's scale (1..10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

impl Group {
    /// Makes the group `path` (relative to the hierarchies' roots) in each hierarchy and sets its limits.
    pub fn create(path: &str, limits: &Resources, privileged: bool) -> Self {
        let mut group = Group { dirs: Vec::new(), problems: Vec::new() };
        let hierarchies = hierarchies().unwrap_or_else(|e| {
            group.problems.push(format!("/proc/self/mountinfo: {e}"));
            Vec::new()
        });
        for hierarchy in hierarchies {
            match make(&hierarchy, path) {
                Ok(dir) => group.dirs.push((hierarchy, dir)),
                Err(e) => group.problems.push(format!("{}: {e}", hierarchy.mount.join(path).display())),
            }
        }
        group.limit(limits, privileged);
        group
    }

    /// The group as it was made before, without touching it.
    pub fn find(path: &str) -> Self {
        let dirs = hierarchies().unwrap_or_default().into_iter().map(|h| (h.clone(), h.mount.join(path)));
        Group { dirs: dirs.filter(|(_, dir)| dir.is_dir()).collect(), problems: Vec::new() }
    }

    fn limit(&mut self, limits: &Resources, privileged: bool) {
        for v2 in [false, true] {
            for setting in settings(limits, privileged, v2) {
                let home =
                    self.dirs.iter().find(|(h, _)| h.v2 == v2 && h.controllers.iter().any(|c| c == setting.controller));
                if let Some((_, dir)) = home
                    && let Err(e) = fs::write(dir.join(setting.file), &setting.value)
                {
                    self.problems.push(format!("{} = {}: {e}", dir.join(setting.file).display(), setting.value));
                }
            }
        }
        if limits.memory.is_some() && !self.controls("memory") {
            self.problems.push("no memory controller: the memory limit is not enforced".to_owned());
        }
        if limits.cpu_quota.is_some() && !self.controls("cpu") {
            self.problems.push("no cpu controller: the CPU limit is not enforced".to_owned());
        }
    }

    pub fn controls(&self, controller: &str) -> bool {
        self.dirs.iter().any(|(h, _)| h.controllers.iter().any(|c| c == controller))
    }

    /// Moves this process in; its children are born there.
    pub fn join(&mut self) {
        for (_, dir) in &self.dirs {
            if let Err(e) = fs::write(dir.join("cgroup.procs"), "0") {
                self.problems.push(format!("{}: {e}", dir.join("cgroup.procs").display()));
            }
        }
    }

    /// Doors into the group that work even when its hierarchies are no longer mounted.
    pub fn doors(&self) -> Vec<File> {
        let open = |dir: &PathBuf| fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs")).ok();
        self.dirs.iter().filter_map(|(_, dir)| open(dir)).collect()
    }

    /// The counter of out-of-memory kills.
    pub fn oom_counter(&self) -> Option<OomCounter> {
        let (hierarchy, dir) = self.dirs.iter().find(|(h, _)| h.controllers.iter().any(|c| c == "memory"))?;
        let file = File::open(dir.join(if hierarchy.v2 { "memory.events" } else { "memory.oom_control" })).ok()?;
        Some(OomCounter { file })
    }

    /// Every process in the group.
    pub fn processes(&self) -> Vec<i32> {
        let read = |dir: &PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let mut pids: Vec<i32> = self
            .dirs
            .iter()
            .flat_map(|(_, dir)| read(dir).lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes the group's directories. `Err` while a process is still in it.
    pub fn remove(&self) -> io::Result<()> {
        for (_, dir) in &self.dirs {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Moves this process through the doors of another group.
pub fn enter(doors: &mut [File]) -> io::Result<()> {
    doors.iter_mut().try_for_each(|door| door.write_all(b"0"))
}

/// Removes empty groups from `path` upwards, as far as `skiff` itself.
pub fn remove_empty_parents(path: &str) {
    for hierarchy in hierarchies().unwrap_or_default() {
        let mut at = Path::new(path);
        while at.starts_with("skiff") && fs::remove_dir(hierarchy.mount.join(at)).is_ok() {
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
    }
}

/// Makes the directory and, on v2, hands the controllers down to it.
fn make(hierarchy: &Hierarchy, path: &str) -> io::Result<PathBuf> {
    let mut dir = hierarchy.mount.clone();
    for part in Path::new(path).components() {
        if hierarchy.v2 {
            hand_down(hierarchy, &dir)?;
        }
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(dir)
}

fn hand_down(hierarchy: &Hierarchy, dir: &Path) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let have = fs::read_to_string(&file)?;
    let missing = hierarchy.controllers.iter().filter(|c| !have.split_whitespace().any(|h| h == c.as_str()));
    let order = missing.map(|c| format!("+{c}")).collect::<Vec<_>>().join(" ");
    if order.is_empty() { Ok(()) } else { fs::write(file, order) }
}

/// Counts out-of-memory kills in a group, through a file that stays open.
pub struct OomCounter {
    file: File,
}

impl OomCounter {
    pub fn kills(&mut self) -> u64 {
        let mut text = String::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_string(&mut text));
        if read.is_ok() { parse_kills(&text) } else { 0 }
    }
}

/// Both `memory.events` and `memory.oom_control` have a line `oom_kill N`.
fn parse_kills(text: &str) -> u64 {
    text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).find_map(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_of_a_hybrid_machine() {
        let text = "\
30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /elsewhere rw - cgroup cgroup rw,pids";
        let found = parse_mounts(text);
        assert_eq!(found.len(), 3);
        assert!(found[0].v2 && found[0].controllers.is_empty());
        assert_eq!(found[1].controllers, ["cpu"]);
        assert_eq!(found[2].mount, Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn limits_in_both_dialects() {
        let limits = Resources {
            memory: Some(1 << 20),
            cpu_quota: Some(50_000),
            cpu_shares: Some(1024),
            pids: Some(100),
            ..Resources::default()
        };
        let show = |v2| {
            let keep = settings(&limits, true, v2).into_iter().map(|s| format!("{}={}", s.file, s.value));
            keep.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(show(true), "memory.max=1048576 cpu.max=50000 100000 cpu.weight=39 pids.max=100");
        assert_eq!(
            show(false),
            "memory.limit_in_bytes=1048576 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 cpu.shares=1024 pids.max=100"
        );
        assert_eq!(settings(&Resources::default(), false, true), []);
        assert_eq!(settings(&Resources::default(), false, false).len(), 1 + DEVICES.len());
    }

    #[test]
    fn out_of_memory_kills() {
        assert_eq!(parse_kills("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(parse_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(parse_kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }
}
