//! The one way to watch objects of one kind: lists and events that repair themselves for ever.

use std::fmt::Debug;

use futures::{StreamExt, stream::BoxStream};
pub use kube::runtime::watcher::{Config, Event};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;

/// A watch of one kind. Whoever asks sees what the API server says, sooner or later.
pub struct Watch<K>(BoxStream<'static, Result<Event<K>, watcher::Error>>);

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// All objects that `which` selects, of every namespace.
    pub fn all(client: &Client, which: Config) -> Self {
        Watch(watcher(Api::all(client.clone()), which).default_backoff().boxed())
    }

    /// The next event; a failure is told and tried again, with growing pauses. A server may not know the kind at all, which
    /// is nothing to warn of. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Event<K> {
        let kind = K::kind(&());
        loop {
            match self.0.next().await {
                Some(Ok(event)) => return event,
                Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(e)))) if e.code == 404 => {
                    tracing::debug!(%kind, "this API server has no such objects");
                }
                Some(Err(error)) => tracing::warn!(%kind, %error, "a watch failed; trying again"),
                None => futures::future::pending().await,
            }
        }
    }
}
