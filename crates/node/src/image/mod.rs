//! Images on disk: a content-addressed store that several processes share, filled from archives and registries.
//!
//! `blobs/sha256/…` holds manifests and configs, `layers/<diffid>` each layer unpacked once, `refs/…` one file per
//! reference. Writers hold a file lock; everything appears by an atomic rename, so a crash leaves only work to redo.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// How a connection to a registry is made: host and port to a stream. A node's thread lives in a network namespace of
/// its own, so the caller may bring a dialler that works from another one.
pub type Dial = Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// How `Images` pulls, and what it refuses.
#[derive(Clone)]
pub struct Options {
    pub dial: Dial,
    /// Registries (`host` or `host:port`) spoken to by plain http besides those on loopback.
    pub insecure: Vec<String>,
    /// A PEM bundle of certificate authorities; the system's when `None`.
    pub ca_bundle: Option<PathBuf>,
    /// For one request's answer to begin, and for each read of a body.
    pub timeout: Duration,
    /// An image's layers together may not unpack to more than this.
    pub max_unpacked: u64,
}

/// One image, ready to be started from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Every name it goes by, normalised.
    pub references: Vec<String>,
    /// `name@sha256:…` of its manifest for each repository it came from.
    pub digests: Vec<String>,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    pub config: Config,
    /// Bytes of its layers, unpacked.
    pub size: u64,
}

/// What an image says about how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    /// `8080/tcp`
    pub exposed: Vec<String>,
    pub stop_signal: Option<String>,
}

/// Who we are to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    pub username: String,
    pub password: String,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    options: Options,
}

/// Bytes fetched so far and bytes expected, over all layers.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What goes wrong with the store or an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {path}: {source}")]
    Disk { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{0:?} is not an image reference: {1}")]
    Reference(String, &'static str),
    #[error("image archive {archive}: {reason}")]
    Archive { archive: String, reason: String },
}

/// Why an image could not be pulled: the text is what a pod's `ErrImagePull` shows.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("failed to pull image {image:?}: {reason}")]
    Registry { image: String, reason: String },
    #[error(transparent)]
    Store(#[from] Error),
}

impl Images {
    /// Opens the store in `dir`, which is made when missing.
    pub fn open(_dir: impl AsRef<Path>, _options: Options) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Loads an OCI layout or docker-save archive, plain or gzipped, and returns the references it held. Blocks.
    pub fn load(&self, _archive: &Path) -> Result<Vec<String>, Error> {
        unimplemented!()
    }

    /// The image of that name, digest (`name@sha256:…`) or id (`sha256:…`), if it is here.
    pub fn find(&self, _reference: &str) -> Result<Option<Image>, Error> {
        unimplemented!()
    }

    pub fn list(&self) -> Result<Vec<Image>, Error> {
        unimplemented!()
    }

    /// Takes a reference away, and with an image's last reference its layers. False when there was none. Blocks.
    pub fn remove(&self, _reference: &str) -> Result<bool, Error> {
        unimplemented!()
    }

    pub async fn pull(&self, _reference: &str, _auth: Option<&Auth>, _progress: Progress<'_>) -> Result<Image, PullError> {
        unimplemented!()
    }
}

impl Default for Options {
    fn default() -> Self {
        unimplemented!()
    }
}
