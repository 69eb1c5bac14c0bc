//! Whether the host passes packets on between the cluster's link and its own ways out. Only those interfaces are told to,
//! not the host as a whole, and `down` takes it back.
//!
//! IPv6 had no such switch before Linux 6.17: `forwarding` of one interface makes the host deaf to its router there, that
//! of all lets packets pass everywhere. On older kernels IPv6 passes only where the host is a router already.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Switches that were turned on and were off before, one a line as below /proc/sys/net, kept until `down`.
const CHANGED: &str = "forwarding";

fn path(switch: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(switch)
}

/// Lets the interfaces pass on IPv4; remembers in `run` what was off.
pub(crate) fn on(interfaces: &[String], run: &Path) -> io::Result<()> {
    interfaces.iter().try_for_each(|i| turn_on(&format!("ipv4/conf/{i}/forwarding"), run))
}

const ALL6: &str = "ipv6/conf/all/forwarding";

/// Whether this host passes IPv6 on, or can be told to without harm.
pub(crate) fn can6() -> bool {
    is_on(ALL6).unwrap_or(false) || path("ipv6/conf/default/force_forwarding").exists()
}

/// Lets the interfaces pass on IPv6, unless the host does so anyway.
pub(crate) fn on6(interfaces: &[String], run: &Path) -> io::Result<()> {
    if is_on(ALL6)? {
        return Ok(());
    }
    interfaces.iter().try_for_each(|i| turn_on(&format!("ipv6/conf/{i}/force_forwarding"), run))
}

fn is_on(switch: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path(switch))?.trim() == "1")
}

fn turn_on(switch: &str, run: &Path) -> io::Result<()> {
    if is_on(switch)? {
        return Ok(());
    }
    // Remembered before it is done: a crash in between must not make it forgotten.
    let kept = fs::read_to_string(run.join(CHANGED)).unwrap_or_default();
    fs::write(run.join(CHANGED), format!("{kept}{switch}\n"))?;
    fs::write(path(switch), "1")
}

/// Takes back what was turned on. An interface that is gone took its switches with it.
pub(crate) fn restore(run: &Path) -> io::Result<()> {
    for switch in fs::read_to_string(run.join(CHANGED)).unwrap_or_default().lines() {
        match fs::write(path(switch), "0") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
