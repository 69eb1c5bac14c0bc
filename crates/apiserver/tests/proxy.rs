//! pods/proxy, services/proxy and nodes/proxy, in process, to a server on loopback.

mod support;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use skiff_store::memory::Memory;
use skiff_store::{Expect, Store};
use support::Api;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const POD: &str = "/api/v1/namespaces/default/pods";
const SERVICE: &str = "/api/v1/namespaces/default/services";

/// Says what it was asked, or a page, or sends elsewhere.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let reply = Response::builder();
    Ok(match parts.uri.path() {
        "/page" => reply.header("content-type", "text/html").body("<a href=\"/rewriteme\">test</a>".into()),
        "/away" => reply.status(302).header("location", "/there").body(Bytes::new().into()),
        "/teapot" => reply.status(418).header("access-control-allow-origin", "*").body("short and stout".into()),
        _ => {
            let text = format!(
                "{} {} [{}] auth={} x={}",
                parts.method,
                parts.uri,
                String::from_utf8_lossy(&body),
                header("authorization"),
                header("x-own")
            );
            reply.body(text.into())
        }
    }
    .unwrap())
}

/// The port of a server that ends with the test.
async fn serve(tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                match tls {
                    None => drop(builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await),
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        drop(builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
                    }
                }
            });
        }
    });
    port
}

fn self_signed() -> TlsAcceptor {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["other.example".into()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A pod at 127.0.0.1 and a Service in front of it, with the ports of two servers.
async fn cluster() -> (Api, u16, u16) {
    let (plain, tls) = (serve(None).await, serve(Some(self_signed())).await);
    let store = Arc::new(Memory::new());
    let api = Api::over(store.clone(), &["10.96.0.0/16"]).await;
    api.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let container = json!({"name": "c", "image": "x", "ports": [{"containerPort": plain}]});
    api.create(POD, json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).await;
    let (code, _) =
        api.merge(&format!("{POD}/p/status"), json!({"status": {"podIP": "127.0.0.1", "phase": "Running"}})).await;
    assert_eq!(code, 200);
    let ports = json!([{"name": "web", "port": 80}, {"name": "tls", "port": 443}]);
    api.create(SERVICE, json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})).await;
    // Endpoints on loopback are refused, so they are not asked for.
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s", "namespace": "default"}, "subsets": [
        {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "web", "port": plain}, {"name": "tls", "port": tls}]}]});
    store.put("/registry/core/endpoints/default/s", endpoints.to_string().into(), Expect::Any).await.unwrap();
    (api, plain, tls)
}

async fn ask(api: &Api, method: Method, path: &str, body: &str) -> (u16, String) {
    let response = api.send(method, path, "text/plain", body.to_owned()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn every_form_of_a_name_and_every_verb() {
    let (api, plain, tls) = cluster().await;
    let forms = [
        format!("{POD}/p/proxy"),
        format!("{POD}/p:{plain}/proxy"),
        format!("{POD}/http:p:{plain}/proxy"),
        format!("{POD}/https:p:{tls}/proxy"),
        format!("{SERVICE}/s:web/proxy"),
        format!("{SERVICE}/s:80/proxy"),
        format!("{SERVICE}/http:s:web/proxy"),
        format!("{SERVICE}/https:s:tls/proxy"),
        format!("{SERVICE}/https:s:443/proxy"),
    ];
    for form in &forms {
        let got = ask(&api, Method::GET, &format!("{form}/a%2Fb/c?x=1&y=%20"), "").await;
        assert_eq!(got, (200, "GET /a%2Fb/c?x=1&y=%20 [] auth=- x=-".into()), "{form}");
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let got = ask(&api, method.clone(), &format!("{}?q=1", forms[0]), "hello").await;
        assert_eq!(got, (200, format!("{method} /?q=1 [hello] auth=- x=-")));
    }
    let (code, body) = ask(&api, Method::HEAD, &format!("{}/x", forms[0]), "").await;
    assert_eq!((code, body.as_str()), (200, ""));
}

#[tokio::test]
async fn pages_redirects_and_codes() {
    let (api, _, _) = cluster().await;
    let proxy = format!("{POD}/p/proxy");
    let moved = api.send(Method::GET, &format!("{proxy}?q=1"), "text/plain", "").await;
    assert_eq!(moved.status().as_u16(), 301);
    assert_eq!(moved.headers()["location"].to_str().unwrap(), format!("{proxy}/?q=1"));
    let page = ask(&api, Method::GET, &format!("{proxy}/page"), "").await;
    assert_eq!(page, (200, format!("<a href=\"{proxy}/rewriteme\">test</a>")));
    let away = api.send(Method::GET, &format!("{proxy}/away"), "text/plain", "").await;
    assert_eq!(away.headers()["location"].to_str().unwrap(), format!("{proxy}/there"));
    let pot = api.send(Method::GET, &format!("{proxy}/teapot"), "text/plain", "").await;
    assert_eq!((pot.status().as_u16(), pot.headers().contains_key("access-control-allow-origin")), (418, false));
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let (api, _, _) = cluster().await;
    api.create(SERVICE, json!({"metadata": {"name": "lonely"}, "spec": {"ports": [{"port": 80}]}})).await;
    api.create(POD, json!({"metadata": {"name": "new"}, "spec": {"containers": [{"name": "c", "image": "x"}]}})).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let cases = [
        (format!("{SERVICE}/lonely/proxy/"), 503, "no endpoints available for service \"lonely\"".to_owned()),
        (format!("{SERVICE}/s:81/proxy/"), 503, "no service port 81 found for service \"s\"".into()),
        (format!("{SERVICE}/s:none/proxy/"), 503, "no endpoints available for service \"s\"".into()),
        (format!("{SERVICE}/nope/proxy/"), 404, "services \"nope\" not found".into()),
        (format!("{SERVICE}/ftp:s:21/proxy/"), 400, "invalid service request \"ftp:s:21\"".into()),
        (format!("{POD}/new/proxy/"), 400, "pod new does not have an IP address yet".into()),
        (
            format!("{POD}/p:{closed}/proxy/"),
            503,
            format!("error trying to reach service: dial tcp 127.0.0.1:{closed}: "),
        ),
        ("/api/v1/nodes/nope/proxy/".into(), 404, "nodes \"nope\" not found".into()),
    ];
    for (path, code, words) in cases {
        let (got, status) = api.get(&path).await;
        let message = status["message"].as_str().unwrap_or_default();
        assert!(got == code && message.starts_with(&words), "{path}: {got} {message}");
    }
}

#[tokio::test]
async fn a_port_of_a_node() {
    let (api, plain, _) = cluster().await;
    let addresses = json!([{"type": "InternalIP", "address": "127.0.0.1"}]);
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}})).await;
    let got = ask(&api, Method::GET, &format!("/api/v1/nodes/n:{plain}/proxy/x"), "").await;
    assert_eq!(got, (200, "GET /x [] auth=- x=-".into()));
    let (code, status) = api.get("/api/v1/nodes/n/proxy/healthz").await;
    assert_eq!(
        (code, &status["message"]),
        (503, &Value::from("this server has no certificate to speak to nodes with"))
    );
}
