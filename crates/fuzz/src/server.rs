//! Whole requests, and what shows who sends them.

use std::{
    cell::RefCell,
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use skiff_api::identity::Identity;
use skiff_apiserver::{
    Config, Server,
    authn::{certificate, impersonation},
    pki::requests,
};
use skiff_store::memory::Memory;
use tokio::runtime::Runtime;

const METHODS: [Method; 6] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
const MEDIA: [&str; 7] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// A server starts anew after so many requests: what they made must not fill the memory.
const REQUESTS: usize = 20_000;
/// Far above what a request takes that is not a watch.
const PATIENCE: Duration = Duration::from_secs(10);

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));

thread_local! {
    static SERVER: RefCell<(usize, Option<Arc<Server>>)> = const { RefCell::new((0, None)) };
}

fn server() -> Arc<Server> {
    SERVER.with_borrow_mut(|(count, server)| {
        *count += 1;
        if *count % REQUESTS == 0 {
            *server = None;
        }
        server.get_or_insert_with(|| RUNTIME.block_on(start())).clone()
    })
}

async fn start() -> Arc<Server> {
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let config = Config::new("fuzz", "192.0.2.1:6443".parse().expect("an address"), &key);
    Server::new(config, Arc::new(Memory::new())).await.expect("a server")
}

/// Method, media type, path and body: the server answers, and never that it is itself at fault.
pub(crate) fn request(bytes: &[u8]) {
    let [method, media, rest @ ..] = bytes else { return };
    let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    let (path, body) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let method = METHODS[usize::from(*method) % METHODS.len()].clone();
    let media = MEDIA[usize::from(*media) % MEDIA.len()];
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let Ok(mut request) = request.body(Full::new(Bytes::copy_from_slice(body))) else { return };
    request.extensions_mut().insert(Identity::admin());
    let server = server();
    let response = RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, server.handle(request)).await });
    let response = response.unwrap_or_else(|_| panic!("no answer for {PATIENCE:?}"));
    let code = response.status().as_u16();
    // A watch has no end; what there is of the others is there at once.
    let _timers = RUNTIME.enter();
    let body = response.into_body().collect().now_or_never();
    let said = body.and_then(Result::ok).map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
    assert_ne!(code, 500, "{}", said.unwrap_or_default());
}

/// As a token that continues a list, in base64 and as it is: the list goes on, or the token is refused (504: it
/// is of a revision that is still to come).
pub(crate) fn continued(bytes: &[u8]) {
    for token in [URL_SAFE_NO_PAD.encode(bytes), bytes.iter().map(|b| format!("%{b:02x}")).collect()] {
        let path = format!("/api/v1/configmaps?limit=1&continue={token}");
        let mut request = Request::builder().uri(path).body(Full::new(Bytes::new())).expect("a request");
        request.extensions_mut().insert(Identity::admin());
        let server = server();
        let response = RUNTIME.block_on(async { server.handle(request).await });
        assert!(matches!(response.status().as_u16(), 200 | 400 | 410 | 504), "{}", response.status());
    }
}

/// Client certificates, requests for them, and the headers that ask for another identity.
pub(crate) fn identity(bytes: &[u8]) {
    let _ = certificate::identity(&bytes.to_vec().into());
    let _ = requests::groups(&String::from_utf8_lossy(bytes));
    let armoured = STANDARD.encode(bytes);
    let _ = requests::groups(&format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{armoured}\n-----END CERTIFICATE REQUEST-----\n"
    ));
    let mut headers = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n').take(64) {
        let mut parts = line.splitn(2, |b| *b == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let name = HeaderName::from_bytes(&[b"impersonate-", name].concat());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let _ = impersonation::requested(&headers);
    let mut request = Request::builder().uri("/version");
    if let Ok(token) = HeaderValue::from_bytes(&[b"Bearer ", bytes].concat()) {
        request = request.header("authorization", token);
    }
    let Ok(request) = request.body(Full::new(Bytes::new())) else { return };
    let server = server();
    let response = RUNTIME.block_on(async { server.handle(request).await });
    assert!(matches!(response.status().as_u16(), 200 | 401), "{}", response.status());
}
