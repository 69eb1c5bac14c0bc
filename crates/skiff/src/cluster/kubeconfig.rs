//! The administrator's kubeconfig, mode 0600: it holds the key to everything.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::{
    fs::{Gid, Uid, fchown},
    process::geteuid,
};
use serde_json::json;

/// What a client needs to reach the API server as its certificate says.
pub(crate) struct Access<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) server: String,
    pub(crate) ca_pem: &'a str,
    pub(crate) cert_pem: &'a str,
    pub(crate) key_pem: &'a str,
}

/// Replaces the file as a whole.
pub(crate) fn write(path: &Path, access: &Access<'_>) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(render(access).as_bytes())?;
    if let Some((user, group)) = behind_sudo() {
        fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    fs::rename(&new, path)
}

/// Who called sudo: the file is for them, so that `sudo skiff up` leaves a cluster that they can use without.
fn behind_sudo() -> Option<(u32, u32)> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    geteuid().is_root().then(|| Some((number("SUDO_UID")?, number("SUDO_GID")?)))?
}

pub(crate) fn render(access: &Access<'_>) -> String {
    let name = format!("skiff-{}", access.cluster);
    let data = |pem: &str| STANDARD.encode(pem);
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": access.server,
            "certificate-authority-data": data(access.ca_pem),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": data(access.cert_pem),
            "client-key-data": data(access.key_pem),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    serde_yaml_ng::to_string(&value).expect("a kubeconfig is plain data")
}
