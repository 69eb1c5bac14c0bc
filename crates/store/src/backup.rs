//! Copies of an embedded store: taken beside the process that writes it, and put where no store is.

use std::{io::Write, path::Path};

use crate::{
    Entry, Error, Result, Rev,
    log::{self, Found},
    snapshot,
    state::Keep,
};

/// How often a copy is begun anew when a snapshot replaced the files under it.
const ATTEMPTS: usize = 10;

/// The whole state as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub rev: Rev,
    pub entries: Vec<Entry>,
}

impl Backup {
    /// The state of the store in a directory, at some moment of the call. Needs no lock: whatever process has the store
    /// open only appends to the files that are read here, or replaces them by a snapshot, which is noticed.
    pub fn take(dir: &Path) -> Result<Self> {
        let mut found = Found::read(dir)?;
        for _ in 1..ATTEMPTS {
            let taken = Self::read(dir, &found);
            let now = Found::read(dir)?;
            if taken.is_ok() || now == found {
                return taken;
            }
            found = now;
        }
        Self::read(dir, &found)
    }

    fn read(dir: &Path, found: &Found) -> Result<Self> {
        if found.is_empty() {
            return Err(Error::Io { reason: format!("there is no store in {}", dir.display()), fatal: false });
        }
        let state = log::replay_all(dir, found, Keep { changes: 0, bytes: 0 })?.state;
        Ok(Backup { rev: state.rev(), entries: state.entries() })
    }

    /// As bytes that tell when they are damaged or cut off.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        snapshot::write_frames(out, self.rev, &self.entries)
    }

    /// What [`Backup::write`] wrote; None when it is not whole.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (rev, entries) = snapshot::parse(bytes).ok()?;
        Some(Backup { rev, entries })
    }

    /// Makes a store of it in a directory that has none yet. The store goes on `jump` revisions later: what clients saw
    /// between the copy and now must not come again with another content, and a watch from then must not go on silently.
    pub fn restore(&self, dir: &Path, jump: u64) -> Result<Rev> {
        log::create_dir(dir)?;
        if !Found::read(dir)?.is_empty() {
            return Err(Error::Io { reason: format!("there is a store in {} already", dir.display()), fatal: false });
        }
        let rev = self.rev.saturating_add(jump);
        snapshot::write(dir, 1, rev, &self.entries)?;
        Ok(rev)
    }
}
