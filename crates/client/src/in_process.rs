//! A kube client whose server is a function in the same process: no socket, no TLS, the identity given instead of proven.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use kube::client::Body;
use skiff_api::identity::Identity;
use tokio::runtime::Handle;
use tower::{BoxError, Service};

/// What an API server in this process is to its clients: requests carry their [`Identity`] as an extension.
pub type Handler =
    Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<UnsyncBoxBody<Bytes, BoxError>>> + Send + Sync + 'static>;

/// Makes clients with identities of their own over one handler.
#[derive(Clone)]
pub struct Clients {
    handler: Handler,
    /// The runtime that requests are served on, whichever thread asks: a node's thread is in another network
    /// namespace, and a request must not take its work there.
    server: Handle,
}

impl Clients {
    /// `server` is the API server's runtime.
    pub fn new<F, R>(server: Handle, handler: F) -> Self
    where
        F: Fn(Request<Body>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<UnsyncBoxBody<Bytes, BoxError>>> + Send + 'static,
    {
        Clients { handler: Arc::new(move |request| Box::pin(handler(request))), server }
    }

    /// A client that speaks as `identity`. Call it on the runtime that will use the client.
    pub fn as_identity(&self, identity: Identity) -> kube::Client {
        kube::Client::new(InProcess { clients: self.clone(), identity }, "default")
    }

    /// A client of a controller: a ServiceAccount of kube-system, or a component when the name says `system:`.
    pub fn as_controller(&self, name: &str) -> kube::Client {
        self.as_identity(match name.starts_with("system:") {
            true => Identity::component(name),
            false => Identity::service_account("kube-system", name),
        })
    }
}

struct InProcess {
    clients: Clients,
    identity: Identity,
}

impl Service<Request<Body>> for InProcess {
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.identity.clone());
        let served = self.clients.server.spawn((self.clients.handler)(request));
        Box::pin(async move { Ok(served.await?) })
    }
}
