//! serviceaccounts/token: a token for an account, good for a while and as long as what it is bound to lives.

use http::StatusCode;
use serde_json::Value;
use skiff_api::resources;
use skiff_api::status::Status;

use super::read_body;
use crate::Result;
use crate::admission::node;
use crate::authn::Claims;
use crate::authn::token::{Kubernetes, Object};
use crate::call::Call;
use crate::encode::Reply;
use crate::object::{self, text};

const HOUR: i64 = 3600;

pub(super) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let mut request = read_body(call, "authentication.k8s.io/v1", "TokenRequest", body)?;
    node::token(call, &request)?;
    let account = call.storage().get(call.resource(), call.namespace(), call.name()?).await?;
    let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(HOUR);
    if !(600..=1 << 32).contains(&seconds) {
        return Err(Status::bad_request(
            "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes or more than 2^32 seconds",
        ));
    }
    let tokens = call.server.access.tokens();
    let asked: Vec<String> = request
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_string))
        .collect();
    let audiences = if asked.is_empty() { tokens.audiences().to_vec() } else { asked };
    let kubernetes = bound(call, &account.value, &request["spec"]["boundObjectRef"]).await?;
    let claims = Claims::new(kubernetes, audiences.clone(), call.now, seconds);
    let token = tokens.issue(claims).map_err(Status::internal)?;
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    let until = object::time(object::later(call.now, seconds));
    request["status"] = serde_json::json!({"token": token, "expirationTimestamp": until});
    Ok(Reply::Plain(StatusCode::CREATED, request))
}

fn reference(value: &Value) -> Object {
    Object { name: object::name(value).into(), uid: object::uid(value).into() }
}

/// The account, and the pod, secret or node whose end is the token's.
async fn bound(call: &Call, account: &Value, wanted: &Value) -> Result<Kubernetes> {
    let namespace = call.namespace().unwrap_or_default().to_string();
    let mut claims = Kubernetes { namespace, serviceaccount: reference(account), ..Kubernetes::default() };
    let (kind, name, uid) = (text(wanted, "/kind"), text(wanted, "/name"), text(wanted, "/uid"));
    if kind.is_empty() {
        return Ok(claims);
    }
    let resource = resources::find_kind("", "v1", kind).filter(|r| matches!(r.plural, "pods" | "secrets" | "nodes"));
    let resource = resource
        .ok_or_else(|| Status::bad_request(format!("cannot bind token for serviceaccount to object of type {kind}")))?;
    let found = call.storage().get(resource, call.namespace().filter(|_| resource.namespaced()), name).await?;
    if !uid.is_empty() && uid != object::uid(&found.value) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(resource, name, why));
    }
    let object = Some(reference(&found.value));
    match resource.plural {
        "pods" => {
            claims.node = node_of(call, &found.value).await?;
            claims.pod = object;
        }
        "secrets" => claims.secret = object,
        _ => claims.node = object,
    }
    Ok(claims)
}

async fn node_of(call: &Call, pod: &Value) -> Result<Option<Object>> {
    let name = text(pod, "/spec/nodeName");
    let Some(nodes) = resources::find("", "v1", "nodes").filter(|_| !name.is_empty()) else { return Ok(None) };
    Ok(call.storage().find(nodes, None, name).await?.map(|node| reference(&node.value)))
}
