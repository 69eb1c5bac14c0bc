//! Where a container sees the pod's volumes.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use crate::{pod::env, runtime::Mount};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("volumeMounts: there is no volume \"{0}\" in the pod")]
    Unknown(String),
    #[error("subPath {0:?} must be a relative path without '..'")]
    SubPath(String),
    #[error("failed to prepare subPath {path}: {cause}")]
    Prepare { path: PathBuf, cause: io::Error },
}

/// One mount for each volumeMount; missing sub-paths are made. `variables` expand subPathExpr.
pub fn of(
    spec: &PodSpec,
    container: &Container,
    pod_dir: &Path,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, Error> {
    container.volume_mounts.iter().flatten().map(|m| one(spec, m, pod_dir, variables)).collect()
}

fn one(
    spec: &PodSpec,
    wish: &VolumeMount,
    pod_dir: &Path,
    variables: &BTreeMap<String, String>,
) -> Result<Mount, Error> {
    let volume = spec.volumes.iter().flatten().find(|v| v.name == wish.name);
    let volume = volume.ok_or_else(|| Error::Unknown(wish.name.clone()))?;
    let root = super::source(pod_dir, volume);
    let sub = match &wish.sub_path_expr {
        Some(text) if !text.is_empty() => Some(env::expand(text, |n| variables.get(n).cloned())),
        _ => wish.sub_path.clone().filter(|s| !s.is_empty()),
    };
    let source = match sub {
        Some(sub) => sub_path(&root, &sub)?,
        None => root,
    };
    let ours = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    Ok(Mount { source, target: PathBuf::from(&wish.mount_path), read_only: wish.read_only == Some(true) || ours })
}

/// A path below the volume that no link leads out of. A link to elsewhere inside (`..data`) is followed.
fn sub_path(root: &Path, sub: &str) -> Result<PathBuf, Error> {
    if !Path::new(sub).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::SubPath(sub.into()));
    }
    let path = root.join(sub);
    let prepare = |cause| Error::Prepare { path: path.clone(), cause };
    if fs::symlink_metadata(&path).is_err() {
        fs::create_dir_all(&path).map_err(prepare)?;
    }
    let real = path.canonicalize().map_err(prepare)?;
    let inside = root.canonicalize().map_err(prepare)?;
    if real.starts_with(&inside) { Ok(real) } else { Err(Error::SubPath(sub.into())) }
}
