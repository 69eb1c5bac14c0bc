//! `rollout`: how far a new version has come, and the way back.

mod status;

use serde_json::{Value, json};
use skiff_api::json;

use super::{
    dryrun::DryRun,
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    kinds::{Kind, known},
    output,
    session::{STRATEGIC, Session},
    text::emit,
};

pub(super) use status::status;

pub(super) const FLAGS: &[Flag] = &[
    switch("watch", "status: wait until it is done (the default)").short('w'),
    value("timeout", "status: how long to wait; 0 for any time"),
    value("revision", "the revision that is meant"),
    value("to-revision", "undo: the revision to go back to; the one before without this"),
    value("field-manager", "the name under which fields are owned"),
];

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";
const HASH: &str = "pod-template-hash";

pub(super) async fn run(session: &Session, args: &Args, what: &str) -> Result<()> {
    if args.words.is_empty() && !args.has("filename") {
        return plain("required resource not specified");
    }
    let targets = session.targets(&args.words, args).await?;
    if targets.iter().any(|t| t.name.is_empty()) && !args.has("selector") && what != "restart" && what != "status" {
        return plain("resource(s) were provided, but no name was specified");
    }
    let (found, mut errors) = session.fetch(&targets, args).await;
    for (kind, object) in found {
        let done = match what {
            "status" => status(session, args, &kind, &object).await,
            "history" => history(session, args, &kind, &object).await,
            "undo" => undo(session, args, &kind, &object).await,
            "restart" => restart(session, args, &kind, &object).await,
            "pause" => pause(session, args, &kind, &object, true).await,
            _ => pause(session, args, &kind, &object, false).await,
        };
        match done {
            Err(Error::Closed) => return Err(Error::Closed),
            Err(e) => errors.push(e),
            Ok(()) => {}
        }
    }
    Error::gather(errors)
}

fn only(kind: &Kind, kinds: &[&str], what: &str) -> Result<()> {
    if kinds.contains(&kind.kind.as_str()) {
        return Ok(());
    }
    plain(format!("{} {what} is not supported", kind.qualified()))
}

fn told(args: &Args, object: &Value, what: &str) -> Result<()> {
    emit(&format!("{} {what}{}\n", output::name_of(object), DryRun::of(args)?.suffix()))
}

async fn pause(session: &Session, args: &Args, kind: &Kind, object: &Value, on: bool) -> Result<()> {
    only(kind, &["Deployment"], if on { "pausing" } else { "resuming" })?;
    let name = json::text(object, "metadata.name");
    match (json::truth(object, "spec.paused"), on) {
        (true, true) => return plain(format!("deployments.apps {name:?} is already paused")),
        (false, false) => return plain(format!("deployments.apps {name:?} is not paused")),
        _ => {}
    }
    change(
        session,
        args,
        kind,
        object,
        STRATEGIC,
        &json!({"spec": {"paused": if on { json!(true) } else { Value::Null }}}),
    )
    .await?;
    told(args, object, if on { "paused" } else { "resumed" })
}

async fn restart(session: &Session, args: &Args, kind: &Kind, object: &Value) -> Result<()> {
    only(kind, &["Deployment", "DaemonSet", "StatefulSet"], "restarting")?;
    if json::truth(object, "spec.paused") {
        return plain("can't restart paused deployment (run rollout resume first)");
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}});
    change(session, args, kind, object, STRATEGIC, &patch).await?;
    told(args, object, "restarted")
}

async fn change(
    session: &Session,
    args: &Args,
    kind: &Kind,
    object: &Value,
    type_: &'static str,
    patch: &Value,
) -> Result<()> {
    match DryRun::of(args)? {
        DryRun::Client => Ok(()),
        _ => session.patch(kind, object, type_, patch).await.map(drop),
    }
}

/// The ReplicaSets (or controller revisions) that hold an object's past versions, by revision.
async fn revisions(session: &Session, kind: &Kind, object: &Value) -> Result<Vec<(i64, Value)>> {
    let (namespace, uid) = (json::text(object, "metadata.namespace"), json::text(object, "metadata.uid"));
    let holder = match kind.kind.as_str() {
        "Deployment" => known("apps", "replicasets")?,
        _ => known("apps", "controllerrevisions")?,
    };
    let mut all: Vec<(i64, Value)> = Vec::new();
    for held in session.list(&holder, namespace, None).await? {
        let owned = json::list(&held, "metadata.ownerReferences").iter().any(|o| json::text(o, "uid") == uid);
        let number = match kind.kind.as_str() {
            "Deployment" => annotation(&held, REVISION).parse().unwrap_or(0),
            _ => json::int(&held, "revision"),
        };
        if owned && number > 0 {
            all.push((number, held));
        }
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all)
}

fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    json::map(object, "metadata.annotations").and_then(|a| a.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// The pod template that a revision holds.
fn template(held: &Value) -> Value {
    match json::get(held, "data") {
        Some(data) => json::get(data, "spec.template").cloned().unwrap_or_default(),
        None => json::get(held, "spec.template").cloned().unwrap_or_default(),
    }
}

async fn history(session: &Session, args: &Args, kind: &Kind, object: &Value) -> Result<()> {
    only(kind, &["Deployment", "DaemonSet", "StatefulSet"], "rollout history")?;
    let all = revisions(session, kind, object).await?;
    let name = output::name_of(object);
    if let Some(wanted) = args.number("revision")?.filter(|r| *r > 0) {
        let Some((_, held)) = all.iter().find(|(number, _)| *number == wanted) else {
            return match all.is_empty() {
                true => emit(&format!("{name} with revision #{wanted}\nNo rollout history found.\n")),
                false => plain(format!("unable to find the specified revision {wanted}")),
            };
        };
        let described = super::describe::pod_template(&template(held), annotation(held, CAUSE));
        return emit(&format!("{name} with revision #{wanted}\n{described}\n"));
    }
    if all.is_empty() {
        return emit(&format!("{name} \nNo rollout history found.\n"));
    }
    let mut text = String::from("REVISION\tCHANGE-CAUSE\n");
    for (number, held) in &all {
        let cause = annotation(held, CAUSE);
        text.push_str(&format!("{number}\t{}\n", if cause.is_empty() { "<none>" } else { cause }));
    }
    emit(&format!("{name} \n{}\n", super::text::tabbed(&text, 0, 2)))
}

async fn undo(session: &Session, args: &Args, kind: &Kind, object: &Value) -> Result<()> {
    only(kind, &["Deployment", "DaemonSet", "StatefulSet"], "rollback")?;
    let name = json::text(object, "metadata.name");
    if json::truth(object, "spec.paused") {
        return plain(format!(
            "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume deployment/{name}' and try again"
        ));
    }
    let all = revisions(session, kind, object).await?;
    let wanted = args.number("to-revision")?.unwrap_or(0);
    let held = match wanted {
        0 => match all.len() {
            0 | 1 => return plain(format!("no rollout history found for {} {name:?}", kind.singular)),
            count => &all[count - 2].1,
        },
        wanted => match all.iter().find(|(number, _)| *number == wanted) {
            Some((_, held)) => held,
            None => return plain(format!("unable to find specified revision {wanted} in history")),
        },
    };
    let mut template = template(held);
    json::below(&mut template, "metadata").and_then(|m| json::below(m, "labels")).and_then(|l| json::remove(l, HASH));
    if json::get(object, "spec.template") == Some(&template) {
        return emit(&format!(
            "{} skipped rollback (current template already matches revision {wanted})\n",
            output::name_of(object)
        ));
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    change(session, args, kind, object, "application/json-patch+json", &patch).await?;
    told(args, object, "rolled back")
}
