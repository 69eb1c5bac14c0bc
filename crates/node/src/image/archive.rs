//! Image archives: OCI layouts and what `docker save` writes. The archive is indexed once and read in place.

use std::{
    collections::HashMap,
    fs::File,
    io,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde_json::Value;

use super::{
    Error, Reference,
    reference::is_digest,
    store::{Store, digest_of, parse_config, plain},
};

/// Manifests and configurations are small.
const SMALL: u64 = 4 << 20;
const ENTRIES: usize = 100_000;

struct Archive {
    file: File,
    /// Where each file's bytes lie.
    index: HashMap<String, (u64, u64)>,
}

/// One image found in an archive.
struct Found {
    config: Vec<u8>,
    /// Entries of the archive, lowest layer first, each with the digest it must have.
    layers: Vec<(String, Option<String>)>,
    names: Vec<Reference>,
}

pub(super) fn load(store: &Store, path: &Path, limit: u64) -> Result<Vec<String>, Error> {
    let bad = |reason: String| Error::Archive { archive: path.to_owned(), reason };
    let archive = Archive::open(path, &store.dir).map_err(bad)?;
    let images = archive.images(path).map_err(bad)?;
    let lock = store.lock()?;
    let mut loaded = Vec::new();
    for image in images {
        let parsed = parse_config(&image.config).map_err(bad)?;
        if parsed.diff_ids.len() != image.layers.len() {
            let (named, held) = (parsed.diff_ids.len(), image.layers.len());
            return Err(bad(format!("its configuration names {named} layers, its manifest {held}")));
        }
        for (diff_id, (entry, digest)) in parsed.diff_ids.iter().zip(&image.layers) {
            let from = archive.open_entry(entry).map_err(bad)?;
            store.add_layer(&lock, diff_id, digest.as_deref(), from, limit).map_err(|e| match e {
                Error::Layer { reason, .. } => bad(format!("layer {entry}: {reason}")),
                other => other,
            })?;
        }
        store.add_image(&lock, &image.config, &image.names, None)?;
        match image.names.is_empty() {
            true => loaded.push(parsed.id),
            false => loaded.extend(image.names.iter().map(Reference::to_string)),
        }
    }
    Ok(loaded)
}

impl Archive {
    /// A gzipped archive is unpacked to an unnamed file first, so that it can be read in any order.
    fn open(path: &Path, scratch: &Path) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|e| e.to_string())?;
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err("this is a directory, not an archive".into());
        }
        let mut magic = [0; 2];
        let gzip = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
        file.rewind().map_err(|e| e.to_string())?;
        if gzip {
            let mut whole = tempfile::tempfile_in(scratch).map_err(|e| e.to_string())?;
            let mut from = plain(file).map_err(|e| e.to_string())?;
            io::copy(&mut from, &mut whole).map_err(|e| format!("cannot be decompressed: {e}"))?;
            file = whole;
        }
        file.rewind().map_err(|e| e.to_string())?;
        let index = index(&file)?;
        Ok(Archive { file, index })
    }

    fn open_entry(&self, name: &str) -> Result<impl Read + use<>, String> {
        let (at, size) = *self.index.get(name).ok_or_else(|| format!("entry {name} is missing"))?;
        // A description of its own: readers do not move each other.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file));
        let mut file = File::open(path).map_err(|e| format!("entry {name}: {e}"))?;
        file.seek(SeekFrom::Start(at)).map_err(|e| format!("entry {name}: {e}"))?;
        Ok(file.take(size))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let from = self.open_entry(name)?;
        from.take(SMALL + 1).read_to_end(&mut bytes).map_err(|e| format!("entry {name}: {e}"))?;
        if bytes.len() as u64 > SMALL { Err(format!("entry {name} is larger than {SMALL} bytes")) } else { Ok(bytes) }
    }

    fn json(&self, name: &str) -> Result<Value, String> {
        serde_json::from_slice(&self.read(name)?).map_err(|e| format!("entry {name}: {e}"))
    }

    fn images(&self, path: &Path) -> Result<Vec<Found>, String> {
        if self.index.contains_key("manifest.json") {
            return self.docker();
        }
        if self.index.contains_key("index.json") {
            return self.oci(path);
        }
        Err("it holds neither index.json (OCI layout) nor manifest.json (docker save)".to_owned())
    }

    fn docker(&self) -> Result<Vec<Found>, String> {
        let manifest = self.json("manifest.json")?;
        let images = manifest.as_array().ok_or("entry manifest.json: not a list")?;
        images.iter().map(|image| self.docker_image(image)).collect()
    }

    fn docker_image(&self, image: &Value) -> Result<Found, String> {
        let config = image["Config"].as_str().ok_or("entry manifest.json: an image without Config")?;
        let layers = strings(&image["Layers"]);
        let names: Result<Vec<_>, _> = strings(&image["RepoTags"]).iter().map(|name| Reference::parse(name)).collect();
        let names = names.map_err(|e| format!("entry manifest.json: {e}"))?;
        Ok(Found { config: self.read(config)?, layers: layers.into_iter().map(|l| (l, None)).collect(), names })
    }

    fn oci(&self, path: &Path) -> Result<Vec<Found>, String> {
        let index = self.json("index.json")?;
        let manifests = index["manifests"].as_array().ok_or("entry index.json: no list of manifests")?;
        let stem = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = stem.split('.').next().unwrap_or_default().to_ascii_lowercase();
        manifests.iter().map(|descriptor| self.oci_image(descriptor, &stem)).collect()
    }

    fn oci_image(&self, descriptor: &Value, stem: &str) -> Result<Found, String> {
        let name = oci_name(&descriptor["annotations"], stem);
        let names = name.map(|n| Reference::parse(&n)).transpose().map_err(|e| format!("entry index.json: {e}"))?;
        let manifest = self.manifest(descriptor, 0)?;
        let config = self.blob(&manifest["config"])?;
        let layers = manifest["layers"].as_array().ok_or("a manifest without layers")?;
        let layers: Result<Vec<_>, String> =
            layers.iter().map(|l| Ok((blob_path(l)?, Some(digest(l)?.to_owned())))).collect();
        Ok(Found { config, layers: layers?, names: names.into_iter().collect() })
    }

    /// An index of several platforms leads to the manifest of ours.
    fn manifest(&self, descriptor: &Value, depth: u32) -> Result<Value, String> {
        let manifest: Value =
            serde_json::from_slice(&self.blob(descriptor)?).map_err(|e| format!("a manifest: {e}"))?;
        match manifest["manifests"].as_array() {
            Some(list) if depth < 4 => self.manifest(choose(list)?, depth + 1),
            Some(_) => Err("an index in an index in an index".to_owned()),
            None => Ok(manifest),
        }
    }

    fn blob(&self, descriptor: &Value) -> Result<Vec<u8>, String> {
        let path = blob_path(descriptor)?;
        let bytes = self.read(&path)?;
        let (found, expected) = (digest_of(&bytes), digest(descriptor)?);
        if found == expected { Ok(bytes) } else { Err(format!("entry {path}: its content is {found}")) }
    }
}

/// The manifest for this machine out of a list of platforms.
pub(super) fn choose(list: &[Value]) -> Result<&Value, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |d: &&Value| d["platform"]["os"] == "linux" && d["platform"]["architecture"] == arch;
    let only = || list.first().filter(|d| list.len() == 1 && d["platform"].is_null());
    list.iter().find(fits).or_else(only).ok_or_else(|| format!("no match for platform linux/{arch} in manifest"))
}

/// Tools differ in where they put a name: whole, without a registry, or only the tag.
fn oci_name(annotations: &Value, stem: &str) -> Option<String> {
    if let Some(name) = annotations["io.containerd.image.name"].as_str() {
        return Some(name.to_owned());
    }
    let name = annotations["org.opencontainers.image.ref.name"].as_str()?;
    let is_name = name.contains(['/', ':']) || Reference::parse(name).is_ok() && name != "latest";
    Some(if is_name { name.to_owned() } else { format!("{stem}:{name}") })
}

pub(super) fn digest(descriptor: &Value) -> Result<&str, String> {
    descriptor["digest"]
        .as_str()
        .filter(|d| is_digest(d))
        .ok_or_else(|| "a descriptor without a sha256 digest".to_owned())
}

fn blob_path(descriptor: &Value) -> Result<String, String> {
    digest(descriptor).map(|digest| format!("blobs/{}", digest.replace(':', "/")))
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// An error about a header may quote its bytes, which are no text to show.
fn broken(entries: usize, error: &io::Error) -> String {
    match entries {
        0 => "neither a tar archive nor a compressed one: make it with `docker save` or `skopeo copy … oci-archive:…`"
            .into(),
        n => {
            let error: String =
                error.to_string().chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(100).collect();
            format!("cut short or damaged after {n} entries: {error}")
        }
    }
}

fn index(file: &File) -> Result<HashMap<String, (u64, u64)>, String> {
    let mut index = HashMap::new();
    let mut links: Vec<(String, String)> = Vec::new();
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries_with_seek().map_err(|e| format!("not a tar archive: {e}"))?;
    for entry in entries {
        let entry = entry.map_err(|e| broken(index.len(), &e))?;
        if index.len() > ENTRIES {
            return Err(format!("it has more than {ENTRIES} entries"));
        }
        let path = entry.path().map_err(|e| e.to_string())?;
        let name = path.strip_prefix("./").unwrap_or(&path).to_string_lossy().into_owned();
        if let Some(target) = entry.link_name().ok().flatten() {
            // Old `docker save` shares layers between images by links.
            let target = path.parent().unwrap_or(Path::new("")).join(target);
            links.push((name, normal(&target)));
        } else if entry.header().entry_type().is_file() {
            index.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    for (name, target) in links {
        if let Some(place) = index.get(&target).copied() {
            index.insert(name, place);
        }
    }
    let end = file.metadata().map_err(|e| e.to_string())?.len();
    match index.iter().find(|(_, (at, size))| at.saturating_add(*size) > end) {
        Some((name, _)) => Err(format!("entry {name}: the archive ends in the middle of it")),
        None => Ok(index),
    }
}

/// Without `..` and `.`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_in_layouts() {
        let name = |value: &str| oci_name(&json!({ "org.opencontainers.image.ref.name": value }), "stem");
        assert_eq!(name("docker.io/library/a:1").as_deref(), Some("docker.io/library/a:1"));
        assert_eq!(name("app:v1").as_deref(), Some("app:v1"));
        assert_eq!(name("ms-bye").as_deref(), Some("ms-bye"));
        assert_eq!(name("latest").as_deref(), Some("stem:latest"));
        assert_eq!(oci_name(&json!({ "io.containerd.image.name": "x/y:z" }), "s").as_deref(), Some("x/y:z"));
        assert_eq!(oci_name(&Value::Null, "s"), None);
    }

    #[test]
    fn platforms() {
        let one = |os: &str, arch: &str| json!({ "digest": format!("{os}-{arch}"), "platform": { "os": os, "architecture": arch } });
        let list = [one("linux", "s390x"), one("linux", "amd64"), one("linux", "arm64"), one("windows", "amd64")];
        assert!(choose(&list).is_ok());
        assert_eq!(choose(&list[..1]).unwrap_err().split(" in ").last(), Some("manifest"));
        assert!(choose(&[json!({ "digest": "x" })]).is_ok());
    }
}
