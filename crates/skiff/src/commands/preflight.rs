//! What a cluster needs of the machine, checked before anything is made, each lack with its remedy.

use anyhow::{Result, bail};

pub(crate) fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "a cluster needs root: it makes network namespaces, mounts and firewall rules.\n  Run it with sudo: `sudo skiff up`, \
             or in a container with --privileged.\n  (`skiff kubectl` and other clients need no root, only a readable kubeconfig.)"
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
