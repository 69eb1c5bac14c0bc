//! Images on disk: a content-addressed store that several processes share, filled from archives and registries.
//!
//! `layers/<diffid>` holds each layer unpacked once, `configs/<id>` each image's configuration, `refs/` one file per
//! reference. Writers hold a file lock; everything appears by an atomic rename, so a crash leaves only work to redo.

mod archive;
mod layer;
pub mod make;
mod pull;
mod reference;
mod registry;
mod scratch;
mod store;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

pub use self::reference::Reference;
use self::store::Store;

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
    store: Store,
    options: Options,
}

/// Bytes fetched so far and bytes expected, over all layers.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What goes wrong with the store or an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {}: {source}", path.display())]
    Disk { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{0:?} is not an image reference: {1}")]
    Reference(String, &'static str),
    #[error("image archive {}: {reason}", archive.display())]
    Archive { archive: PathBuf, reason: String },
    #[error("layer {layer}: {reason}")]
    Layer { layer: String, reason: String },
}

/// Why an image could not be pulled: the text is what a pod's `ErrImagePull` shows.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("failed to pull image {image:?}: {reason}")]
    Registry { image: String, reason: String },
    /// There was no connection: no network, no name server, nobody listening. An image that is here already may do.
    #[error("failed to pull image {image:?}: {reason}")]
    Unreachable { image: String, reason: String },
    #[error(transparent)]
    Store(#[from] Error),
}

impl Images {
    /// Opens the store in `dir`, which is made when missing.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let store = Store::open(dir.as_ref())?;
        Ok(Images { inner: Arc::new(Inner { store, options }) })
    }

    /// Loads an OCI layout or docker-save archive, plain or gzipped, and returns the references it held (the id of an
    /// image without a name). Blocks.
    pub fn load(&self, archive: &Path) -> Result<Vec<String>, Error> {
        archive::load(&self.inner.store, archive, self.inner.options.max_unpacked)
    }

    /// The image of that name, digest (`name@sha256:…`) or id (`sha256:…`), if it is here.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, Error> {
        self.inner.store.find(reference)
    }

    pub fn list(&self) -> Result<Vec<Image>, Error> {
        self.inner.store.list()
    }

    /// Takes a reference away, and with an image's last reference its layers, but for those that other images have and
    /// those in `used` (of running containers). False when there was none of that name. Blocks.
    pub fn remove(&self, reference: &str, used: &[PathBuf]) -> Result<bool, Error> {
        self.inner.store.remove(reference, used)
    }

    /// Fetches an image and returns it once it can be started from.
    pub async fn pull(&self, reference: &str, auth: Option<&Auth>, progress: Progress<'_>) -> Result<Image, PullError> {
        pull::pull(&self.inner.store, &self.inner.options, reference, auth, progress).await
    }
}

impl Default for Options {
    fn default() -> Self {
        let dial: Dial =
            Arc::new(|host, port| Box::pin(async move { TcpStream::connect((host.as_str(), port)).await }));
        let (timeout, max_unpacked) = (Duration::from_secs(30), 32 << 30);
        Options { dial, insecure: Vec::new(), ca_bundle: None, timeout, max_unpacked }
    }
}
