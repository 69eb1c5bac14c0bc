//! What a cluster needs of the machine, checked before anything is made, each lack with its remedy.

use anyhow::{Result, bail};

const NAMESPACES: &str = "/proc/sys/user/max_net_namespaces";
/// Bits of `CapEff`.
const RIGHTS: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN is missing"), (21, "CAP_SYS_ADMIN is missing")];

/// What `/proc/self/status` says is not there; nothing when it does not say.
fn missing_rights(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let Some(have) = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()) else { return vec![] };
    RIGHTS.iter().filter(|(bit, _)| have & (1 << bit) == 0).map(|(_, what)| *what).collect()
}

pub(crate) fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "a cluster needs root: it makes network namespaces, mounts and firewall rules.\n  Run it with sudo: `sudo skiff up`, \
             or in a container with --privileged.\n  (`skiff kubectl` and other clients need no root, only a readable kubeconfig.)"
        );
    }
    let missing = missing_rights(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    if !missing.is_empty() {
        bail!(
            "this is a root without all of root's rights: {} (CapEff in /proc/self/status), as in a container.\n  Start the \
             container with --privileged, or run `skiff up` outside of it.",
            missing.join(" and ")
        );
    }
    if std::fs::read_to_string(NAMESPACES).is_ok_and(|n| n.trim() == "0") {
        bail!(
            "network namespaces are switched off: {NAMESPACES} is 0.\n  Allow them: `sysctl -w user.max_net_namespaces=10000`"
        );
    }
    need("/proc/self/ns/net", "network namespaces", "CONFIG_NET_NS")?;
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // A module may bring it: only a kernel that can load none is refused here.
    if !known.contains("overlay") && !std::path::Path::new("/proc/modules").exists() {
        bail!(
            "this kernel has no overlayfs, which containers' file systems are made of: it must be built with CONFIG_OVERLAY_FS"
        );
    }
    Ok(())
}

fn need(path: &str, what: &str, option: &str) -> Result<()> {
    match std::path::Path::new(path).exists() {
        true => Ok(()),
        false => bail!("this kernel has no {what} ({path} is missing): it must be built with {option}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights() {
        assert_eq!(missing_rights("CapEff:\t000001ffffffffff\n"), [""; 0]);
        assert_eq!(missing_rights("Name:\tx\nCapEff:\t00000000a80425fb\n").len(), 2, "what docker gives");
        assert_eq!(missing_rights(""), [""; 0]);
    }
}
