//! Writes addresses and finalizer into the Services, one Service at a time: two choices at once could be the same.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
};
use serde_json::json;
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};

use super::{
    change,
    plan::{self, FINALIZER, Plan, addresses, has_finalizer, is_pending},
    pool::Pool,
};
use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    object::{is_not_found, name, namespace},
    replicaset::run::text,
};

const IDENTITY: &str = "service-controller";

struct Controller {
    client: Client,
    services: Arc<Cache<Service>>,
    pool: Pool,
    events: Recorder,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        services: cx.cache(),
        pool: cx.config.lb_pool.clone(),
        events: cx.recorder(IDENTITY, IDENTITY),
    };
    on_self(&me.services, &queue);
    me.on_returned(&queue);
    me.on_changed();
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "service";
    const PARALLEL: usize = 1;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let Some(service) = self.services.get(&key) else { return Ok(Done::Settled) };
        match plan::plan(&service, &self.services.all(), &self.pool) {
            Plan::Nothing => Ok(Done::Settled),
            Plan::Give(ips) => {
                self.events.normal(&*service, "EnsuringLoadBalancer", "Ensuring load balancer".into());
                self.write(&service, &ips, true).await?;
                self.events.normal(&*service, "EnsuredLoadBalancer", "Ensured load balancer".into());
                Ok(Done::Settled)
            }
            Plan::Take => {
                self.events.normal(&*service, "DeletingLoadBalancer", "Deleting load balancer".into());
                self.write(&service, &[], false).await?;
                self.events.normal(&*service, "DeletedLoadBalancer", "Deleted load balancer".into());
                Ok(Done::Settled)
            }
            Plan::Refuse(why) => {
                self.complain(&service, &why);
                if !addresses(&service).is_empty() {
                    self.write(&service, &[], has_finalizer(&service.metadata)).await?;
                }
                // An address that returns, or a change of the Service, brings it here again.
                Ok(Done::Settled)
            }
        }
    }
}

impl Controller {
    /// An address that somebody gave back may be what another waits for.
    fn on_returned(&self, queue: &Arc<Queue>) {
        let (queue, services) = (queue.clone(), self.services.clone());
        self.services.subscribe(move |old, new| {
            let has = |s: Option<&Arc<Service>>| s.map(|s| addresses(s)).unwrap_or_default();
            let now = has(new);
            if has(old).iter().any(|ip| !now.contains(ip)) {
                let waiting = services.all().into_iter().filter(|s| is_pending(s));
                waiting.for_each(|s| queue.add(Key::of(&*s)));
            }
        });
    }

    fn on_changed(&self) {
        let events = self.events.clone();
        self.services.subscribe(move |old, new| {
            let (Some(old), Some(new)) = (old, new) else { return };
            if let Some((reason, message)) = change::told(old, new) {
                events.normal(&**new, reason, message);
            }
        });
    }

    fn complain(&self, service: &Service, why: &str) {
        let words = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
        self.events.warning(service, "SyncLoadBalancerFailed", words);
    }

    /// Addresses and finalizer in one write, so that no crash parts them. With the revision: the finalizers are one list,
    /// and others write to it too.
    async fn write(&self, service: &Service, ips: &[std::net::IpAddr], held: bool) -> Result<(), Error> {
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|f| f != FINALIZER);
        finalizers.extend(held.then(|| FINALIZER.to_string()));
        let ingress = plan::status(ips);
        let balancer = if ingress.is_empty() { json!({"ingress": null}) } else { json!({"ingress": ingress}) };
        let metadata = json!({"resourceVersion": service.metadata.resource_version, "uid": service.metadata.uid,
            "finalizers": finalizers});
        let patch = Patch::Merge(json!({"metadata": metadata, "status": {"loadBalancer": balancer}}));
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace(&service.metadata));
        match api.patch_status(name(&service.metadata), &PatchParams::default(), &patch).await {
            // The last finalizer's end is the Service's: its deletion comes by the watch.
            Ok(written) if !held && written.metadata.deletion_timestamp.is_some() => Ok(()),
            Ok(written) => {
                self.services.put(written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                if !matches!(&error, Error::Api(s) if s.code == 409) {
                    self.complain(service, &text(&error));
                }
                Err(error)
            }
        }
    }
}
