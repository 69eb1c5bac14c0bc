//! Nobody gives rights that they do not have: roles and bindings are checked against their writer's own.

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;
use skiff_api::status::Status;

use crate::Result;
use crate::access::RBAC;
use crate::authz::Attributes;
use crate::call::Call;
use crate::object;

pub(super) fn no_more_than_own(call: &Call, value: &Value) -> Result<()> {
    let resource = call.resource();
    if resource.group != RBAC {
        return Ok(());
    }
    let namespace = call.namespace().unwrap_or_default();
    let authorizer = call.server.access.authorizer();
    let (verb, rules) = match resource.plural {
        "roles" | "clusterroles" => ("escalate", own_rules(value)),
        _ => {
            let (kind, role) = (object::text(value, "/roleRef/kind"), object::text(value, "/roleRef/name"));
            ("bind", authorizer.bound_rules(namespace, kind, role))
        }
    };
    let missing = authorizer.escalates(&call.identity, namespace, &rules);
    if missing.is_empty() || may(call, verb, value, namespace) {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(|rule| serde_json::to_string(rule).unwrap_or_default()).collect();
    let user = &call.identity;
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        lines.join("\n")
    );
    Err(Status::forbidden(resource, object::name(value), why))
}

fn own_rules(value: &Value) -> Vec<PolicyRule> {
    serde_json::from_value(value["rules"].clone()).unwrap_or_default()
}

/// The right to grant anything, on the role or on what is bound.
fn may(call: &Call, verb: &str, value: &Value, namespace: &str) -> bool {
    let (resource, name) = match verb {
        "escalate" => (call.resource().plural, object::name(value)),
        _ if object::text(value, "/roleRef/kind") == "Role" => ("roles", object::text(value, "/roleRef/name")),
        _ => ("clusterroles", object::text(value, "/roleRef/name")),
    };
    let wish = Attributes { group: RBAC, resource, name, namespace, ..Attributes::of(&call.identity, verb) };
    call.server.access.authorizer().authorize(&wish).is_allowed()
}
