//! Reviews: questions about who somebody is and what they may do. Answered, never stored.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use skiff_api::status::Status;

use crate::Result;
use crate::authn;
use crate::authz::{Attributes, Decision};
use crate::call::Call;
use crate::decode::{self, Media};
use crate::encode::Reply;
use crate::object::text;
use crate::route::Verb;
use crate::validation;

pub(crate) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    if call.verb != Verb::Create {
        return Err(Status::method_not_allowed(Some(call.resource())));
    }
    let mut review = decode::value(Media::of(&call.headers, Media::OBJECTS)?, body)?;
    decode::check_kind(call.resource(), &mut review)?;
    validation::fields(call, call.resource(), &review)?;
    let spec = &review["spec"];
    let status = match call.resource().kind {
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.identity)}),
        "SelfSubjectAccessReview" => access(call, &call.identity, spec),
        "SubjectAccessReview" => access(call, &subject(spec)?, spec),
        "LocalSubjectAccessReview" => {
            if Some(text(spec, "/resourceAttributes/namespace")) != call.namespace() {
                return Err(Status::bad_request(
                    "spec.resourceAttributes.namespace must be the namespace of the review",
                ));
            }
            access(call, &subject(spec)?, spec)
        }
        "SelfSubjectRulesReview" => rules(call, text(spec, "/namespace"))?,
        "TokenReview" => token(call, spec).await?,
        other => return Err(Status::internal(format!("{other} is not answered"))),
    };
    review["status"] = status;
    Ok(Reply::Plain(StatusCode::CREATED, review))
}

fn subject(spec: &Value) -> Result<Identity> {
    let groups = || spec["groups"].as_array().into_iter().flatten().filter_map(|g| g.as_str().map(str::to_string));
    let identity = Identity {
        name: text(spec, "/user").into(),
        uid: text(spec, "/uid").into(),
        groups: groups().collect(),
        extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
    };
    match identity.name.is_empty() && identity.groups.is_empty() {
        true => {
            Err(Status::bad_request("spec.user: Invalid value: \"\": at least one of user or group must be specified"))
        }
        false => Ok(identity),
    }
}

fn access(call: &Call, user: &Identity, spec: &Value) -> Value {
    let (res, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let wish = match path.is_object() {
        true => Attributes { path: Some(text(path, "/path")), ..Attributes::of(user, text(path, "/verb")) },
        false => Attributes {
            group: text(res, "/group"),
            resource: text(res, "/resource"),
            subresource: text(res, "/subresource"),
            name: text(res, "/name"),
            namespace: text(res, "/namespace"),
            ..Attributes::of(user, text(res, "/verb"))
        },
    };
    let mut status = json!({"allowed": false});
    let decision = call.server.access.authorizer().authorize(&wish);
    status["allowed"] = decision.is_allowed().into();
    let (Decision::Allow { reason } | Decision::Deny { reason }) = decision;
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

fn rules(call: &Call, namespace: &str) -> Result<Value> {
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let all = call.server.access.authorizer().rules(&call.identity, namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in all {
        if let Some(urls) = rule.non_resource_urls.filter(|u| !u.is_empty()) {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
            continue;
        }
        let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
        if let Some(names) = rule.resource_names.filter(|n| !n.is_empty()) {
            shown["resourceNames"] = json!(names);
        }
        resources.push(shown);
    }
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
}

async fn token(call: &Call, spec: &Value) -> Result<Value> {
    let access = &call.server.access;
    let asked: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_string)).collect();
    let audiences = if asked.is_empty() { access.tokens().audiences().to_vec() } else { asked };
    match access.authenticator().authenticate_token(text(spec, "/token"), &audiences, call.now).await {
        Ok((user, audiences)) => Ok(json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})),
        Err(authn::Error::Refused(why)) => Ok(json!({"authenticated": false, "user": {}, "error": why})),
        Err(e) => Err(Status::internal(e)),
    }
}

/// UserInfo, what is empty left out.
fn user_info(user: &Identity) -> Value {
    let mut info: BTreeMap<&str, Value> =
        BTreeMap::from([("username", user.name.as_str().into()), ("groups", json!(user.groups))]);
    if !user.uid.is_empty() {
        info.insert("uid", user.uid.as_str().into());
    }
    if !user.extra.is_empty() {
        info.insert("extra", json!(user.extra));
    }
    json!(info)
}
