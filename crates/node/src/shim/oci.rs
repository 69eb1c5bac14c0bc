//! From our description of a container to the OCI runtime's. Pure.

use serde_json::{Value, json};

use crate::runtime::{ContainerSpec, Mount};

/// What was found out about the user in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// Docker's default set. `MKNOD` only where the device controller can say no to what it makes.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All of them, by number.
const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capabilities a container gets, of those that we have ourselves (`held`, a bit for each number).
pub(crate) fn capabilities(spec: &ContainerSpec, device_control: bool, held: u64) -> Vec<String> {
    let named = |list: &[String], name: &str| {
        list.iter().map(|c| c.to_ascii_uppercase()).any(|c| c == "ALL" || c.strip_prefix("CAP_").unwrap_or(&c) == name)
    };
    let default = |name: &&str| DEFAULT_CAPABILITIES.contains(name) && (device_control || *name != "MKNOD");
    let wanted = |name: &&str| {
        spec.privileged || named(&spec.caps_add, name) || (default(name) && !named(&spec.caps_drop, name))
    };
    let held = ALL_CAPABILITIES.iter().enumerate().filter(|(bit, _)| held & (1 << bit) != 0).map(|(_, name)| *name);
    held.filter(wanted).map(|name| format!("CAP_{name}")).collect()
}

/// The bounding set from `/proc/self/status`; everything when it cannot be read.
pub(crate) fn held_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// The `process` part, of a container's first process.
pub(crate) fn process(spec: &ContainerSpec, user: &Identity, caps: &[String]) -> Value {
    let mut env = spec.env.clone();
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push(PATH.to_owned());
    }
    if spec.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    json!({
        "terminal": spec.tty,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": spec.args,
        "env": env,
        "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
        "noNewPrivileges": spec.no_new_privileges,
        "capabilities": {
            "bounding": caps, "permitted": caps, "effective": effective(caps, user), "inheritable": [], "ambient": [],
        },
    })
}

/// A user that is not root has its capabilities only to gain, not in effect.
fn effective<'a>(caps: &'a [String], user: &Identity) -> &'a [String] {
    if user.uid == 0 { caps } else { &[] }
}

/// The whole `config.json`.
pub(crate) fn config(spec: &ContainerSpec, process: Value) -> Value {
    let mut linux = json!({ "namespaces": namespaces(spec), "rootfsPropagation": "private" });
    if !spec.privileged {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    if spec.netns.is_some() {
        // Every user of a pod may ping, and bind to low ports: the namespace is the pod's alone.
        linux["sysctl"] =
            json!({ "net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0" });
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": "rootfs", "readonly": spec.read_only_root },
        "mounts": mounts(spec),
        "linux": linux,
    });
    if let Some(hostname) = &spec.hostname {
        config["hostname"] = json!(hostname);
    }
    config
}

fn namespaces(spec: &ContainerSpec) -> Vec<Value> {
    let mut list = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
    if spec.hostname.is_some() {
        list.push(json!({ "type": "uts" }));
    }
    if !spec.host_pid {
        list.push(json!({ "type": "pid" }));
    }
    if !spec.host_ipc {
        list.push(json!({ "type": "ipc" }));
    }
    if let Some(path) = &spec.netns {
        list.push(json!({ "type": "network", "path": path }));
    }
    list
}

fn mounts(spec: &ContainerSpec) -> Vec<Value> {
    let sys: &[&str] =
        if spec.privileged { &["nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev", "ro"] };
    let own = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"][..]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"][..]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"][..],
        ),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"][..]),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"][..]),
        ("/sys", "sysfs", "sysfs", sys),
    ];
    let own = own.iter().filter(|(target, ..)| !spec.mounts.iter().any(|m| m.target.as_os_str() == *target));
    let own = own.map(|(target, kind, source, options)| {
        json!({ "destination": target, "type": kind, "source": source, "options": options })
    });
    let mut volumes: Vec<&Mount> = spec.mounts.iter().collect();
    // A volume inside another one must be mounted after it.
    volumes.sort_by_key(|mount| mount.target.components().count());
    own.chain(volumes.into_iter().map(volume)).collect()
}

fn volume(mount: &Mount) -> Value {
    let mode = if mount.read_only { "ro" } else { "rw" };
    json!({ "destination": mount.target, "type": "bind", "source": mount.source, "options": ["rbind", "rprivate", mode] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tests::spec;

    fn caps(change: impl FnOnce(&mut ContainerSpec), device_control: bool, held: u64) -> Vec<String> {
        let mut spec = spec("c", &["true"]);
        change(&mut spec);
        capabilities(&spec, device_control, held)
    }

    #[test]
    fn capability_sets() {
        assert_eq!(caps(|_| (), true, u64::MAX).len(), 14);
        assert!(!caps(|_| (), false, u64::MAX).contains(&"CAP_MKNOD".to_owned()));
        assert!(caps(|s| s.caps_add = vec!["net_admin".into()], true, u64::MAX).contains(&"CAP_NET_ADMIN".to_owned()));
        assert_eq!(caps(|s| s.caps_drop = vec!["ALL".into()], true, u64::MAX).len(), 0);
        let one = caps(|s| (s.caps_drop, s.caps_add) = (vec!["ALL".into()], vec!["CAP_CHOWN".into()]), true, u64::MAX);
        assert_eq!(one, ["CAP_CHOWN"]);
        assert_eq!(caps(|s| s.privileged = true, true, 0b11), ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
        assert_eq!(held_capabilities("CapEff:\t0\nCapBnd:\t000001fffeffffff\n"), 0x1fffeffffff);
    }

    #[test]
    fn nested_volumes_come_in_order() {
        let mut spec = spec("c", &["true"]);
        let mount = |target: &str| Mount { source: "/s".into(), target: target.into(), read_only: false };
        spec.mounts = vec![mount("/a/b/c"), mount("/a"), mount("/dev/shm")];
        let targets: Vec<String> =
            mounts(&spec).iter().map(|m| m["destination"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(targets, ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/a", "/dev/shm", "/a/b/c"]);
    }

    #[test]
    fn host_namespaces_are_left_out() {
        let mut spec = spec("c", &["true"]);
        (spec.host_pid, spec.host_ipc, spec.hostname) = (true, true, None);
        assert_eq!(namespaces(&spec).len(), 2);
    }
}
