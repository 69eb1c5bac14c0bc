//! A small client for registries: requests, credentials, redirects. One connection for each request.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Response, StatusCode, Uri, body::Incoming, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OnceCell,
    time,
};

use super::{Auth, Options, Reference};

const REDIRECTS: u32 = 5;
/// A machine without a network should learn it soon.
const CONNECT: Duration = Duration::from_secs(10);
/// Manifests, configurations, tokens and error texts.
const SMALL: usize = 4 << 20;
const SYSTEM_CAS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
pub(super) const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// One registry and one repository in it, with what it has let us in by.
pub(super) struct Client<'a> {
    options: &'a Options,
    auth: Option<&'a Auth>,
    base: String,
    repository: &'a str,
    authorization: OnceCell<String>,
    reached: AtomicBool,
}

impl<'a> Client<'a> {
    pub(super) fn new(options: &'a Options, reference: &'a Reference, auth: Option<&'a Auth>) -> Self {
        let registry = if reference.registry == "docker.io" { "registry-1.docker.io" } else { &reference.registry };
        let scheme = if is_plain(registry, &options.insecure) { "http" } else { "https" };
        let base = format!("{scheme}://{registry}/v2/{}", reference.repository);
        Client {
            options,
            auth,
            base,
            repository: &reference.repository,
            authorization: OnceCell::new(),
            reached: AtomicBool::new(false),
        }
    }

    /// False when every connection failed: nobody was asked.
    pub(super) fn reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// A whole small body: `manifests/…` or `blobs/…`.
    pub(super) async fn small(&self, path: &str) -> Result<Bytes, String> {
        body(self.open(path).await?, self.options.timeout).await
    }

    /// The answer to a request for `path`, its body still to be read.
    pub(super) async fn open(&self, path: &str) -> Result<Response<Incoming>, String> {
        let url = format!("{}/{path}", self.base);
        let response = self.follow(&url, self.authorization.get().cloned()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return checked(response, &url, self.options.timeout).await;
        }
        let challenge = header_text(&response, header::WWW_AUTHENTICATE);
        let authorization = self.authorization.get_or_try_init(|| self.authorize(&challenge)).await?.clone();
        checked(self.follow(&url, Some(authorization)).await?, &url, self.options.timeout).await
    }

    /// Answers a challenge: `Basic` by name and password, `Bearer` by a token.
    async fn authorize(&self, challenge: &str) -> Result<String, String> {
        let basic = self.auth.map(|auth| {
            use base64::Engine;
            let text = format!("{}:{}", auth.username, auth.password);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
        });
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.ok_or_else(|| "401 Unauthorized: the registry wants a user name and password".to_owned());
        }
        let Some(realm) = parameter(rest, "realm").filter(|_| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(format!("401 Unauthorized: the registry's challenge {challenge:?} is not understood"));
        };
        let scope = parameter(rest, "scope").unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let mut url = format!("{realm}{}scope={}", if realm.contains('?') { '&' } else { '?' }, escape(&scope));
        if let Some(service) = parameter(rest, "service") {
            url.push_str(&format!("&service={}", escape(&service)));
        }
        let response = checked(self.follow(&url, basic).await?, &url, self.options.timeout).await?;
        let answer: Value = serde_json::from_slice(&body(response, self.options.timeout).await?)
            .map_err(|e| format!("the token server {realm} answered no JSON: {e}"))?;
        let token = answer["token"].as_str().or_else(|| answer["access_token"].as_str());
        token.map(|t| format!("Bearer {t}")).ok_or_else(|| format!("the token server {realm} gave no token"))
    }

    /// Follows redirects; credentials go to the first host only.
    async fn follow(&self, url: &str, authorization: Option<String>) -> Result<Response<Incoming>, String> {
        let mut uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
        let first = uri.authority().cloned();
        for _ in 0..REDIRECTS {
            let credentials = authorization.as_deref().filter(|_| uri.authority() == first.as_ref());
            let response = self.request(&uri, credentials).await.map_err(|e| format!("{}: {e}", origin(&uri)))?;
            let location = header_text(&response, header::LOCATION);
            if !response.status().is_redirection() || location.is_empty() {
                return Ok(response);
            }
            let next = if location.starts_with('/') { format!("{}{location}", origin(&uri)) } else { location };
            let next: Uri = next.parse().map_err(|e| format!("redirected to {next:?}: {e}"))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(format!("{} redirects from https to {next}", origin(&uri)));
            }
            uri = next;
        }
        Err(format!("{url}: more than {REDIRECTS} redirects"))
    }

    async fn request(&self, uri: &Uri, authorization: Option<&str>) -> Result<Response<Incoming>, String> {
        let host = uri.host().ok_or("no host in its address")?.trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let work = async {
            let dial = time::timeout(CONNECT, (self.options.dial)(host.clone(), port)).await;
            let stream = dial.map_err(|_| "i/o timeout while connecting")?.map_err(|e| connect_error(&e))?;
            self.reached.store(true, Ordering::Relaxed);
            if secure {
                let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
                let connector = tokio_rustls::TlsConnector::from(self.tls()?);
                let stream = connector.connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
                send(stream, uri, authorization).await
            } else {
                send(stream, uri, authorization).await
            }
        };
        time::timeout(self.options.timeout, work).await.map_err(|_| "i/o timeout".to_owned())?
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let given = self.options.ca_bundle.clone();
        let bundle = given.or_else(|| SYSTEM_CAS.iter().map(Into::into).find(|p: &std::path::PathBuf| p.exists()));
        let bundle = bundle.ok_or("this machine has no bundle of certificate authorities (package ca-certificates)")?;
        let mut roots = RootCertStore::empty();
        let file = File::open(&bundle).map_err(|e| format!("{}: {e}", bundle.display()))?;
        for certificate in CertificateDer::pem_reader_iter(io::BufReader::new(file)) {
            // A bundle may hold what rustls does not accept; the rest is of use.
            let _ = certificate.map(|c| roots.add(c));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(Arc::new(config.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth()))
    }
}

async fn send<S>(stream: S, uri: &Uri, authorization: Option<&str>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    // Ends with the response's body; its error is the body's too.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::get(path)
        .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
        .header(header::USER_AGENT, concat!("skiff/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, if path.contains("/manifests/") { MANIFESTS } else { "*/*" });
    if let Some(authorization) = authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// The registry's own reason when it refuses.
async fn checked(response: Response<Incoming>, url: &str, timeout: Duration) -> Result<Response<Incoming>, String> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = body(response, timeout).await.unwrap_or_default();
    Err(refusal(status, &text, url))
}

fn refusal(status: StatusCode, body: &[u8], url: &str) -> String {
    let errors: Value = serde_json::from_slice(body).unwrap_or_default();
    let reason = errors["errors"][0]["message"].as_str().or_else(|| errors["details"].as_str()).unwrap_or_default();
    match reason {
        "" => format!("unexpected status from GET request to {url}: {status}"),
        reason => format!("{reason} ({status} from {url})"),
    }
}

async fn body(response: Response<Incoming>, timeout: Duration) -> Result<Bytes, String> {
    let collected = time::timeout(timeout, Limited::new(response.into_body(), SMALL).collect()).await;
    let collected = collected.map_err(|_| "i/o timeout while reading the answer".to_owned())?;
    collected.map(|c| c.to_bytes()).map_err(|e| e.to_string())
}

/// Without the system's number: `connection refused`.
fn connect_error(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => format!("cannot connect: {e}"),
    }
}

/// Registries on loopback, and those named, are spoken to without TLS.
fn is_plain(registry: &str, insecure: &[String]) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || insecure.iter().any(|i| i == registry || i == host)
}

fn origin(uri: &Uri) -> String {
    format!("{}://{}", uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |a| a.as_str()))
}

fn header_text(response: &Response<Incoming>, name: header::HeaderName) -> String {
    response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// `key="value"` out of a challenge.
fn parameter(text: &str, key: &str) -> Option<String> {
    let at = text.find(&format!("{key}=\""))? + key.len() + 2;
    text[at..].split('"').next().map(str::to_owned)
}

fn escape(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b':' | b'/');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_tls_is_not_used() {
        for plain in ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert!(is_plain(plain, &[]), "{plain}");
        }
        assert!(!is_plain("registry-1.docker.io", &[]));
        assert!(!is_plain("localhost.example.com", &[]));
        assert!(is_plain("10.0.0.5:5000", &["10.0.0.5:5000".to_owned()]));
    }

    #[test]
    fn challenges_and_refusals() {
        let challenge =
            "realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull\"";
        assert_eq!(parameter(challenge, "service").as_deref(), Some("registry.docker.io"));
        assert_eq!(parameter(challenge, "none"), None);
        assert_eq!(escape("repository:a/b:pull,x y"), "repository:a/b:pull%2Cx%20y");
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        assert_eq!(refusal(StatusCode::NOT_FOUND, body, "u"), "manifest unknown (404 Not Found from u)");
        assert_eq!(
            refusal(StatusCode::BAD_GATEWAY, b"<html>", "u"),
            "unexpected status from GET request to u: 502 Bad Gateway"
        );
    }
}
