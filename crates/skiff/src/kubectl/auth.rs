//! `auth can-i` and `auth whoami`: the server says what the user may do, and who it takes them for.

use http::Method;
use serde_json::{Value, json};
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    session::{Call, JSON, Session},
    text::emit,
};

pub(super) const CAN_I: &[Flag] = &[
    switch("all-namespaces", "in every namespace").short('A'),
    switch("quiet", "say it by the exit code only").short('q'),
    value("subresource", "of the resource, such as log or status"),
];

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

pub(super) async fn can_i(session: &Session, args: &Args) -> Result<()> {
    let [verb, what, rest @ ..] = args.words.as_slice() else {
        return plain("you must specify two arguments: verb resource or verb resource/resourceName");
    };
    let spec = match what.starts_with('/') {
        true => json!({"nonResourceAttributes": {"verb": verb, "path": what}}),
        false => json!({"resourceAttributes": attributes(session, args, verb, what, rest.first()).await?}),
    };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let answer = session.json(&Call::new(Method::POST, REVIEWS).body(JSON, &review)).await?;
    let allowed = json::get(&answer, "status.allowed").and_then(Value::as_bool).unwrap_or(false);
    if !args.on("quiet") {
        let reason = Some(json::text(&answer, "status.reason")).filter(|r| !r.is_empty() && !allowed);
        emit(&format!(
            "{}{}\n",
            if allowed { "yes" } else { "no" },
            reason.map_or(String::new(), |r| format!(" - {r}"))
        ))?;
    }
    if allowed { Ok(()) } else { Err(Error::Exit(1)) }
}

async fn attributes(session: &Session, args: &Args, verb: &str, what: &str, name: Option<&String>) -> Result<Value> {
    let (word, name) = what.split_once('/').map_or((what, name.map_or("", String::as_str)), |(w, n)| (w, n));
    // A resource that the server does not have may be asked for all the same: a rule may name it.
    let (group, resource) = match (word, session.kind_called(word).await) {
        ("*", _) => ("*".to_owned(), "*".to_owned()),
        (_, Ok(kind)) => (kind.group, kind.plural),
        (word, Err(_)) => word.split_once('.').map_or((String::new(), word.into()), |(r, g)| (g.into(), r.into())),
    };
    let namespace = if args.on("all-namespaces") { "" } else { &session.namespace };
    Ok(json!({"verb": verb, "group": group, "resource": resource, "name": name, "namespace": namespace,
        "subresource": args.get("subresource").unwrap_or_default()}))
}

pub(super) async fn whoami(session: &Session) -> Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let call = Call::new(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews").body(JSON, &review);
    let answer = session.json(&call).await?;
    let groups: Vec<&str> = json::list(&answer, "status.userInfo.groups").iter().filter_map(Value::as_str).collect();
    let user = json::text(&answer, "status.userInfo.username");
    emit(&format!("ATTRIBUTE   VALUE\nUsername    {user}\nGroups      [{}]\n", groups.join(" ")))
}
