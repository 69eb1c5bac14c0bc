//! Making images: an OCI archive from directories and files, the same bytes for the same content. The tour and the tests
//! make theirs here, where no registry is in reach.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A layer's tar file, uncompressed.
#[derive(Clone)]
pub struct Layer {
    pub bytes: Vec<u8>,
    pub digest: String,
}

pub struct Recipe<'a> {
    /// Such as `skiff.local/ms-hello:v4`.
    pub name: &'a str,
    pub layers: Vec<&'a Layer>,
    pub env: Vec<&'a str>,
    pub cmd: Vec<&'a str>,
    pub working_dir: &'a str,
}

/// The digest of some bytes as OCI writes it.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

impl Layer {
    /// A layer that is a tar file already.
    pub fn of(bytes: Vec<u8>) -> Self {
        Layer { digest: digest(&bytes), bytes }
    }

    /// All of a directory, as it is.
    pub fn directory(root: &Path) -> io::Result<Self> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        tar.mode(tar::HeaderMode::Deterministic);
        tar.append_dir_all(".", root)?;
        Ok(Layer::of(tar.into_inner()?))
    }

    /// A few files with their modes, and symbolic links with what they point to.
    pub fn files(files: &[(&str, u32, &[u8])], links: &[(&str, &str)]) -> io::Result<Self> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, target) in links {
            let mut header = header(0, 0o777);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
        }
        for (path, mode, content) in files {
            tar.append_data(&mut header(content.len(), *mode), path, *content)?;
        }
        Ok(Layer::of(tar.into_inner()?))
    }
}

/// Every numeric field is filled: what is left empty is no number to those who read it.
fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The documents of one image: its configuration and its manifest, as bytes.
pub fn documents(image: &Recipe<'_>) -> (Vec<u8>, Vec<u8>) {
    let digests: Vec<&str> = image.layers.iter().map(|l| l.digest.as_str()).collect();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": image.env, "Cmd": image.cmd, "WorkingDir": image.working_dir},
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = bytes_of(&config);
    let layer = |l: &&Layer| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": l.digest, "size": l.bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
    });
    (config, bytes_of(&manifest))
}

fn bytes_of(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes the images as one OCI archive.
pub fn archive(path: &Path, images: &[Recipe<'_>]) -> io::Result<()> {
    let mut tar = tar::Builder::new(File::create(path)?);
    let mut written = vec![];
    let mut manifests = vec![];
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for image in images {
        let (config, manifest) = documents(image);
        let blobs = image.layers.iter().map(|l| l.bytes.as_slice()).chain([config.as_slice(), manifest.as_slice()]);
        for blob in blobs {
            let name = digest(blob).replace(':', "/");
            if !written.contains(&name) {
                append(&mut tar, &format!("blobs/{name}"), blob)?;
                written.push(name);
            }
        }
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "annotations": {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name},
        }));
    }
    append(&mut tar, "index.json", &bytes_of(&json!({"schemaVersion": 2, "manifests": manifests})))?;
    tar.into_inner()?.flush()
}

fn append(tar: &mut tar::Builder<File>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}
