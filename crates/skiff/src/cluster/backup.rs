//! A cluster in one file: a tar of its configuration, its objects as of one revision, and the keys without which no token
//! and no agent's certificate would be good any more. Images and volumes are not in it.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skiff_store::backup::Backup as Objects;

use super::config::Config;

/// The first file of the tar.
const MANIFEST: &str = "backup.json";
const OBJECTS: &str = "objects";
const FORMAT: u32 = 1;
/// From the directory of certificates; all others are made anew from these.
pub(crate) const KEYS: [&str; 3] = ["ca.crt", "ca.key", "sa.key"];
/// Far above what a store in memory can be.
const MOST_BYTES: u64 = 8 << 30;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    format: u32,
    made: String,
    revision: u64,
    objects: usize,
    cluster: Config,
    /// SHA-256 of the other files, in hexadecimal.
    files: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Backup {
    pub(crate) config: Config,
    pub(crate) objects: Objects,
    /// By the names of [`KEYS`].
    pub(crate) keys: BTreeMap<String, Vec<u8>>,
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Backup {
    /// `made`: the time, for the reader.
    pub(crate) fn write(&self, made: String, out: impl Write) -> Result<()> {
        let mut objects = vec![];
        self.objects.write(&mut objects)?;
        let mut files = self.keys.clone();
        files.insert(OBJECTS.into(), objects);
        let manifest = Manifest {
            format: FORMAT,
            made,
            revision: self.objects.rev,
            objects: self.objects.entries.len(),
            cluster: self.config.clone(),
            files: files.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect(),
        };
        let mut tar = tar::Builder::new(out);
        add(&mut tar, MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
        files.iter().try_for_each(|(name, bytes)| add(&mut tar, name, bytes))?;
        tar.into_inner()?.flush()?;
        Ok(())
    }

    /// Every byte is checked before anything of it is believed.
    pub(crate) fn read(from: impl Read) -> Result<Self> {
        let mut files = unpack(from).map_err(explained)?;
        let manifest = files.remove(MANIFEST).with_context(|| format!("there is no {MANIFEST} in it"))?;
        let manifest: Manifest = serde_json::from_slice(&manifest).context(MANIFEST)?;
        ensure!(manifest.format == FORMAT, "its format is {}, this skiff knows {FORMAT} only", manifest.format);
        super::paths::check_name(&manifest.cluster.name).map_err(anyhow::Error::msg)?;
        for name in KEYS.iter().chain([&OBJECTS]) {
            let bytes = files.get(*name).with_context(|| format!("{name} is missing in it"))?;
            let good = manifest.files.get(*name).is_some_and(|want| *want == digest(bytes));
            ensure!(good, "{name} in it is damaged: its SHA-256 is not the one in {MANIFEST}");
        }
        let objects = files.remove(OBJECTS).and_then(|bytes| Objects::parse(&bytes));
        let objects = objects.with_context(|| format!("{OBJECTS} in it is damaged"))?;
        let keys = files.into_iter().filter(|(name, _)| KEYS.contains(&name.as_str())).collect();
        Ok(Backup { config: manifest.cluster, objects, keys })
    }
}

fn add(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}

/// A failure of the disk is told as it is; what is wrong with the bytes would say nothing to a reader.
fn explained(error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(_) => error.into(),
        None => anyhow::anyhow!("this is no backup of a cluster, or only a part of one"),
    }
}

/// The files of a tar by name; what has no name of ours is left out.
fn unpack(from: impl Read) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(from.take(MOST_BYTES));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if name != MANIFEST && name != OBJECTS && !KEYS.contains(&name.as_str()) {
            continue;
        }
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != entry.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        files.insert(name, bytes);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use skiff_store::Entry;

    use super::*;

    fn sample() -> Vec<u8> {
        let entry = Entry { key: "/a".into(), value: "value".into(), created: 1, modified: 2 };
        let objects = Objects { rev: 7, entries: vec![entry] };
        let keys = KEYS.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec())).collect();
        let backup = Backup { config: Config::new("a", 1, 2, 6443), objects, keys };
        let mut bytes = vec![];
        backup.write("now".into(), &mut bytes).unwrap();
        assert_eq!(Backup::read(&bytes[..]).unwrap(), backup);
        bytes
    }

    #[test]
    fn cut_or_changed_is_refused() {
        let good = sample();
        // Behind the last file there are only zeros.
        let end = good.iter().rposition(|b| *b != 0).unwrap();
        for at in (0..end).step_by(7) {
            assert!(Backup::read(&good[..at]).is_err(), "cut at {at}");
        }
        // Padding and fields of the tar that say nothing may change; what is read must be the same then.
        let whole = Backup::read(&good[..]).unwrap();
        for at in 0..end {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            let objects = |b: Backup| (b.objects, b.keys);
            let read = Backup::read(&bad[..]).map(objects);
            assert!(read.is_err() || read.unwrap() == (whole.objects.clone(), whole.keys.clone()), "byte {at}");
        }
    }

    #[test]
    fn anything_else_is_refused_in_words() {
        for bytes in [&b""[..], b"hello", &[0; 2048]] {
            let error = format!("{:#}", Backup::read(bytes).unwrap_err());
            assert!(error.contains("backup"), "{error}");
        }
    }
}
