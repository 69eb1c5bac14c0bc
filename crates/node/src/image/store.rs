//! The directory of images. Readers need no lock: what they see is complete; writers take turns by a file lock.

use std::{
    collections::BTreeMap,
    fs,
    fs::File,
    io,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Config, Error, Image, Reference, layer, reference::is_digest, scratch};

pub(super) struct Store {
    pub(super) dir: PathBuf,
}

/// One name of an image.
#[derive(Serialize, Deserialize)]
struct Name {
    reference: String,
    id: String,
    /// `repository@digest` when it came from a registry.
    digest: Option<String>,
}

/// A layer that is whole.
#[derive(Serialize, Deserialize)]
struct Size {
    size: u64,
}

/// What an image's configuration says that we use.
pub(super) struct Parsed {
    pub(super) id: String,
    pub(super) diff_ids: Vec<String>,
    config: Config,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let store = Store { dir: dir.to_owned() };
        for part in ["layers", "configs", "refs", "partial"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).map_err(|e| disk("create", &part, e))?;
        }
        Ok(store)
    }

    /// Held while anything is written; other processes wait. What a crashed writer left is deleted.
    pub(super) fn lock(&self) -> Result<Lock, Error> {
        let path = self.dir.join("lock");
        let file = File::create(&path).map_err(|e| disk("create", &path, e))?;
        file.lock().map_err(|e| disk("lock", &path, e))?;
        let partial = self.dir.join("partial");
        for entry in fs::read_dir(&partial).map_err(|e| disk("read", &partial, e))? {
            let path = entry.map_err(|e| disk("read", &partial, e))?.path();
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).map_err(|e| disk("remove", &path, e))?;
        }
        scratch::sweep(&self.dir).map_err(|e| disk("clean up", &self.dir, e))?;
        Ok(Lock { _file: file })
    }

    fn layer_dir(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(hex(diff_id))
    }

    /// Its size is written only after the layer has its final name.
    fn size_file(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(format!("{}.json", hex(diff_id)))
    }

    pub(super) fn has_layer(&self, diff_id: &str) -> bool {
        self.size_file(diff_id).exists()
    }

    /// Unpacks a layer, gzipped or not, unless it is here already. `digest` is of the bytes as they come.
    pub(super) fn add_layer(
        &self,
        _lock: &Lock,
        diff_id: &str,
        digest: Option<&str>,
        from: impl Read,
        limit: u64,
    ) -> Result<(), Error> {
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let bad = |reason: String| Error::Layer { layer: diff_id.to_owned(), reason };
        let partial = self.dir.join("partial").join(hex(diff_id));
        fs::create_dir_all(&partial).map_err(|e| disk("create", &partial, e))?;
        let mut raw = Hashing::new(from);
        let mut plain = Hashing::new(plain(&mut raw).map_err(|e| bad(e.to_string()))?);
        let size = layer::unpack(&mut plain, &partial, limit).map_err(bad)?;
        io::copy(&mut plain, &mut io::sink()).map_err(|e| bad(e.to_string()))?;
        let found = plain.digest();
        io::copy(&mut raw, &mut io::sink()).map_err(|e| bad(e.to_string()))?;
        let found_raw = raw.digest();
        if let Some(expected) = digest.filter(|d| *d != found_raw) {
            return Err(bad(format!("its content is {found_raw}, not {expected} as promised")));
        }
        if found != diff_id {
            return Err(bad(format!("it unpacks to {found}, which is not what the image's configuration names")));
        }
        sync(&partial).map_err(|e| disk("sync", &partial, e))?;
        let dir = self.layer_dir(diff_id);
        // Of a writer that crashed between the two steps below.
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(disk("remove", &dir, e)),
            _ => {}
        }
        fs::rename(&partial, &dir).map_err(|e| disk("rename", &dir, e))?;
        self.write(&self.size_file(diff_id), &serde_json::to_vec(&Size { size }).unwrap_or_default())
    }

    /// Makes an image whose layers are all here known under `references`.
    pub(super) fn add_image(
        &self,
        _lock: &Lock,
        config: &[u8],
        references: &[Reference],
        digest: Option<&str>,
    ) -> Result<(), Error> {
        let id = digest_of(config);
        self.write(&self.dir.join("configs").join(hex(&id)), config)?;
        for reference in references {
            let digest = digest.map(|d| format!("{}@{d}", reference.name()));
            let name = Name { reference: reference.to_string(), id: id.clone(), digest };
            self.write(&self.name_file(&name.reference), &serde_json::to_vec(&name).unwrap_or_default())?;
        }
        Ok(())
    }

    fn name_file(&self, reference: &str) -> PathBuf {
        self.dir.join("refs").join(reference.replace('%', "%25").replace('/', "%2F"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let partial = self.dir.join("partial").join(path.file_name().unwrap_or_default());
        let write = || {
            fs::write(&partial, bytes)?;
            File::open(&partial)?.sync_all()?;
            fs::rename(&partial, path)
        };
        write().map_err(|e| disk("write", path, e))
    }

    /// Every name, in order.
    fn names(&self) -> Result<BTreeMap<String, Name>, Error> {
        let dir = self.dir.join("refs");
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(|e| disk("read", &dir, e))? {
            let path = entry.map_err(|e| disk("read", &dir, e))?.path();
            if let Some(name) = read::<Name>(&path)? {
                names.insert(name.reference.clone(), name);
            }
        }
        Ok(names)
    }

    pub(super) fn find(&self, reference: &str) -> Result<Option<Image>, Error> {
        if is_digest(reference) {
            return Ok(self.list()?.into_iter().find(|image| image.id == reference));
        }
        let wanted = Reference::parse(reference)?;
        let names = self.names()?;
        let by_digest = wanted.digest.as_ref().map(|digest| format!("{}@{digest}", wanted.name()));
        let named = match by_digest {
            Some(digest) => names.values().find(|name| name.digest.as_ref() == Some(&digest)),
            None => names.get(&wanted.to_string()),
        };
        named.map_or(Ok(None), |name| self.image(&name.id, &names))
    }

    pub(super) fn list(&self) -> Result<Vec<Image>, Error> {
        let names = self.names()?;
        let dir = self.dir.join("configs");
        let mut images = Vec::new();
        for entry in fs::read_dir(&dir).map_err(|e| disk("read", &dir, e))? {
            let entry = entry.map_err(|e| disk("read", &dir, e))?;
            let id = format!("sha256:{}", entry.file_name().to_string_lossy());
            images.extend(self.image(&id, &names)?);
        }
        images.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
        Ok(images)
    }

    /// `None` when it has just been removed.
    fn image(&self, id: &str, names: &BTreeMap<String, Name>) -> Result<Option<Image>, Error> {
        let path = self.dir.join("configs").join(hex(id));
        let Some(parsed) = read_bytes(&path)?.map(|bytes| parse_config(&bytes)) else { return Ok(None) };
        let parsed = parsed.map_err(|e| disk("read", &path, io::Error::other(e)))?;
        let mine = || names.values().filter(|name| name.id == id);
        let mut size = 0;
        for diff_id in &parsed.diff_ids {
            size += read::<Size>(&self.size_file(diff_id))?.map_or(0, |s| s.size);
        }
        Ok(Some(Image {
            id: id.to_owned(),
            references: mine().map(|name| name.reference.clone()).collect(),
            digests: mine().filter_map(|name| name.digest.clone()).collect(),
            layers: parsed.diff_ids.iter().map(|diff_id| self.layer_dir(diff_id)).collect(),
            config: parsed.config,
            size,
        }))
    }

    pub(super) fn remove(&self, reference: &str, used: &[PathBuf]) -> Result<bool, Error> {
        let _lock = self.lock()?;
        let Some(image) = self.find(reference)? else { return Ok(false) };
        let by_id = is_digest(reference);
        let wanted = if by_id { String::new() } else { Reference::parse(reference)?.to_string() };
        let gone: Vec<&String> =
            image.references.iter().filter(|r| by_id || **r == wanted || image.references.len() == 1).collect();
        for name in &gone {
            let path = self.name_file(name);
            fs::remove_file(&path).map_err(|e| disk("remove", &path, e))?;
        }
        if gone.len() == image.references.len() {
            let config = self.dir.join("configs").join(hex(&image.id));
            fs::remove_file(&config).map_err(|e| disk("remove", &config, e))?;
            self.remove_layers(&image.layers, used)?;
        }
        Ok(true)
    }

    fn remove_layers(&self, layers: &[PathBuf], used: &[PathBuf]) -> Result<(), Error> {
        let kept: Vec<PathBuf> = self.list()?.into_iter().flat_map(|image| image.layers).collect();
        for dir in layers.iter().filter(|dir| !kept.contains(dir) && !used.contains(dir)) {
            // Without its size a layer does not count: a crash in between leaves only work to redo.
            let size = dir.with_extension("json");
            fs::remove_file(&size).or_else(missing_is_fine).map_err(|e| disk("remove", &size, e))?;
            fs::remove_dir_all(dir).or_else(missing_is_fine).map_err(|e| disk("remove", dir, e))?;
        }
        Ok(())
    }
}

/// Held until dropped.
pub(super) struct Lock {
    _file: File,
}

/// Reads an image's configuration. Pure.
pub(super) fn parse_config(bytes: &[u8]) -> Result<Parsed, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("its configuration is not JSON: {e}"))?;
    let strings = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
    };
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let diff_ids = strings(&value["rootfs"]["diff_ids"]);
    if !diff_ids.iter().all(|d| is_digest(d)) {
        return Err("its configuration's rootfs.diff_ids are not all sha256 digests".to_owned());
    }
    let run = &value["config"];
    let config = Config {
        entrypoint: strings(&run["Entrypoint"]),
        cmd: strings(&run["Cmd"]),
        env: strings(&run["Env"]),
        working_dir: text(&run["WorkingDir"]),
        user: text(&run["User"]),
        exposed: run["ExposedPorts"].as_object().into_iter().flat_map(|o| o.keys().cloned()).collect(),
        stop_signal: run["StopSignal"].as_str().map(str::to_owned),
    };
    Ok(Parsed { id: digest_of(bytes), diff_ids, config })
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Whatever passes is hashed.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Hashing { inner, hash: Sha256::new() }
    }

    pub(super) fn digest(self) -> String {
        format!("sha256:{:x}", self.hash.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// The stream itself, or what it holds when it is gzipped.
pub(super) fn plain<'a>(mut from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    from.by_ref().take(4).read_to_end(&mut magic)?;
    let gzip = magic.starts_with(&[0x1f, 0x8b]);
    if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        return Err(io::Error::other("it is compressed by zstd, which is not supported: use gzip"));
    }
    let whole = io::Cursor::new(magic).chain(from);
    Ok(if gzip { Box::new(flate2::read::MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

fn sync(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| disk("read", path, e.into()))
}

fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(disk("read", path, e)),
    }
}

fn missing_is_fine(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

pub(super) fn disk(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Disk { what, path: path.to_owned(), source }
}
