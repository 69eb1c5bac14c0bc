//! A pod's volumes on disk: made before its containers start, refreshed while it runs, removed with it.

pub mod atomic;
pub mod mounts;
pub mod payload;
pub mod refresh;
pub mod tokens;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    ConfigMap, EmptyDirVolumeSource, HostPathVolumeSource, Pod, ProjectedVolumeSource, Secret, Volume,
};
use kube::Api;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use self::{atomic::Files, payload::Shape, tokens::Tokens};
use crate::pod::{env, quantity};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
    SetUp { volume: String, cause: Cause },
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Payload(#[from] payload::Error),
    #[error("{0}")]
    Write(#[from] atomic::Error),
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPath { path: PathBuf, wanted: String },
    #[error(
        "volumes of this kind are not supported: use emptyDir, hostPath, configMap, secret, projected or downwardAPI"
    )]
    Unsupported,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Cause {
    move |cause| Cause::Io { path: path.into(), cause }
}

/// What volumes are made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub client: &'a kube::Client,
    pub tokens: &'a Tokens,
    pub around: env::Around<'a>,
    /// `…/pods/UID`
    pub pod_dir: &'a Path,
}

pub fn path(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join("volumes").join(volume)
}

/// The host's path of a volume that is not the pod's own directory.
pub fn source(pod_dir: &Path, volume: &Volume) -> PathBuf {
    volume.host_path.as_ref().map_or_else(|| path(pod_dir, &volume.name), |h| PathBuf::from(&h.path))
}

/// Makes or refreshes every volume. To be called again at any time: what is right already is left as it is.
pub async fn prepare(sources: Sources<'_>) -> Result<(), Error> {
    let spec = sources.around.pod.spec.as_ref();
    for volume in spec.and_then(|s| s.volumes.as_ref()).into_iter().flatten() {
        one(sources, volume).await.map_err(|cause| Error::SetUp { volume: volume.name.clone(), cause })?;
    }
    Ok(())
}

async fn one(sources: Sources<'_>, volume: &Volume) -> Result<(), Cause> {
    let path = path(sources.pod_dir, &volume.name);
    let group = fs_group(sources.around.pod);
    if let Some(source) = &volume.empty_dir {
        return empty_dir(&path, source, group);
    }
    if let Some(source) = &volume.host_path {
        return host_path(source);
    }
    let files = files(sources, volume).await?;
    atomic::write(&path, &files, group)?;
    Ok(())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group.and_then(|g| u32::try_from(g).ok())
}

async fn files(sources: Sources<'_>, volume: &Volume) -> Result<Files, Cause> {
    if let Some(c) = &volume.config_map {
        let shape = shape(c.items.as_deref(), c.default_mode, c.optional);
        return config_map(sources, &c.name, shape).await;
    }
    if let Some(s) = &volume.secret {
        let shape = shape(s.items.as_deref(), s.default_mode, s.optional);
        return secret(sources, s.secret_name.as_deref().unwrap_or_default(), shape).await;
    }
    if let Some(d) = &volume.downward_api {
        let items = d.items.as_deref().unwrap_or_default();
        return Ok(payload::downward(items, payload::bits(d.default_mode, 0o644), sources.around)?);
    }
    match &volume.projected {
        Some(p) => projected(sources, p).await,
        None => Err(Cause::Unsupported),
    }
}

fn shape(
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
) -> Shape<'_> {
    Shape { items, mode: payload::bits(mode, 0o644), optional: optional == Some(true) }
}

async fn config_map(sources: Sources<'_>, name: &str, shape: Shape<'_>) -> Result<Files, Cause> {
    let api: Api<ConfigMap> = Api::namespaced(sources.client.clone(), namespace(sources.around.pod));
    match api.get_opt(name).await? {
        Some(object) => Ok(payload::config_map(&object, shape)?),
        None if shape.optional => Ok(Files::new()),
        None => Err(Cause::Missing { kind: "configmap", name: name.into() }),
    }
}

async fn secret(sources: Sources<'_>, name: &str, shape: Shape<'_>) -> Result<Files, Cause> {
    let api: Api<Secret> = Api::namespaced(sources.client.clone(), namespace(sources.around.pod));
    match api.get_opt(name).await? {
        Some(object) => Ok(payload::secret(&object, shape)?),
        None if shape.optional => Ok(Files::new()),
        None => Err(Cause::Missing { kind: "secret", name: name.into() }),
    }
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

async fn projected(sources: Sources<'_>, projected: &ProjectedVolumeSource) -> Result<Files, Cause> {
    let mode = projected.default_mode;
    let mut files = Files::new();
    for source in projected.sources.iter().flatten() {
        if let Some(c) = &source.config_map {
            files.extend(config_map(sources, &c.name, shape(c.items.as_deref(), mode, c.optional)).await?);
        }
        if let Some(s) = &source.secret {
            files.extend(secret(sources, &s.name, shape(s.items.as_deref(), mode, s.optional)).await?);
        }
        if let Some(d) = &source.downward_api {
            let items = d.items.as_deref().unwrap_or_default();
            files.extend(payload::downward(items, payload::bits(mode, 0o644), sources.around)?);
        }
        if let Some(t) = &source.service_account_token {
            let data = sources.tokens.get(sources.client, sources.around.pod, t).await?.into_bytes();
            files.insert(t.path.clone(), token_file(sources.around.pod, data, payload::bits(mode, 0o644)));
        }
    }
    Ok(files)
}

/// Readable by the user that all containers run as, when they agree on one; else by everybody in the pod.
fn token_file(pod: &Pod, data: Vec<u8>, mode: u32) -> atomic::File {
    let grouped = fs_group(pod).is_some();
    atomic::File { data, mode: if grouped { 0o640 } else { mode }, owner: None }
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), Cause> {
    let fresh = !path.exists();
    fs::create_dir_all(path).map_err(at(path))?;
    if source.medium.as_deref() == Some("Memory") && !is_mount_point(path).map_err(at(path))? {
        let limit = source.size_limit.as_ref().and_then(|q| quantity::units(&q.0));
        let options = limit.map_or("mode=0777".to_string(), |l| format!("mode=0777,size={l}"));
        let options = std::ffi::CString::new(options).map_err(|e| at(path)(e.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("skiff-memory", path, "tmpfs", flags, options.as_c_str()).map_err(|e| at(path)(e.into()))?;
    } else if !fresh {
        return Ok(());
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if group.is_some() {
        chown(path, None, group).map_err(at(path))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at(path))
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let own = fs::metadata(path)?.dev();
    let parent = path.parent().map_or(Ok(own), |p| fs::metadata(p).map(|m| m.dev()))?;
    Ok(own != parent)
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), Cause> {
    use std::os::unix::fs::FileTypeExt;
    let path = Path::new(&source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    match wanted {
        "DirectoryOrCreate" if !path.exists() => fs::create_dir_all(path).map_err(at(path))?,
        "FileOrCreate" if !path.exists() => drop(fs::File::create(path).map_err(at(path))?),
        _ => {}
    }
    let kind = fs::metadata(path).map(|m| m.file_type());
    let fits = |test: fn(&fs::FileType) -> bool| kind.as_ref().is_ok_and(test);
    let right = match wanted {
        "Directory" | "DirectoryOrCreate" => fits(fs::FileType::is_dir),
        "File" | "FileOrCreate" => fits(fs::FileType::is_file),
        "Socket" => fits(|t| t.is_socket()),
        "CharDevice" => fits(|t| t.is_char_device()),
        "BlockDevice" => fits(|t| t.is_block_device()),
        // As container runtimes do: a missing path becomes a directory.
        _ => return if path.exists() { Ok(()) } else { fs::create_dir_all(path).map_err(at(path)) },
    };
    if right { Ok(()) } else { Err(Cause::HostPath { path: path.into(), wanted: wanted.into() }) }
}

/// Removes a pod's directory with its volumes. Blocks. Host paths are not below it and stay.
pub fn remove(pod_dir: &Path) -> io::Result<()> {
    let volumes = pod_dir.join("volumes");
    let entries = match fs::read_dir(&volumes) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    for entry in entries.into_iter().flatten() {
        let path = entry?.path();
        if is_mount_point(&path)? {
            unmount(&path, UnmountFlags::DETACH)?;
        }
    }
    match fs::remove_dir_all(pod_dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
