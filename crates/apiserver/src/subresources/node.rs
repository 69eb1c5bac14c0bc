//! log, exec, attach and portforward: passed on to the node that runs the pod, byte for byte.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use skiff_api::resources;
use skiff_api::status::Status;
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;

use crate::call::{Call, Upgrade};
use crate::encode::{Reply, full};
use crate::{Body, Result, object};

const CONNECT: Duration = Duration::from_secs(10);
/// How much of a node's error is read.
const ERROR_BODY: usize = 64 * 1024;

pub(super) async fn run(call: &Call, what: &str, body: Bytes) -> Result<Reply> {
    let name = call.name()?;
    let pod = call.storage().get(call.resource(), call.namespace(), name).await?;
    let host = object::text(&pod.value, "/spec/nodeName");
    if host.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let address = node_address(call, host).await?;
    let target = node_path(call, what, &pod.value)?;
    let response = send(call, host, &address, &target, body).await?;
    pass_back(call, response).await
}

/// `ADDRESS:PORT` of the node's own server.
pub(super) async fn node_address(call: &Call, host: &str) -> Result<(String, u16)> {
    let nodes = resources::find("", "v1", "nodes").ok_or_else(|| Status::internal("nodes are not served"))?;
    let node = call.storage().get(nodes, None, host).await?;
    let addresses = node.value.pointer("/status/addresses").and_then(Value::as_array);
    let internal = addresses.into_iter().flatten().find(|a| a["type"] == "InternalIP");
    let ip = internal.and_then(|a| a["address"].as_str());
    let port =
        node.value.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64).unwrap_or(10250);
    match (ip, u16::try_from(port)) {
        (Some(ip), Ok(port)) => Ok((ip.to_string(), port)),
        _ => Err(Status::internal(format!("node {host} has no InternalIP in its status: is its agent running?"))),
    }
}

/// The path and query that the node's server knows.
fn node_path(call: &Call, what: &str, pod: &Value) -> Result<String> {
    let (namespace, name) = (call.namespace().unwrap_or_default(), object::name(pod));
    let query = &call.raw_query;
    if what == "portforward" {
        return Ok(format!("/portForward/{namespace}/{name}?{query}"));
    }
    let container = container(pod, call.query.text("container"))?;
    Ok(match what {
        "log" => format!("/containerLogs/{namespace}/{name}/{container}?{query}"),
        _ => format!("/{what}/{namespace}/{name}/{container}?{query}{}", streams(call)),
    })
}

/// The node's names for the streams, beside the client's.
fn streams(call: &Call) -> String {
    let names = [("stdin", "input"), ("stdout", "output"), ("stderr", "error")];
    names.iter().filter(|(ours, _)| call.query.flag(ours)).map(|(_, theirs)| format!("&{theirs}=1")).collect()
}

fn container(pod: &Value, asked: Option<&str>) -> Result<String> {
    let names = |list: &str| -> Vec<String> {
        let list = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|c| c["name"].as_str().map(str::to_string)).collect()
    };
    let (main, pod_name) = (names("containers"), object::name(pod));
    match asked {
        Some(asked) => {
            let known = ["initContainers", "containers", "ephemeralContainers"]
                .iter()
                .any(|l| names(l).iter().any(|n| n == asked));
            let missing = || Status::bad_request(format!("container {asked} is not valid for pod {pod_name}"));
            if known { Ok(asked.to_string()) } else { Err(missing()) }
        }
        None if main.len() == 1 => Ok(main[0].clone()),
        None => {
            let list = main.join(" ");
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{list}]"
            )))
        }
    }
}

async fn send(
    call: &Call,
    host: &str,
    address: &(String, u16),
    target: &str,
    body: Bytes,
) -> Result<Response<Incoming>> {
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Status::internal(format!("error dialing node {host} at {}:{}: {what}: {e}", address.0, address.1))
    };
    let tls = call.server.config.node_tls.clone();
    let tls = tls.ok_or_else(|| Status::unavailable("this server has no certificate to speak to nodes with"))?;
    let name = ServerName::try_from(address.0.clone()).map_err(|e| failed("the address", &e))?;
    let connect = async {
        let stream =
            (call.server.config.dial)(address.0.clone(), address.1).await.map_err(|e| failed("connect", &e))?;
        let _ = stream.set_nodelay(true);
        TlsConnector::from(tls.0).connect(name, stream).await.map_err(|e| failed("TLS", &e))
    };
    let stream = timeout(CONNECT, connect).await.map_err(|e| failed("connect", &e))??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(|e| failed("HTTP", &e))?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!("connection to a node: {e}");
        }
    });
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(target)
        .body(full(body))
        .map_err(|e| failed("request", &e))?;
    forward_headers(&call.headers, request.headers_mut());
    if let Ok(host) = format!("{}:{}", address.0, address.1).parse() {
        request.headers_mut().insert(HOST, host);
    }
    sender.send_request(request).await.map_err(|e| failed("request", &e))
}

/// What an upgrade needs; credentials stay here.
fn forward_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        let text = name.as_str();
        if *name == CONNECTION
            || *name == UPGRADE
            || *name == CONTENT_TYPE
            || text.starts_with("sec-websocket-")
            || text == "x-stream-protocol-version"
        {
            // kubectl's bearer token may travel as a subprotocol.
            let secret = value.to_str().is_ok_and(|v| v.contains("base64url.bearer.authorization.k8s.io"));
            if !secret {
                to.append(name.clone(), value.clone());
            }
        }
    }
}

async fn pass_back(call: &Call, response: Response<Incoming>) -> Result<Reply> {
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => join(call, response),
        code if code.is_client_error() || code.is_server_error() => Err(node_error(response).await),
        _ => {
            let (mut parts, body) = response.into_parts();
            parts.headers.remove(TRANSFER_ENCODING);
            parts.headers.remove(CONNECTION);
            Ok(Reply::Raw(Box::new(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()))))
        }
    }
}

/// Both connections become one.
pub(super) fn join(call: &Call, mut response: Response<Incoming>) -> Result<Reply> {
    let client = call.upgrade.lock().unwrap_or_else(|e| e.into_inner()).take();
    let Some(Upgrade(client)) = client else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let node = hyper::upgrade::on(&mut response);
    let stop = call.server.stopping.clone();
    tokio::spawn(async move {
        let joined = async {
            let (client, node) = tokio::try_join!(client, node)?;
            let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
            // An end without farewell is how clients leave: no error.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            () = stop.cancelled() => {}
            joined = joined => if let Err(e) = joined { tracing::debug!("upgrade: {e}") },
        }
    });
    let (parts, _) = response.into_parts();
    let mut reply = Response::new(full(""));
    *reply.status_mut() = parts.status;
    *reply.headers_mut() = parts.headers;
    Ok(Reply::Raw(Box::new(reply)))
}

/// The node's words as a Status of the same code.
async fn node_error(response: Response<Incoming>) -> Status {
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ERROR_BODY).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body).trim().to_string();
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|v| v["message"].as_str().map(str::to_string))
        .unwrap_or(text);
    let reason = match code {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        _ => "InternalError",
    };
    Status::new(code, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_container_needs_no_name() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, None).unwrap(), "a");
        assert_eq!(container(&one, Some("i")).unwrap(), "i");
        assert!(container(&one, Some("x")).is_err());
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let message = container(&two, None).unwrap_err().message().to_string();
        assert_eq!(message, "a container name must be specified for pod p, choose one of: [a b]");
    }
}
