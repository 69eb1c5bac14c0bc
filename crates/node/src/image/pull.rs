//! From a registry into the store: manifest, configuration, then the layers that are not here yet.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use http_body_util::BodyExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time;

use super::{
    Auth, Error, Image, Options, Progress, PullError, Reference,
    archive::{choose, digest},
    registry::Client,
    scratch::Scratch,
    store::{Store, digest_of, disk, parse_config},
};

const TRIES: u32 = 3;
/// Layers fetched at the same time.
const PARALLEL: usize = 3;

/// One layer to fetch: its blob and what it unpacks to.
struct Layer {
    diff_id: String,
    digest: String,
    size: u64,
}

/// An image as the registry describes it.
struct Remote {
    /// Of the manifest that the name leads to, an index perhaps.
    digest: String,
    config: Vec<u8>,
    layers: Vec<Layer>,
}

pub(super) async fn pull(
    store: &Store,
    options: &Options,
    name: &str,
    auth: Option<&Auth>,
    progress: Progress<'_>,
) -> Result<Image, PullError> {
    let reference = Reference::parse(name)?;
    let failed = |reason| PullError::Registry { image: reference.to_string(), reason };
    let client = Client::new(options, &reference, auth);
    let remote = describe(&client, &reference).await.map_err(|reason| match client.reached() {
        true => failed(reason),
        false => PullError::Unreachable { image: reference.to_string(), reason },
    })?;
    let missing: Vec<&Layer> = remote.layers.iter().filter(|l| !store.has_layer(&l.diff_id)).collect();
    let (total, done) = (missing.iter().map(|l| l.size).sum(), AtomicU64::new(0));
    let count = |bytes: u64| progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
    let scratch = Scratch::new(&store.dir).map_err(|e| disk("create a directory in", &store.dir, e))?;
    // Boxed one by one: as an iterator's closure the whole would not be `Send`.
    let mut fetches: Vec<BoxFuture<'_, Result<(), String>>> = vec![];
    for layer in missing {
        fetches.push(Box::pin(fetch(&client, layer, scratch.path(), options.timeout, &count)));
    }
    stream::iter(fetches).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await.map_err(failed)?;
    add(store, options.max_unpacked, scratch, remote, reference.clone()).await?;
    let id = reference.to_string();
    store
        .find(&id)?
        .ok_or_else(|| PullError::Registry { image: id, reason: "it was removed while it was pulled".to_owned() })
}

async fn describe(client: &Client<'_>, reference: &Reference) -> Result<Remote, String> {
    let top = client.small(&format!("manifests/{}", reference.wanted())).await?;
    let top_digest = digest_of(&top);
    if reference.digest.as_ref().is_some_and(|d| *d != top_digest) {
        return Err(format!("the registry sent a manifest with the digest {top_digest}"));
    }
    let json =
        |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|e| format!("its manifest is not JSON: {e}"));
    let mut manifest = json(&top)?;
    if let Some(list) = manifest["manifests"].as_array() {
        let chosen = digest(choose(list)?)?.to_owned();
        let bytes = verified(client.small(&format!("manifests/{chosen}")).await?.to_vec(), &chosen)?;
        manifest = json(&bytes)?;
    }
    let config_digest = digest(&manifest["config"])?;
    let config = verified(client.small(&format!("blobs/{config_digest}")).await?.to_vec(), config_digest)?;
    let parsed = parse_config(&config)?;
    let blobs = manifest["layers"].as_array().ok_or("its manifest has no layers")?;
    if blobs.len() != parsed.diff_ids.len() {
        return Err(format!("its configuration names {} layers, its manifest {}", parsed.diff_ids.len(), blobs.len()));
    }
    let layers = parsed.diff_ids.into_iter().zip(blobs).map(|(diff_id, blob)| {
        Ok(Layer { diff_id, digest: digest(blob)?.to_owned(), size: blob["size"].as_u64().unwrap_or(0) })
    });
    Ok(Remote { digest: top_digest, layers: layers.collect::<Result<_, String>>()?, config })
}

fn verified(bytes: Vec<u8>, expected: &str) -> Result<Vec<u8>, String> {
    let found = digest_of(&bytes);
    if found == expected { Ok(bytes) } else { Err(format!("{expected}: the registry sent {found}")) }
}

/// Fetches one layer into a file, again if the line breaks.
async fn fetch(
    client: &Client<'_>,
    layer: &Layer,
    into: &Path,
    timeout: Duration,
    count: &(impl Fn(u64) + Sync),
) -> Result<(), String> {
    let file = into.join(layer.digest.replace(':', "-"));
    let mut tries = 1;
    loop {
        match fetch_once(client, layer, &file, timeout, count).await {
            Err(e) if tries < TRIES => {
                tracing::debug!(layer = layer.digest, "fetch failed, trying again: {e}");
                time::sleep(Duration::from_millis(200) * 4_u32.pow(tries - 1)).await;
                tries += 1;
            }
            other => return other.map_err(|e| format!("layer {}: {e}", layer.digest)),
        }
    }
}

async fn fetch_once(
    client: &Client<'_>,
    layer: &Layer,
    file: &Path,
    timeout: Duration,
    count: &(impl Fn(u64) + Sync),
) -> Result<(), String> {
    let mut body = client.open(&format!("blobs/{}", layer.digest)).await?.into_body();
    let mut out = File::create(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let (mut hash, mut got) = (Sha256::new(), 0);
    while let Some(frame) = time::timeout(timeout, body.frame()).await.map_err(|_| "i/o timeout".to_owned())? {
        let Ok(bytes) = frame.map_err(|e| e.to_string())?.into_data() else { continue };
        got += bytes.len() as u64;
        if got > layer.size {
            return Err(format!("the registry sends more than the {} bytes it promised", layer.size));
        }
        hash.update(&bytes);
        out.write_all(&bytes).map_err(|e| format!("{}: {e}", file.display()))?;
        count(bytes.len() as u64);
    }
    let found = format!("sha256:{:x}", hash.finalize());
    if found == layer.digest { Ok(()) } else { Err(format!("the registry sent {found}")) }
}

/// Unpacks what was fetched and gives the image its name. Disk work, away from the agent's thread.
async fn add(store: &Store, limit: u64, scratch: Scratch, remote: Remote, reference: Reference) -> Result<(), Error> {
    let store = Store { dir: store.dir.clone() };
    let work = move || {
        let lock = store.lock()?;
        for layer in remote.layers.iter().filter(|l| !store.has_layer(&l.diff_id)) {
            let path = scratch.path().join(layer.digest.replace(':', "-"));
            let file = File::open(&path).map_err(|e| disk("open", &path, e))?;
            store.add_layer(&lock, &layer.diff_id, Some(&layer.digest), file, limit)?;
        }
        store.add_image(&lock, &remote.config, &[reference], Some(&remote.digest))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::Layer { layer: "unpacking".to_owned(), reason: e.to_string() }))
}
