//! The listener: TLS, HTTP/1.1 and HTTP/2, limits, authentication of each request, and an end that lets requests finish.

use std::convert::Infallible;
use std::sync::Arc;

use futures::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::CertificateDer;
use skiff_api::identity::Identity;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{Record, Source};
use crate::{Body, BoxError, Server, encode, kubernetes};

/// Connections at once on one address: as many idle ones as clients may leave behind, and room for others; no more than
/// three fifths of the files that the process may open.
const CONNECTIONS: usize = 12_000;

fn connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    CONNECTIONS.min((files / 5 * 3) as usize)
}
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a silent HTTP/2 client is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// What requests in flight get to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

impl Server {
    /// Serves until `stop`; then no new connections, and those in flight get a moment to finish.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let keeper = tokio::spawn(kubernetes::keep(self.clone(), stop.clone()));
        let slots = Arc::new(Semaphore::new(connections()));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&listener, &slots) => accepted,
            };
            let Some((stream, slot)) = accepted else { continue };
            let (server, acceptor, stop) = (self.clone(), acceptor.clone(), stop.clone());
            connections.spawn(async move {
                if let Err(e) = connection(server, acceptor, stream, stop).await {
                    tracing::debug!("connection: {e}");
                }
                drop(slot);
            });
        }
        self.stopping.cancel();
        self.hubs.stop();
        connections.close();
        keeper.abort();
        if timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::info!("connections were still open {}s after the stop", DRAIN.as_secs());
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(e) => {
            // Out of descriptors, say: others must end first.
            tracing::warn!("accepting a connection failed: {e}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let source = Source(stream.get_ref().0.peer_addr()?);
    let peer = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.clone().into_owned());
    let peer = Arc::new(peer);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        request.extensions_mut().insert(source);
        server.authenticated(request, peer).map(Ok::<_, Infallible>).boxed()
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30)).max_buf_size(1 << 20);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000).max_header_list_size(1 << 20);
    // Of a client that is gone without a word the connection would stay for ever, and its watches with it.
    builder.http2().keep_alive_interval(Some(PING)).keep_alive_timeout(PONG);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// The certificate that the client showed, verified by TLS.
type Peer = Arc<Option<CertificateDer<'static>>>;

impl Server {
    async fn authenticated(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        // Only this transport says who asks.
        parts.extensions.remove::<Identity>();
        match self.access.authenticate(&parts, peer.as_ref().as_ref()).await {
            Ok(identity) => {
                parts.extensions.insert(identity);
                self.handle(Request::from_parts(parts, body)).await
            }
            Err(status) => {
                let mut response = encode::error(&status);
                if let Some(record) = Record::begin(self.config.audit.as_ref(), &parts) {
                    record.end(&mut response).await;
                }
                response
            }
        }
    }
}
