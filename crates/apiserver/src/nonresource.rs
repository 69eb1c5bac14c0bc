//! Paths that are no resources: health, version, discovery, OpenAPI, metrics.

use std::sync::PoisonError;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_api::status::Status;
use skiff_api::{discovery, openapi};
use skiff_store::Rev;

use crate::encode::{json_response, parameter, respond};
use crate::metrics::Page;
use crate::{Body, Result, Server, health};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(crate) async fn serve(server: &Server, parts: &Parts, identity: &Identity, path: &str) -> Result<Response<Body>> {
    let store = server.storage.0.revision().await;
    answer(server, parts, identity, path, store)
}

type Store = Result<Rev, skiff_store::Error>;

fn answer(server: &Server, parts: &Parts, identity: &Identity, path: &str, store: Store) -> Result<Response<Body>> {
    server.access.authorize_path(identity, &parts.method, path)?;
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(Status::method_not_allowed(None));
    }
    let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
    match steps.as_slice() {
        ["healthz" | "livez" | "readyz", rest @ ..] => health::answer(server, parts, steps[0], rest, store.map(drop)),
        ["metrics"] => {
            Ok(respond(StatusCode::OK, "text/plain; version=0.0.4", metrics(server, store.unwrap_or_default())))
        }
        ["metrics", "slis"] => {
            Ok(respond(StatusCode::OK, "text/plain; version=0.0.4", health::metrics(server, store.map(drop))))
        }
        ["openapi", "v2"] if accepts(parts, openapi::V2_PROTOBUF) => {
            let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            Ok(respond(StatusCode::OK, kind, openapi::v2_protobuf()))
        }
        ["openapi", ..] => openapi(server, path, &steps),
        ["api"] | ["apis"] if wants_aggregated(parts) => {
            let root = if steps[0] == "api" { discovery::Root::Api } else { discovery::Root::Apis };
            let mut response = json_response(StatusCode::OK, &discovery::aggregated(root));
            response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(AGGREGATED));
            Ok(response)
        }
        _ => document(plain(server, &steps)),
    }
}

fn document(found: Option<Value>) -> Result<Response<Body>> {
    found.map(|value| json_response(StatusCode::OK, &value)).ok_or_else(Status::no_such_resource)
}

fn plain(server: &Server, steps: &[&str]) -> Option<Value> {
    match steps {
        ["version"] => Some(version()),
        [".well-known", "openid-configuration"] => {
            let keys = format!("https://{}/openid/v1/jwks", server.config.advertise);
            Some(server.access.tokens().discovery(&keys))
        }
        ["openid", "v1", "jwks"] => Some(server.access.tokens().jwks()),
        ["api"] => Some(discovery::api_versions(&server.config.advertise.to_string())),
        ["apis"] => Some(discovery::api_groups()),
        ["apis", group] => discovery::group(group),
        ["api", version] => discovery::resource_list("", version),
        ["apis", group, version] => discovery::resource_list(group, version),
        [""] => Some(
            json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        ),
        _ => None,
    }
}

/// These documents are large and never change: each is made once.
fn openapi(server: &Server, path: &str, steps: &[&str]) -> Result<Response<Body>> {
    let mut made = server.documents.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = made.get(path) {
        return Ok(respond(StatusCode::OK, "application/json", bytes.clone()));
    }
    let document = openapi_document(steps).ok_or_else(Status::no_such_resource)?;
    let bytes: Bytes = serde_json::to_vec(&document).unwrap_or_default().into();
    made.insert(path.to_string(), bytes.clone());
    Ok(respond(StatusCode::OK, "application/json", bytes))
}

fn accepts(parts: &Parts, media: &str) -> bool {
    let ranges = parts.headers.get_all(http::header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    ranges.flat_map(|v| v.split(',')).any(|r| r.trim().starts_with(media))
}

fn openapi_document(steps: &[&str]) -> Option<Value> {
    match steps {
        ["openapi", "v2"] => Some(openapi::v2()),
        ["openapi", "v3"] => Some(openapi::v3_index()),
        ["openapi", "v3", "api", version] => openapi::v3("", version),
        ["openapi", "v3", "apis", group, version] => openapi::v3(group, version),
        _ => None,
    }
}

fn wants_aggregated(parts: &Parts) -> bool {
    let accepts = parts.headers.get_all(http::header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut ranges = accepts.flat_map(|v| v.split(','));
    ranges.any(|r| {
        parameter(r, "as") == Some("APIGroupDiscoveryList")
            && parameter(r, "v") == Some("v2")
            && parameter(r, "g") == Some("apidiscovery.k8s.io")
    })
}

pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": "v1.36.0+skiff",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

fn metrics(server: &Server, rev: Rev) -> String {
    let mut page = Page::default();
    page.head("kubernetes_build_info", "gauge", "A metric with a constant '1' value.");
    page.line(format_args!("kubernetes_build_info{{git_version=\"v1.36.0+skiff\",major=\"1\",minor=\"36\"}} 1"));
    page.gauge("skiff_store_revision", "The newest revision of the store.", rev);
    server.metrics.write(&mut page);
    server.fairness.write(&mut page);
    server.services.write_metrics(&mut page);
    crate::metrics::process(&mut page);
    page.text()
}
