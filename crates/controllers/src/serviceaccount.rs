//! Every namespace has the ServiceAccount `default`, which pods use that name none.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Error, api::PostParams};
use skiff_client::{
    cache::{Cache, Key},
    reconcile::{Done, Queue},
};

use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    object::{is_already_there, is_deleted, is_namespace_ending, is_not_found, name, namespace},
};

const IDENTITY: &str = "service-account-controller";
const NAME: &str = "default";

struct Controller {
    client: Client,
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller { client: cx.client(IDENTITY), namespaces: cx.cache(), accounts: cx.cache() };
    on_self(&me.namespaces, &queue);
    let again = queue.clone();
    me.accounts.subscribe(move |old, new| {
        if let (Some(gone), None) = (old, new)
            && name(&gone.metadata) == NAME
        {
            again.add(Key::new("", namespace(&gone.metadata)));
        }
    });
    cx.spawn(queue, me)
}

/// True when the namespace is there to stay.
pub(crate) fn is_alive(namespaces: &Cache<Namespace>, key: &Key) -> bool {
    namespaces.get(key).is_some_and(|n| !is_deleted(&n.metadata))
}

impl Reconcile for Controller {
    const NAME: &'static str = "serviceaccount";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        if !is_alive(&self.namespaces, &key) || self.accounts.get(&Key::new(&key.name, NAME)).is_some() {
            return Ok(Done::Settled);
        }
        let metadata =
            ObjectMeta { name: Some(NAME.into()), namespace: Some(key.name.to_string()), ..Default::default() };
        let account = ServiceAccount { metadata, ..Default::default() };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.name);
        match api.create(&PostParams::default(), &account).await {
            Ok(made) => self.accounts.put(made),
            Err(e) if is_already_there(&e) || is_namespace_ending(&e) || is_not_found(&e) => {}
            Err(error) => return Err(error),
        }
        Ok(Done::Settled)
    }
}
