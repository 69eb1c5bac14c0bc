//! Every namespace has the ServiceAccount `default`, which pods use that name none.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Error, api::PostParams};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{self, Done, Queue},
};

use crate::{
    Job,
    context::{Context, on_self},
    object::{is_already_there, is_deleted, is_namespace_ending, is_not_found, name, namespace},
};

const IDENTITY: &str = "service-account-controller";
const NAME: &str = "default";
const PARALLEL: usize = 4;

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let namespaces: Arc<Cache<Namespace>> = cx.cache();
    let accounts: Arc<Cache<ServiceAccount>> = cx.cache();
    on_self(&namespaces, &queue);
    let again = queue.clone();
    accounts.subscribe(move |old, new| {
        if let (Some(gone), None) = (old, new)
            && name(&gone.metadata) == NAME
        {
            again.add(Key::new("", namespace(&gone.metadata)));
        }
    });
    let (client, cx) = (cx.client(IDENTITY), cx.clone());
    Box::pin(async move {
        cx.synced().await;
        reconcile::run("serviceaccount", queue, PARALLEL, cx.stop.clone(), |key| {
            give(&client, &namespaces, &accounts, key)
        })
        .await;
    })
}

/// True when the namespace is there to stay.
pub(crate) fn is_alive(namespaces: &Cache<Namespace>, key: &Key) -> bool {
    namespaces.get(key).is_some_and(|n| !is_deleted(&n.metadata))
}

async fn give(
    client: &Client,
    namespaces: &Cache<Namespace>,
    accounts: &Cache<ServiceAccount>,
    key: Key,
) -> Result<Done, Error> {
    if !is_alive(namespaces, &key) || accounts.get(&Key::new(&key.name, NAME)).is_some() {
        return Ok(Done::Settled);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(NAME.into()), namespace: Some(key.name.to_string()), ..Default::default() },
        ..Default::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &key.name);
    match api.create(&PostParams::default(), &account).await {
        Ok(made) => accounts.put(made),
        Err(e) if is_already_there(&e) || is_namespace_ending(&e) || is_not_found(&e) => {}
        Err(error) => return Err(error),
    }
    Ok(Done::Settled)
}
