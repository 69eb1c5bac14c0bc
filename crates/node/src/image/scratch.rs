//! Where a pull keeps what it fetches: a directory in the store that its owner holds a lock on. One that nobody holds was
//! left by a crash, and goes when the next writer comes.

use std::{fs, fs::File, io, path::Path};

const PREFIX: &str = ".tmp";
/// A sweep may take a directory away in the moment between its making and its locking.
const TRIES: u32 = 10;

pub(super) struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    pub(super) fn new(store: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(store)?;
            let Some(lock) = there(File::open(dir.path()))? else { continue };
            lock.lock()?;
            if dir.path().is_dir() {
                return Ok(Scratch { dir, _lock: lock });
            }
        }
        Err(io::Error::other("somebody keeps removing it"))
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes what crashed pulls left.
pub(super) fn sweep(store: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Some(dir) = there(File::open(entry.path()))? else { continue };
        if dir.try_lock().is_ok() {
            there(fs::remove_dir_all(entry.path()))?;
        }
    }
    Ok(())
}

/// `None` when it has gone meanwhile.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir(store.path().join("layers")).unwrap();
        let held = Scratch::new(store.path()).unwrap();
        let left = store.path().join(".tmpleft");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("blob"), "x").unwrap();
        sweep(store.path()).unwrap();
        assert!(held.path().exists() && !left.exists() && store.path().join("layers").exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }
}
