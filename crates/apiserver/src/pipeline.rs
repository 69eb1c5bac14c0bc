//! The steps that every request goes through, in order.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use jiff::Timestamp;
use skiff_api::identity::Identity;
use skiff_api::status::Status;
use skiff_store::Store;
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::audit::Record;
use crate::call::{Call, Upgrade};
use crate::encode::{self, Accept, Reply};
use crate::fairness::Fairness;
use crate::follow::{self, Followed};
use crate::metrics::{self, Metrics};
use crate::query::Query;
use crate::quotas::Quotas;
use crate::route::{self, Route, Target, Verb};
use crate::servers::Servers;
use crate::services::{self, Services};
use crate::storage::Storage;
use crate::watch::Hubs;
use crate::{Body, BoxError, Config, Error, Result, decode, kubernetes, nonresource, reviews, subresources, verbs};

/// What a request other than a watch or a connection may take.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// The API of one cluster over one store.
pub struct Server {
    pub(crate) config: Config,
    pub(crate) storage: Storage,
    pub(crate) hubs: Hubs,
    pub(crate) services: Services,
    pub(crate) access: Access,
    pub(crate) metrics: Metrics,
    pub(crate) fairness: Fairness,
    pub(crate) quotas: Quotas,
    pub(crate) followed: Followed,
    /// The servers on the same store.
    pub(crate) others: Servers,
    /// The OpenAPI documents that were asked for, as sent.
    pub(crate) documents: Mutex<HashMap<String, Bytes>>,
    /// Ends watches and joined connections.
    pub(crate) stopping: CancellationToken,
    /// Ends with the server, and with it what works for it in the background.
    life: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.life.cancel();
    }
}

impl Server {
    /// Reads what is allocated and writes the objects that every cluster has.
    pub async fn new(config: Config, store: Arc<dyn Store>) -> Result<Arc<Server>, Error> {
        let storage = Storage(store);
        let followed = Followed::from(storage.0.revision().await?);
        let services = Services::load(&config, &storage).await?;
        let access = Access::load(&config, &storage).await?;
        let quotas = Quotas::load(&storage).await?;
        let hubs = Hubs::new(storage.clone());
        let server = Arc::new(Server {
            config,
            storage,
            hubs,
            services,
            access,
            metrics: Metrics::default(),
            fairness: Fairness::default(),
            quotas,
            followed,
            others: Servers::default(),
            documents: Mutex::default(),
            stopping: CancellationToken::new(),
            life: CancellationToken::new(),
        });
        if server.config.shared {
            tokio::spawn(follow::follow(Arc::downgrade(&server), server.life.child_token()));
        }
        kubernetes::bootstrap(&server).await?;
        kubernetes::reconcile(&server).await?;
        services::look(&server).await;
        tokio::spawn(services::keep(Arc::downgrade(&server), server.life.child_token()));
        Ok(server)
    }

    /// Answers one request. Who asks is the [`Identity`] in the request's extensions; without one it is refused.
    pub fn handle<B>(self: &Arc<Self>, request: Request<B>) -> BoxFuture<'static, Response<Body>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let body = body.map_err(Into::into).boxed_unsync();
        self.clone().answer(parts, body).boxed()
    }

    async fn answer(self: Arc<Self>, parts: Parts, body: Body) -> Response<Body> {
        let what = format!("{} {}", parts.method, parts.uri.path());
        let record = Record::begin(self.config.audit.as_ref(), &parts);
        let answered = AssertUnwindSafe(self.clone().route(parts, body)).catch_unwind().await;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => {
                tracing::debug!(what, code = status.code(), "{status}");
                encode::error(&status)
            }
            Err(_) => {
                tracing::error!(what, "the request made the server panic");
                encode::error(&Status::internal("the server failed on this request; its log says more"))
            }
        };
        if let Some(record) = record {
            record.end(&mut response).await;
        }
        response
    }

    async fn route(self: Arc<Self>, mut parts: Parts, body: Body) -> Result<Response<Body>> {
        let identity = parts.extensions.remove::<Identity>().ok_or_else(Status::unauthorized)?;
        let identity = self.access.impersonate(&parts.headers, identity)?;
        match route::parse(parts.uri.path()) {
            Route::Unknown => Err(Status::no_such_resource()),
            Route::Path(path) => nonresource::serve(&self, &parts, &identity, &path).await,
            Route::Resource(target) => self.resource(parts, body, identity, target).await,
        }
    }

    async fn resource(
        self: Arc<Self>,
        parts: Parts,
        body: Body,
        identity: Identity,
        target: Target,
    ) -> Result<Response<Body>> {
        let call = self.call(parts, identity, target)?;
        let running = self.metrics.begin(metrics::Kind::of(&call));
        let answered = answer(&self, &call, body).await;
        running.end(match &answered {
            Ok(response) => response.status().as_u16(),
            Err(status) => status.code(),
        });
        answered
    }

    fn call(self: &Arc<Self>, mut parts: Parts, identity: Identity, target: Target) -> Result<Call> {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let verb = Verb::of(&parts.method, &target, query.flag("watch"));
        let verb = verb.ok_or_else(|| Status::method_not_allowed(Some(target.resource)))?;
        Ok(Call {
            server: self.clone(),
            accept: if target.subresource.is_some() { Accept::JSON } else { Accept::of(&parts.headers)? },
            identity,
            target,
            verb,
            dry_run: query.dry_run()?,
            query,
            upgrade: Mutex::new(Upgrade::take(&mut parts)),
            raw_path: parts.uri.path().to_string(),
            raw_query: parts.uri.query().unwrap_or_default().to_string(),
            headers: parts.headers,
            method: parts.method,
            now: Timestamp::now(),
            warnings: Mutex::default(),
        })
    }
}

async fn answer(server: &Server, call: &Call, body: Body) -> Result<Response<Body>> {
    let seat = server.fairness.seat(call).await?;
    server.access.authorize(call).await?;
    // How long a joined connection takes to begin is up to the pod.
    let _seat = Some(seat).filter(|_| !call.connects());
    let endless = call.verb == Verb::Watch || call.connects();
    let run = run(call, body);
    let reply = match endless {
        true => run.await?,
        false => timeout(REQUEST_TIME, run).await.map_err(|_| Status::timeout("the request took more than 60s"))??,
    };
    let mut response = encode::compress(call.view().respond(reply), &call.headers).await;
    encode::warn(&mut response, &call.warnings.lock().unwrap_or_else(|e| e.into_inner()));
    Ok(response)
}

async fn run(call: &Call, body: Body) -> Result<Reply> {
    if call.subresource() == Some("proxy") && call.resource().subresource("proxy").is_some() {
        return subresources::proxy::run(call, body).await;
    }
    let body = decode::read(&call.headers, body).await?;
    match call.subresource() {
        Some(subresource) => subresources::run(call, subresource, body).await,
        None if !call.resource().stored => reviews::run(call, &body).await,
        None => verbs::run(call, body).await,
    }
}
