//! The node's own API, for the API server only: logs, exec, attach and port-forward of the pods that run here.

mod forward;
mod logs;
mod request;
mod session;
mod spdy;
mod tls;
mod tunnel;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use skiff_client::life::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use self::request::{Route, Target};
use crate::{agent::Config, pod::context::Context};

type Body = BoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// For the TLS handshake and for a request's head.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {cause}")]
    Listen { address: SocketAddr, cause: io::Error },
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    port: u16,
}

/// A refusal in words.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(message: impl Into<String>) -> Self {
        Refusal(StatusCode::NOT_FOUND, message.into())
    }

    fn bad(message: impl Into<String>) -> Self {
        Refusal(StatusCode::BAD_REQUEST, message.into())
    }
}

impl From<Refusal> for Answer {
    fn from(Refusal(code, message): Refusal) -> Answer {
        answer(code, "text/plain; charset=utf-8", message)
    }
}

fn answer(code: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()).boxed());
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}

impl Server {
    pub async fn bind(config: &Config) -> Result<Self, Error> {
        let acceptor = TlsAcceptor::from(Arc::new(tls::config(&config.tls)?));
        let address = SocketAddr::new(config.node_ips.first, config.port);
        let listen = |cause| Error::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        Ok(Server { listener, acceptor, port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until told to stop.
    pub async fn run(self, ctx: Arc<Context>, stop: Stop) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (acceptor, ctx, stop) = (self.acceptor.clone(), ctx.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            served = connection(stream, acceptor, ctx) => {
                                served.unwrap_or_else(|e| debug!("{peer}: {e}"));
                            }
                        }
                    });
                }
                Err(e) => {
                    // Out of file descriptors, most likely: others must end first.
                    warn!("the node API cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    ctx: Arc<Context>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let trusted = certificate.is_some_and(tls::is_api_server);
    let service = service_fn(move |request| {
        let ctx = ctx.clone();
        async move { Ok::<_, Infallible>(serve(ctx, request, trusted).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await?;
    Ok(())
}

async fn serve(ctx: Arc<Context>, request: Request<Incoming>, trusted: bool) -> Answer {
    let path = request.uri().path().to_string();
    let Some(route) = request::route(&path) else { return Refusal::not_found("404 page not found").into() };
    if route == Route::Healthz {
        return answer(StatusCode::OK, "text/plain; charset=utf-8", "ok");
    }
    if !trusted {
        let message = "Forbidden: only the API server's kubelet client and system:masters may use the node API";
        return Refusal(StatusCode::FORBIDDEN, message.into()).into();
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Refusal(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into()).into();
    }
    let served = match route {
        Route::Healthz => return answer(StatusCode::OK, "text/plain; charset=utf-8", "ok"),
        Route::Pods => Ok(pods(&ctx)),
        Route::Logs(target) => logs::serve(&ctx, &target, request.uri().query().unwrap_or_default()).await,
        Route::Exec(target) => session::serve(ctx, target, request, session::Kind::Exec),
        Route::Attach(target) => session::serve(ctx, target, request, session::Kind::Attach),
        Route::PortForward(target) => forward::serve(&ctx, &target, request),
    };
    served.unwrap_or_else(Answer::from)
}

fn pods(ctx: &Context) -> Answer {
    let pods: Vec<_> = ctx.directory.list().into_iter().map(|v| v.pod).collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
    answer(StatusCode::OK, "application/json", list.to_string())
}

/// The pod's view and the container's name; with one container the name may be left out.
fn find(ctx: &Context, target: &Target) -> Result<(crate::pod::context::View, String), Refusal> {
    let missing = || Refusal::not_found(format!("pod \"{}/{}\" not found on this node", target.namespace, target.pod));
    let view = ctx.directory.get(&target.namespace, &target.pod).ok_or_else(missing)?;
    let spec = view.pod.spec.as_ref();
    let first = || spec.and_then(|s| s.containers.first()).map(|c| c.name.clone()).unwrap_or_default();
    let name = target.container.clone().filter(|c| !c.is_empty()).unwrap_or_else(first);
    if spec.is_none_or(|s| crate::pod::plan::find_container(s, &name).is_none()) {
        let message = format!("container {name} is not valid for pod {}", target.pod);
        return Err(Refusal::bad(message));
    }
    Ok((view, name))
}
