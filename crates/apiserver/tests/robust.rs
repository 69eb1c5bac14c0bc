//! A served API over TLS among clients that mean no good: noise, requests that never end, far more than can be served.
//! Health and the system's heartbeats are answered all the while, and what was acknowledged is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use skiff_apiserver::pki::{Credential, Pki};
use skiff_apiserver::{Config, Server};
use skiff_store::memory::Memory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// A wait that ends is not one for time: only a hang is a failure.
const LONG: Duration = Duration::from_secs(60);

struct Served {
    address: std::net::SocketAddr,
    pki: Pki,
    _dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type Client = SendRequest<Full<bytes::Bytes>>;

impl Served {
    async fn start() -> Served {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &["127.0.0.1".into()]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config::new("test", "192.0.2.1:6443".parse().unwrap(), pki.service_account_key());
        let server = Server::new(config, Arc::new(Memory::new())).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(listener, Arc::new(pki.server_config().unwrap()), stop.clone()));
        Served { address, pki, _dir: dir, stop }
    }

    /// With a client certificate or without one.
    async fn connect(&self, who: Option<&Credential>, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca_pem().as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match who {
            None => config.with_no_client_auth(),
            Some(who) => {
                let chain = CertificateDer::pem_slice_iter(who.certificate.as_bytes()).map(Result::unwrap).collect();
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(who.key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn client(&self, who: Option<&Credential>) -> Client {
        let stream = TokioIo::new(self.connect(who, b"h2").await);
        let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

async fn ask(client: &Client, method: Method, path: &str, body: Option<Value>) -> (StatusCode, http::HeaderMap, Value) {
    let mut client = client.clone();
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder().method(method).uri(format!("https://127.0.0.1{path}"));
    let request = request.header("content-type", "application/json").body(Full::new(body.into())).unwrap();
    let answered = async {
        client.ready().await.unwrap();
        let response = client.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts, body.collect().await.unwrap().to_bytes())
    };
    let (parts, bytes) = timeout(LONG, answered).await.unwrap_or_else(|_| panic!("{path}: no answer"));
    (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn healthy(client: &Client) {
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask(client, Method::GET, path, None).await.0, StatusCode::OK, "{path}");
    }
}

/// Megabytes that this process has: the server, and the test beside it.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    (pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096) >> 20
}

/// xorshift64*
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

/// A request that was well formed before some of its bytes were bent.
fn noise(dice: &mut Dice) -> Vec<u8> {
    const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"];
    const PATHS: [&str; 10] = [
        "/api/v1/namespaces/default/configmaps",
        "/api/v1/namespaces/%2e%2e/pods?limit=-1&continue=e30",
        "/api/v1/pods?watch=1&resourceVersion=99999999999999999999&timeoutSeconds=1",
        "/apis/apps/v1/namespaces/default/deployments/x/scale",
        "/api/v1/namespaces/default/services?labelSelector=a%20in%20(((&fieldSelector=%00",
        "/openapi/v3/apis/../../x",
        "/api/v1/namespaces/default/pods/x/exec?command=sh&stdin=1",
        "/api/v1/nodes/x/proxy/%ff%fe",
        "*",
        "/apis/networking.k8s.io/v1/servicecidrs?dryRun=All&fieldValidation=Loud",
    ];
    const BODIES: [&str; 8] = [
        "",
        "{",
        "[[[[[[[[[[[[[[[[",
        "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":7}}",
        "k8s\0\x0a\x10\x0a\x02v1\x12\x0aConfigMap",
        "{\"a\":1e999999,\"a\":\"\\ud800\"}",
        "- &a [*a, *a]",
        "{\"metadata\":{\"name\":\"x\",\"labels\":{\"\":\"\"}},\"data\":null}",
    ];
    const MEDIA: [&str; 7] = [
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "a/b; c=\"",
    ];
    let body = BODIES[dice.roll(BODIES.len())];
    let length = [body.len(), body.len() + 7, 0, 1 << 40][dice.roll(8).min(3) % 4];
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: x\r\nContent-Type: {}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
        METHODS[dice.roll(METHODS.len())],
        PATHS[dice.roll(PATHS.len())],
        MEDIA[dice.roll(MEDIA.len())],
    )
    .into_bytes();
    for _ in 0..dice.roll(4) {
        let at = dice.roll(text.len());
        text[at] = dice.roll(256) as u8;
    }
    text.truncate(text.len() - dice.roll(8).saturating_sub(4).min(text.len() - 1));
    text
}

/// Ten thousand requests, over a hundred connections at once; each is answered or its connection closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_malformed_requests() {
    let served = Arc::new(Served::start().await);
    let admin = served.client(Some(served.pki.admin())).await;
    healthy(&admin).await;
    let (left, before) = (Arc::new(AtomicUsize::new(10_000)), resident());
    let senders = (0..16_u64).map(|n| {
        let (served, left) = (served.clone(), left.clone());
        tokio::spawn(async move {
            let mut dice = Dice(0x5eed + n);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(10)).is_ok() {
                // Keep-alive, so that a handshake is paid once for several; the first that is no HTTP ends it.
                let mut stream = served.connect((n % 2 == 0).then(|| served.pki.admin()), b"http/1.1").await;
                for _ in 0..10 {
                    let sent = stream.write_all(&noise(&mut dice)).await;
                    let _ = sent.and(stream.flush().await);
                }
                let _ = stream.shutdown().await;
                let mut answer = vec![];
                // How it ends is the server's choice; that it ends is not.
                let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the server closes");
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        while !sender.is_finished() {
            healthy(&admin).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sender.await.unwrap();
    }
    healthy(&admin).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 200, "{grown} MB more than before");
}

/// Headers and bodies that come byte by byte, or never: others are served, and the connections end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end() {
    let served = Arc::new(Served::start().await);
    let slow = (0..200).map(|n| {
        let served = served.clone();
        tokio::spawn(async move {
            let mut stream = served.connect(None, b"http/1.1").await;
            let begin: &[u8] = match n % 2 {
                0 => b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Slow: ",
                _ => b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
            };
            let mut sent = stream.write_all(begin).await;
            let mut answer = vec![];
            while sent.is_ok() {
                tokio::select! {
                    _ = stream.read_to_end(&mut answer) => break,
                    () = tokio::time::sleep(Duration::from_millis(500)) => {}
                }
                sent = stream.write_all(b" ").await;
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    let admin = served.client(Some(served.pki.admin())).await;
    for n in 0..20 {
        healthy(&admin).await;
        let map = json!({"metadata": {"name": format!("m{n}")}});
        let (code, _, value) = ask(&admin, Method::POST, "/api/v1/namespaces/default/configmaps", Some(map)).await;
        assert_eq!(code, StatusCode::CREATED, "{value}");
    }
    for client in slow {
        timeout(2 * LONG, client).await.expect("a slow request is ended").unwrap();
    }
}

/// Three clients ask for far more than can be served, each of another level. Health and a node's heartbeat are answered,
/// some of the greedy are told to come back, and every object that was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_greedy_starve_nobody() {
    const AT_ONCE: usize = 1500;
    const ROUNDS: usize = 2;
    let served = Arc::new(Served::start().await);
    let admin = served.client(Some(served.pki.admin())).await;
    let node = served.pki.client("a", "system:node:a", &["system:nodes"]).unwrap();
    let node = served.client(Some(&node)).await;
    let lease = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "a"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(ask(&node, Method::POST, leases, Some(lease.clone())).await.0, StatusCode::CREATED);

    let greedy = served.pki.client("greedy", "greedy", &["system:masters"]).unwrap();
    let (made, refused, done) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut floods = tokio::task::JoinSet::new();
    for number in 0..4 {
        // A connection has a thousand streams at most.
        let client = served.client(Some(&greedy)).await;
        for n in 0..AT_ONCE / 2 {
            let (client, made, refused) = (client.clone(), made.clone(), refused.clone());
            floods.spawn(async move {
                for round in 0..ROUNDS {
                    let map = json!({"metadata": {"name": format!("g{number}-{n}-{round}")}});
                    let path = "/api/v1/namespaces/default/configmaps";
                    let (code, headers, value) = ask(&client, Method::POST, path, Some(map)).await;
                    match code.as_u16() {
                        201 => drop(made.fetch_add(1, Ordering::Relaxed)),
                        429 => {
                            assert_eq!(headers["retry-after"], "1");
                            assert_eq!(value["reason"], "TooManyRequests");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => panic!("{code}: {value}"),
                    }
                }
            });
        }
    }
    let ended = done.clone();
    let beats = tokio::spawn(async move {
        let mut beats = 0;
        while !ended.load(Ordering::Relaxed) || beats == 0 {
            let (code, _, value) = ask(&node, Method::PUT, &format!("{leases}/a"), Some(lease.clone())).await;
            assert_eq!(code, StatusCode::OK, "{value}");
            healthy(&admin).await;
            beats += 1;
        }
        admin
    });
    while let Some(flood) = floods.join_next().await {
        flood.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let admin = beats.await.unwrap();
    let (made, refused) = (made.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    assert_eq!(made + refused, AT_ONCE * 2 * ROUNDS);
    assert!(refused > 0, "so many at once are not all let in");
    let (_, _, list) = ask(&admin, Method::GET, "/api/v1/namespaces/default/configmaps", None).await;
    let names =
        list["items"].as_array().unwrap().iter().filter(|m| m["metadata"]["name"].as_str().unwrap().starts_with('g'));
    assert_eq!(names.count(), made, "what was acknowledged is there, and nothing else");
}
