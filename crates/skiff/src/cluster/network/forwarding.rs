//! Whether the host passes packets on between the cluster's link and its own ways out. Only those interfaces are told to,
//! not the host as a whole, and `down` takes it back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Interfaces that were told to forward and did not before, one name a line, kept until `down`.
const CHANGED: &str = "forwarding";

fn switch(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf").join(interface).join("forwarding")
}

/// Switches forwarding on for the interfaces; remembers in `run` which of them had it off.
pub(crate) fn on(interfaces: &[String], run: &Path) -> io::Result<()> {
    for interface in interfaces {
        if fs::read_to_string(switch(interface))?.trim() == "1" {
            continue;
        }
        // Remembered before it is done: a crash in between must not make it forgotten.
        let kept = fs::read_to_string(run.join(CHANGED)).unwrap_or_default();
        fs::write(run.join(CHANGED), format!("{kept}{interface}\n"))?;
        fs::write(switch(interface), "1")?;
    }
    Ok(())
}

/// Takes back what `on` did. An interface that is gone took its setting with it.
pub(crate) fn restore(run: &Path) -> io::Result<()> {
    for interface in fs::read_to_string(run.join(CHANGED)).unwrap_or_default().lines() {
        match fs::write(switch(interface), "0") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
