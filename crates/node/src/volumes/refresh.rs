//! Keeps the files of a running pod's ConfigMaps, Secrets and tokens up to date: a watch for each object it mounts, and
//! a timer for tokens.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::tokens::Tokens;
use crate::pod::{context::Context, plan, tasks};

/// Names of the ConfigMaps and Secrets in the pod's volumes.
fn names(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut maps = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    for volume in volumes.into_iter().flatten() {
        maps.extend(volume.config_map.as_ref().map(|c| c.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
            secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    (maps, secrets)
}

/// The same, and those that containers' environments are made of.
fn all_names(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = names(pod);
    for container in pod.spec.iter().flat_map(plan::all_containers) {
        for source in container.env_from.iter().flatten() {
            maps.extend(source.config_map_ref.as_ref().map(|c| c.name.clone()));
            secrets.extend(source.secret_ref.as_ref().map(|s| s.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            maps.extend(source.config_map_key_ref.as_ref().map(|c| c.name.clone()));
            secrets.extend(source.secret_key_ref.as_ref().map(|s| s.name.clone()));
        }
    }
    (maps, secrets)
}

/// Says so whenever one of the pod's ConfigMaps and Secrets is there or changes. Runs until aborted.
pub async fn await_any(ctx: &Context, pod: &Pod, seen: impl Fn()) {
    let mut changes = watch_all(ctx, pod, all_names(pod));
    while changes.next().await.is_some() {
        seen();
    }
}

fn watch_all(
    ctx: &Context,
    pod: &Pod,
    (maps, secrets): (BTreeSet<String>, BTreeSet<String>),
) -> SelectAll<BoxStream<'static, ()>> {
    let namespace = super::namespace(pod);
    let maps = maps.iter().map(|n| changes(Api::<ConfigMap>::namespaced(ctx.client.clone(), namespace), n));
    let secrets = secrets.iter().map(|n| changes(Api::<Secret>::namespaced(ctx.client.clone(), namespace), n));
    select_all(maps.chain(secrets))
}

/// Runs until aborted.
pub async fn run(ctx: Arc<Context>, pod: Arc<Pod>, tokens: Arc<Tokens>) {
    let mut changes = watch_all(&ctx, &pod, names(&pod));
    loop {
        let renew = tokens.renew().map(|at| at.duration_since(Timestamp::now()));
        let renew = renew.map(|d| std::time::Duration::try_from(d).unwrap_or_default());
        tokio::select! {
            change = changes.next(), if !changes.is_empty() => if change.is_none() { continue },
            () = tokio::time::sleep(renew.unwrap_or_default()), if renew.is_some() => {}
            else => return,
        }
        if let Err(e) = tasks::mount(&ctx, &pod, &tokens).await {
            warn!("pod {}: its volumes could not be refreshed: {e}", pod.metadata.name.as_deref().unwrap_or_default());
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
    }
}

fn changes<K>(api: Api<K>, name: &str) -> BoxStream<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(api, config).default_backoff().filter_map(|event| async move {
        match event {
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitApply(_)) => Some(()),
            _ => None,
        }
    });
    stream.boxed()
}
