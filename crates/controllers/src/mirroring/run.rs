//! Keeps the mirrored slices as planned.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, Error};
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
    reconcile::{Done, Queue},
};
use skiff_services::endpoints::{
    MIRROR_CONTROLLER,
    mirror::{self, CAPACITY},
    slices::Plan,
};

use crate::{
    Job,
    context::{Context, Reconcile, on_self},
    endpointslice::{
        run::{on_slices, slices_of},
        write,
    },
    object::name,
};

const IDENTITY: &str = "endpointslicemirroring-controller";

struct Controller {
    client: Client,
    services: Arc<Cache<Service>>,
    endpoints: Arc<Cache<Endpoints>>,
    slices: Arc<Cache<EndpointSlice>>,
    events: Recorder,
}

pub(crate) fn start(cx: &Arc<Context>) -> Job {
    let queue = Queue::new();
    let me = Controller {
        client: cx.client(IDENTITY),
        services: cx.cache(),
        endpoints: cx.cache(),
        slices: cx.cache(),
        events: cx.recorder(IDENTITY, "endpoint-slice-mirroring-controller"),
    };
    on_self(&me.services, &queue);
    on_self(&me.endpoints, &queue);
    on_slices(&me.slices, &queue, MIRROR_CONTROLLER);
    cx.spawn(queue, me)
}

impl Reconcile for Controller {
    const NAME: &'static str = "endpointslicemirroring";
    const PARALLEL: usize = 4;

    async fn reconcile(&self, key: Key) -> Result<Done, Error> {
        let existing = slices_of(&self.slices, &key, MIRROR_CONTROLLER);
        let plan = match (self.services.get(&key), self.endpoints.get(&key)) {
            (Some(service), Some(endpoints)) if mirror::wants_mirror(&service, &endpoints) => {
                let existing: Vec<&EndpointSlice> = existing.iter().map(|s| &**s).collect();
                self.plan(&endpoints, &existing)
            }
            _ => Plan { delete: existing.iter().map(|s| name(&s.metadata).into()).collect(), ..Plan::default() },
        };
        write::apply(&self.client, &self.slices, &key.namespace, &plan).await?;
        Ok(Done::Settled)
    }
}

impl Controller {
    fn plan(&self, endpoints: &Endpoints, existing: &[&EndpointSlice]) -> Plan {
        let mirror = mirror::plan(endpoints, existing);
        if mirror.plan != Plan::default() {
            self.complain(endpoints, &mirror);
        }
        mirror.plan
    }

    fn complain(&self, endpoints: &Endpoints, mirror: &mirror::Mirror) {
        let invalid = mirror.invalid.len();
        if invalid > 0 {
            let words = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            self.events.warning(endpoints, "InvalidIPAddress", words);
        }
        if mirror.skipped > invalid {
            let words = format!(
                "A max of {CAPACITY} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                mirror.skipped
            );
            self.events.warning(endpoints, "TooManyAddressesToMirror", words);
        }
    }
}
