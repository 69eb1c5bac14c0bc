//! CertificateSigningRequests say who made them, whatever they claim; approving and signing need a right on the signer.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use skiff_api::status::Status;

use crate::Result;
use crate::authz::Attributes;
use crate::call::Call;
use crate::object::{self, text};
use crate::pki::requests;

const GROUP: &str = "certificates.k8s.io";
const MASTERS: &str = "system:masters";

fn concerns(call: &Call) -> bool {
    call.resource().id() == (GROUP, "certificatesigningrequests")
}

pub(super) fn create(call: &Call, value: &mut Value) -> Result<()> {
    if !concerns(call) {
        return Ok(());
    }
    let who = &call.identity;
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    for (key, said) in [
        ("username", json!(who.name)),
        ("uid", json!(who.uid)),
        ("groups", json!(who.groups)),
        ("extra", json!(who.extra)),
    ] {
        match said.as_str() == Some("") || said.as_object().is_some_and(|extra| extra.is_empty()) {
            true => drop(spec.shift_remove(key)),
            false => drop(spec.insert(key.into(), said)),
        }
    }
    no_masters(call, value)
}

/// What is not readable is refused by validation or by the signer, in better words.
fn no_masters(call: &Call, value: &Value) -> Result<()> {
    if text(value, "/spec/signerName") != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    let request = STANDARD.decode(text(value, "/spec/request")).unwrap_or_default();
    let groups = requests::groups(&String::from_utf8_lossy(&request)).unwrap_or_default();
    match groups.iter().any(|group| group == MASTERS) {
        false => Ok(()),
        true => {
            let why = format!("use of kubernetes.io/kube-apiserver-client signer with {MASTERS} group is not allowed");
            Err(Status::forbidden(call.resource(), object::name(value), why))
        }
    }
}

pub(super) fn update(call: &Call, old: &Value, next: &mut Value, subresource: Option<&str>) -> Result<()> {
    if !concerns(call) {
        return Ok(());
    }
    let certificate = |of: &Value| of.pointer("/status/certificate").cloned();
    match subresource {
        // A request is what it was when it was looked at.
        None => {
            next["spec"] = old["spec"].clone();
            Ok(())
        }
        Some("approval") => may(call, "approve", old),
        Some("status") if certificate(old) != certificate(next) => may(call, "sign", old),
        Some(_) => Ok(()),
    }
}

/// By the signer's full name, or for all of its domain.
fn may(call: &Call, verb: &str, request: &Value) -> Result<()> {
    let signer = text(request, "/spec/signerName");
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let authorizer = call.server.access.authorizer();
    let allowed = [signer, &domain].into_iter().any(|name| {
        let wish = Attributes { group: GROUP, resource: "signers", name, ..Attributes::of(&call.identity, verb) };
        authorizer.authorize(&wish).is_allowed()
    });
    match allowed {
        true => Ok(()),
        false => {
            let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
            Err(Status::forbidden(call.resource(), object::name(request), why))
        }
    }
}
