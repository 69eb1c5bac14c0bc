//! Every namespace has the ConfigMap `kube-root-ca.crt`, by which pods trust the API server.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Error, api::PostParams, runtime::watcher};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{Done, Queue},
};

use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    object::{is_already_there, is_namespace_ending, is_not_found, namespace},
    serviceaccount::is_alive,
};

const IDENTITY: &str = "root-ca-cert-publisher";
const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

struct Controller {
    client: Client,
    ca: String,
    namespaces: Arc<Cache<Namespace>>,
    maps: Arc<Cache<ConfigMap>>,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    // Of all ConfigMaps only these are watched: the others may be many and large.
    let ours = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let me = Controller {
        client: cx.client(IDENTITY),
        ca: cx.config.ca.clone(),
        namespaces: cx.cache(),
        maps: cx.cache_of(ours),
    };
    on_self(&me.namespaces, &queue);
    let again = queue.clone();
    me.maps.subscribe(move |old, new| {
        if let Some(map) = new.or(old) {
            again.add(Key::new("", namespace(&map.metadata)));
        }
    });
    cx.spawn(queue, me)
}

/// The map to write; None when the one there is right.
fn plan(namespace: &str, ca: &str, existing: Option<&ConfigMap>) -> Option<ConfigMap> {
    let data: BTreeMap<String, String> = [("ca.crt".to_string(), ca.to_string())].into();
    if existing.is_some_and(|m| m.data.as_ref() == Some(&data)) {
        return None;
    }
    let metadata = existing.map(|m| m.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(NAME.into()),
        namespace: Some(namespace.into()),
        annotations: Some([(DESCRIPTION.0.to_string(), DESCRIPTION.1.to_string())].into()),
        ..Default::default()
    });
    Some(ConfigMap { metadata, data: Some(data), ..Default::default() })
}

impl Reconcile for Controller {
    const NAME: &'static str = "rootca";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let existing = self.maps.get(&Key::new(&key.name, NAME));
        let wanted = plan(&key.name, &self.ca, existing.as_deref()).filter(|_| is_alive(&self.namespaces, &key));
        let Some(map) = wanted else { return Ok(Done::Settled) };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.name);
        let written = match existing {
            None => api.create(&PostParams::default(), &map).await,
            Some(_) => api.replace(NAME, &PostParams::default(), &map).await,
        };
        match written {
            Ok(map) => self.maps.put(map),
            Err(e) if is_already_there(&e) || is_namespace_ending(&e) || is_not_found(&e) => {}
            Err(error) => return Err(error),
        }
        Ok(Done::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_kept_right() {
        let made = plan("ns", "CA", None).unwrap();
        assert_eq!(plan("ns", "CA", Some(&made)), None);
        let changed = plan("ns", "other CA", Some(&made)).unwrap();
        assert_eq!(changed.data.unwrap()["ca.crt"], "other CA");
    }
}
