//! pods/proxy, services/proxy and nodes/proxy: an HTTP request passed on to what listens there, and its answer passed back.
//!
//! The connection is made by this server, so its own credentials never travel: the client's Authorization is left out.

mod html;
mod target;

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use skiff_api::status::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;

use super::node::join;
use crate::call::Call;
use crate::encode::{Reply, full};
use crate::{Body, Result};
use target::{Target, Tls};

const CONNECT: Duration = Duration::from_secs(10);
/// Pages over this size are passed back as they are.
const PAGE: usize = 4 << 20;
const HOP_BY_HOP: &[HeaderName] =
    &[CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

pub(crate) async fn run(call: &Call, body: Body) -> Result<Reply> {
    let rest = target::rest(&call.raw_path, call.resource().namespaced());
    if rest.is_empty() && matches!(call.method, Method::GET | Method::HEAD) && !upgrades(call) {
        return redirect(call);
    }
    let target = target::find(call).await?;
    let mut sender = dial(call, &target).await?;
    let request = request(call, &target, rest, body)?;
    let response = sender.send_request(request).await.map_err(|e| unreachable_service(&e))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return join(call, response);
    }
    let prefix = call.raw_path.strip_suffix(rest).unwrap_or(&call.raw_path).to_string();
    pass_back(response, &prefix, &target.authority()).await
}

fn unreachable_service(why: &dyn std::fmt::Display) -> Status {
    Status::unavailable(format!("error trying to reach service: {why}"))
}

fn upgrades(call: &Call) -> bool {
    call.headers.contains_key(UPGRADE)
}

/// Relative links of a page need its path to end with a slash.
fn redirect(call: &Call) -> Result<Reply> {
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    let to = HeaderValue::try_from(format!("{}/{query}", call.raw_path));
    let to = to.map_err(|_| Status::bad_request("the path cannot be redirected to"))?;
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, to);
    Ok(Reply::Raw(Box::new(response)))
}

async fn dial(call: &Call, target: &Target) -> Result<SendRequest<Body>> {
    let connect = (call.server.config.dial)(target.host.clone(), target.port);
    let late = || format!("dial tcp {}: i/o timeout", target.authority());
    let stream = match timeout(CONNECT, connect).await {
        Err(_) => return Err(unreachable_service(&late())),
        Ok(Err(e)) => return Err(unreachable_service(&format!("dial tcp {}: {e}", target.authority()))),
        Ok(Ok(stream)) => stream,
    };
    // Without it answers only come later.
    let _ = stream.set_nodelay(true);
    let config = match &target.tls {
        Tls::None => return speak(stream).await,
        Tls::With(config) => config.clone(),
    };
    let name = ServerName::try_from(target.host.clone()).map_err(|e| unreachable_service(&e))?;
    match timeout(CONNECT, TlsConnector::from(config).connect(name, stream)).await {
        Err(_) => Err(unreachable_service(&late())),
        Ok(Err(e)) => Err(unreachable_service(&e)),
        Ok(Ok(stream)) => speak(stream).await,
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<SendRequest<Body>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| unreachable_service(&e))?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!("proxied connection: {e}");
        }
    });
    Ok(sender)
}

fn request(call: &Call, target: &Target, rest: &str, body: Body) -> Result<Request<Body>> {
    let path = if rest.is_empty() { "/" } else { rest };
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() =
        format!("{path}{query}").parse().map_err(|e| Status::bad_request(format!("the path is not valid: {e}")))?;
    let headers = request.headers_mut();
    forward_headers(&call.headers, headers, upgrades(call));
    if let Ok(host) = HeaderValue::try_from(target.authority()) {
        headers.insert(HOST, host);
    }
    if let Ok(uri) = HeaderValue::try_from(call.raw_path.as_str()) {
        headers.insert("x-forwarded-uri", uri);
    }
    Ok(request)
}

fn forward_headers(from: &HeaderMap, to: &mut HeaderMap, upgrade: bool) {
    for (name, value) in from {
        let hop = HOP_BY_HOP.contains(name) && !(upgrade && (*name == CONNECTION || *name == UPGRADE));
        // Pages are read on their way back, so they come unpacked.
        if !hop && *name != AUTHORIZATION && *name != ACCEPT_ENCODING && *name != HOST {
            to.append(name.clone(), value.clone());
        }
    }
}

async fn pass_back(response: Response<Incoming>, prefix: &str, authority: &str) -> Result<Reply> {
    let (mut parts, body) = response.into_parts();
    let cors = |name: &HeaderName| name.as_str().starts_with("access-control-");
    let dropped: Vec<HeaderName> =
        parts.headers.keys().filter(|name| HOP_BY_HOP.contains(name) || cors(name)).cloned().collect();
    for name in dropped {
        parts.headers.remove(name);
    }
    let location = parts.headers.get(LOCATION).and_then(|v| v.to_str().ok());
    if let Some(location) = location
        && let Ok(location) = HeaderValue::try_from(html::rewrite_url(location, prefix, authority))
    {
        parts.headers.insert(LOCATION, location);
    }
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let plain = !parts.headers.contains_key(http::header::CONTENT_ENCODING);
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let body = match kind.starts_with("text/html") && plain && length.is_some_and(|length| length <= PAGE) {
        false => body.map_err(Into::into).boxed_unsync(),
        true => {
            let page = Limited::new(body, PAGE).collect().await.map_err(|e| unreachable_service(&e))?.to_bytes();
            let page = html::rewrite(&page, prefix, authority);
            parts.headers.insert(CONTENT_LENGTH, page.len().into());
            full(page)
        }
    };
    Ok(Reply::Raw(Box::new(Response::from_parts(parts, body))))
}
