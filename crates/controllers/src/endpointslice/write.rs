//! Carries out a plan of slices; shared with the mirroring controller.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, Error,
    api::{DeleteParams, PostParams},
};
use skiff_client::cache::{Cache, Key};
use skiff_services::endpoints::slices::Plan;

use crate::object::{is_namespace_ending, is_not_found, name, uid};

/// New endpoints are written before old slices go, so that no endpoint is missing in between.
pub(crate) async fn apply(
    client: &Client,
    cache: &Cache<EndpointSlice>,
    namespace: &str,
    plan: &Plan,
) -> Result<(), Error> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    for slice in &plan.create {
        match api.create(&PostParams::default(), slice).await {
            Ok(made) => cache.put(made),
            Err(error) if is_namespace_ending(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    for slice in &plan.update {
        cache.put(api.replace(name(&slice.metadata), &PostParams::default(), slice).await?);
    }
    for gone in &plan.delete {
        delete(&api, cache, &Key::new(namespace, gone)).await?;
    }
    Ok(())
}

async fn delete(api: &Api<EndpointSlice>, cache: &Cache<EndpointSlice>, key: &Key) -> Result<(), Error> {
    match api.delete(&key.name, &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => {
            if let Some(slice) = cache.get(key) {
                cache.remove(key, uid(&slice.metadata));
            }
            Ok(())
        }
    }
}
