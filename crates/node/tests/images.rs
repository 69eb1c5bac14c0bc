//! The store of images: archives good and broken, several writers, a real registry.

mod common;

use std::{fs, io::Write, path::Path, process::Command};

use common::{can_run, make_root};
use serde_json::json;
use sha2::{Digest, Sha256};
use skiff_node::image::{Images, Options, PullError};
use skiff_testkit::{
    registry::{Registry, free_port},
    tools::{root_with, run},
};

fn sha(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A layer of busybox, and one that hides `/etc/group`.
fn layers(dir: &Path) -> [Vec<u8>; 2] {
    let root = dir.join("root");
    make_root(&root);
    let mut base = tar::Builder::new(Vec::new());
    base.follow_symlinks(false);
    base.append_dir_all(".", &root).unwrap();
    let mut top = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    top.append_data(&mut header, "etc/.wh.group", std::io::empty()).unwrap();
    [base.into_inner().unwrap(), top.into_inner().unwrap()]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI layout of both layers, the first one gzipped, by that name.
fn archive(dir: &Path, name: &str) -> Vec<u8> {
    let [base, top] = layers(dir);
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "config": { "Cmd": ["/bin/sh"], "Env": ["A=b"], "User": "user", "ExposedPorts": { "80/tcp": {} } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha(&base)), format!("sha256:{}", sha(&top))] },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let (packed, media) = (gzip(&base), "application/vnd.oci.image.layer.v1.tar");
    let blob = |bytes: &[u8], media: &str| json!({ "mediaType": media, "digest": format!("sha256:{}", sha(bytes)), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(&packed, &format!("{media}+gzip")), blob(&top, media)],
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let mut entry = blob(&manifest, "application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] })).unwrap();
    let mut out = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        out.append_data(&mut header, name, bytes).unwrap();
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    put("index.json", &index);
    for bytes in [&config, &manifest, &packed, &top] {
        put(&format!("blobs/sha256/{}", sha(bytes)), bytes);
    }
    out.into_inner().unwrap()
}

#[test]
fn an_archive_is_loaded_found_and_removed() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path().join("images"), Options::default()).unwrap();
    let plain = archive(dir.path(), "tiny:v1");
    let (file, packed) = (dir.path().join("a.tar"), dir.path().join("a.tar.gz"));
    fs::write(&file, &plain).unwrap();
    fs::write(&packed, gzip(&plain)).unwrap();
    assert_eq!(images.load(&file).unwrap(), ["docker.io/library/tiny:v1"]);
    assert_eq!(images.load(&packed).unwrap(), ["docker.io/library/tiny:v1"]);
    let image = images.find("tiny:v1").unwrap().unwrap();
    assert_eq!(images.find(&image.id).unwrap().unwrap(), image);
    assert_eq!((image.config.cmd.as_slice(), image.config.user.as_str()), (&["/bin/sh".to_owned()][..], "user"));
    assert!(image.layers[0].join("bin/busybox").exists() && image.size > 100_000);
    let hidden = fs::symlink_metadata(image.layers[1].join("etc/group")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&hidden.file_type()));
    assert_eq!(images.list().unwrap().len(), 1);
    assert!(images.remove("tiny:v1", &[]).unwrap());
    assert!(!images.remove("tiny:v1", &[]).unwrap());
    assert!(!image.layers[0].exists() && images.list().unwrap().is_empty());
}

#[test]
fn broken_archives_are_named() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path().join("images"), Options::default()).unwrap();
    let whole = archive(dir.path(), "tiny");
    let file = dir.path().join("a.tar");
    let check = |bytes: &[u8], expect: &str| {
        fs::write(&file, bytes).unwrap();
        let error = images.load(&file).unwrap_err().to_string();
        assert!(error.contains("a.tar: ") && error.contains(expect), "{error}");
    };
    check(b"", "neither index.json");
    check(&whole[..whole.len() / 2], "");
    check(&gzip(&whole)[..5000], "cannot be decompressed");
    let mut flipped = whole.clone();
    let at = flipped.windows(4).rposition(|w| w == b".wh.").unwrap();
    flipped[at + 5] ^= 1;
    check(&flipped, "layer blobs/sha256/");
    assert!(images.list().unwrap().is_empty());
}

#[test]
fn two_writers_at_once() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.tar");
    fs::write(&file, archive(dir.path(), "tiny")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let images = Images::open(dir.path().join("images"), Options::default()).unwrap();
                images.load(&file).unwrap();
                assert!(images.find("tiny").unwrap().unwrap().layers.iter().all(|l| l.is_dir()));
            });
        }
    });
}

#[tokio::test]
async fn pulled_from_a_registry() {
    if !can_run() || !root_with(&["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let file = dir.path().join("a.tar");
    fs::write(&file, archive(dir.path(), "tiny")).unwrap();
    let name = format!("127.0.0.1:{}/me/tiny:v1", registry.port);
    let mut push = Command::new("skopeo");
    push.args(["--insecure-policy", "copy", "--dest-tls-verify=false", "-q"]);
    push.arg(format!("oci-archive:{}", file.display())).arg(format!("docker://{name}"));
    run(&mut push).unwrap();

    let images = Images::open(dir.path().join("images"), Options::default()).unwrap();
    let image = images.pull(&name, None, &|_, _| ()).await.unwrap();
    assert!(image.layers[0].join("bin/busybox").exists());
    assert_eq!(image.references, std::slice::from_ref(&name));
    let by_digest = images.pull(&image.digests[0], None, &|_, _| ()).await.unwrap();
    assert_eq!(by_digest.id, image.id);
    let error = images
        .pull(&format!("127.0.0.1:{}/me/tiny:none", registry.port), None, &|_, _| ())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("manifest unknown"), "{error}");
    let closed = format!("127.0.0.1:{}/x", free_port().unwrap());
    let error = images.pull(&closed, None, &|_, _| ()).await.unwrap_err();
    assert!(
        matches!(&error, PullError::Unreachable { reason, .. } if reason.contains("connection refused")),
        "{error}"
    );
}
