//! `delete`: ends objects and waits until they are gone.

use std::time::{Duration, Instant};

use futures::AsyncBufReadExt;
use http::Method;
use serde_json::{Value, json};
use skiff_api::json;

use super::{
    dryrun::DryRun,
    error::{Error, Result, plain},
    flags::{Args, Flag, perhaps, switch, value},
    output::Format,
    session::{Call, JSON, Session, duration},
    targets::Target,
    text::{emit, note},
};

pub(super) const FLAGS: &[Flag] = &[
    switch("all", "all objects of the kind in the namespace"),
    switch("now", "as --grace-period=1"),
    switch("force", "with --grace-period=0: do not wait for the object to end"),
    value("grace-period", "how many seconds the object has to end; -1 for its own wish"),
    switch("wait", "wait until the object is gone (the default)"),
    value("timeout", "how long to wait; 0 for any time"),
    perhaps("cascade", "background", "background, orphan or foreground: what happens to dependents"),
    value("raw", "delete what stands at this path"),
    switch("interactive", "not supported"),
];

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    if let Some(path) = args.get("raw") {
        return emit(&session.text(&Call::new(Method::DELETE, path)).await?);
    }
    let named = args.words.len() > 1 || args.words.iter().any(|w| w.contains('/'));
    let chosen = args.on("all") || args.has("selector") || args.has("field-selector") || args.has("filename");
    if !args.words.is_empty() && !named && !chosen {
        return plain("resource(s) were provided, but no name was specified");
    }
    if args.on("all") && args.has("selector") {
        return plain("cannot set --all and --selector at the same time");
    }
    let plan = Plan::of(args)?;
    if plan.grace == Some(0) && args.on("force") {
        note(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.\n",
        );
    }
    let targets = session.targets(&args.words, args).await?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for target in targets {
        match target.name.is_empty() {
            false => found.push(target),
            true => {
                let (objects, failed) = session.fetch(std::slice::from_ref(&target), args).await;
                found.extend(objects.iter().map(|(_, o)| with_name(&target, o)));
                errors.extend(failed);
            }
        }
    }
    if found.is_empty() && errors.is_empty() {
        return match named || args.has("filename") {
            true => Ok(()),
            false => emit("No resources found\n"),
        };
    }
    let mut going = Vec::new();
    for target in found {
        match one(session, args, &plan, &target).await {
            Ok(Some(uid)) => going.push((target, uid)),
            Ok(None) => {}
            Err(e) if e.not_found() && args.on("ignore-not-found") => {}
            Err(e) => errors.push(e),
        }
    }
    if plan.wait && plan.dry == DryRun::No {
        for (target, uid) in going {
            gone(session, &target, &uid, plan.until).await?;
        }
    }
    Error::gather(errors)
}

fn with_name(target: &Target, object: &Value) -> Target {
    Target {
        name: json::text(object, "metadata.name").to_owned(),
        namespace: json::text(object, "metadata.namespace").to_owned(),
        kind: target.kind.clone(),
    }
}

struct Plan {
    dry: DryRun,
    grace: Option<i64>,
    propagation: &'static str,
    wait: bool,
    until: Option<Instant>,
    format: Format,
}

impl Plan {
    fn of(args: &Args) -> Result<Plan> {
        let asked = args.number("grace-period")?.filter(|g| *g >= 0);
        let grace = match (asked, args.on("now"), args.on("force")) {
            (Some(_), true, _) => return plain("--now and --grace-period cannot be specified together"),
            (Some(0), _, false) => Some(1),
            (None, true, _) => Some(1),
            (None, _, true) => Some(0),
            (asked, ..) => asked,
        };
        let propagation = match args.get("cascade") {
            None | Some("background" | "true") => "Background",
            Some("orphan" | "false") => "Orphan",
            Some("foreground") => "Foreground",
            Some(other) => {
                return plain(format!(
                    "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
                ));
            }
        };
        let limit = match args.get("timeout") {
            None | Some("0" | "0s") => None,
            Some(text) => Some(duration(text)?),
        };
        let format = Format::of(args)?;
        if !format.human() && format != Format::Name {
            return plain("unexpected -o output mode: only '-o name' is supported");
        }
        Ok(Plan {
            dry: DryRun::of(args)?,
            grace,
            propagation,
            wait: if args.on("force") && grace == Some(0) { args.on("wait") } else { !args.off("wait") },
            until: limit.map(|l| Instant::now() + l),
            format,
        })
    }

    fn options(&self) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": self.propagation});
        if let Some(grace) = self.grace {
            options["gracePeriodSeconds"] = json!(grace);
        }
        if self.dry == DryRun::Server {
            options["dryRun"] = json!(["All"]);
        }
        options
    }

    fn told(&self, target: &Target) -> String {
        if self.format == Format::Name {
            return format!("{}\n", target.label());
        }
        let how = if self.grace == Some(0) { "force deleted" } else { "deleted" };
        format!("{} {:?} {how}{}\n", target.kind.label(), target.name, self.dry.suffix())
    }
}

/// The uid of the object that was asked to end.
async fn one(session: &Session, args: &Args, plan: &Plan, target: &Target) -> Result<Option<String>> {
    if plan.dry == DryRun::Client {
        session.json(&Call::get(target.path())).await?;
        emit(&plan.told(target))?;
        return Ok(None);
    }
    let call = Call::new(Method::DELETE, target.path()).body(JSON, &plan.options());
    let answer = session.json(&call).await.map_err(|e| match args.get("filename") {
        Some(file) => e.while_doing("deleting", file),
        None => e,
    })?;
    emit(&plan.told(target))?;
    let uid = match json::text(&answer, "kind") {
        "Status" => json::text(&answer, "details.uid"),
        _ => json::text(&answer, "metadata.uid"),
    };
    Ok(Some(uid.to_owned()))
}

/// Waits until there is no such object, or another one of that name.
pub(super) async fn gone(session: &Session, target: &Target, uid: &str, until: Option<Instant>) -> Result<()> {
    let timed_out =
        || Error::Plain(format!("timed out waiting for the condition on {}/{}", target.kind.plural, target.name));
    loop {
        let object = match session.json(&Call::get(target.path())).await {
            Err(e) if e.not_found() => return Ok(()),
            other => other?,
        };
        if !uid.is_empty() && json::text(&object, "metadata.uid") != uid {
            return Ok(());
        }
        let version = json::text(&object, "metadata.resourceVersion");
        let left = match until {
            None => Duration::from_secs(60),
            Some(until) => until.checked_duration_since(Instant::now()).ok_or_else(timed_out)?,
        };
        if tokio::time::timeout(left, deletion(session, target, version)).await.is_err() && until.is_some() {
            return Err(timed_out());
        }
    }
}

/// Returns when a watch tells of the object's end, or when the watch itself ends.
async fn deletion(session: &Session, target: &Target, version: &str) -> Result<()> {
    let call = Call::get(target.kind.path(&target.namespace, ""))
        .query("watch", "true")
        .query("fieldSelector", format!("metadata.name={}", target.name))
        .query("resourceVersion", version);
    let mut lines = session.lines(&call).await?;
    let mut line = String::new();
    while lines.read_line(&mut line).await.is_ok_and(|n| n > 0) {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if matches!(json::text(&event, "type"), "DELETED" | "ERROR") {
            return Ok(());
        }
        line.clear();
    }
    Ok(())
}
