//! `apply`: what a file says becomes so. The last applied configuration is kept in an annotation, so that a field which is
//! removed from the file is removed from the object.

mod patch;

use http::Method;
use serde_json::{Value, json};
use skiff_api::json;

use super::{
    dryrun::DryRun,
    error::{Error, Result, plain},
    flags::{Args, Flag, perhaps, switch, value},
    kinds::Kind,
    manifest,
    output::{self, Format},
    session::{APPLY, Call, JSON, MERGE, STRATEGIC, Session},
    text::{compact, emit, note},
};

pub(super) use patch::three_way;

pub(super) const FLAGS: &[Flag] = &[
    switch("server-side", "let the server merge, and keep an account of who owns which field"),
    switch("force-conflicts", "with --server-side: take fields over from other managers"),
    value("field-manager", "the name under which fields are owned"),
    switch("overwrite", "accepted; the file always wins"),
    perhaps("validate", "strict", "strict, warn or ignore: what to do about unknown fields"),
    value("selector", "only objects of the file with these labels").short('l'),
    switch("force", "accepted; has no effect"),
    switch("wait", "accepted; has no effect"),
    switch("prune", "not supported"),
    switch("openapi-patch", "accepted; has no effect"),
];

pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    if !args.has("filename") {
        return plain("must specify one of -f and -k");
    }
    if args.on("prune") {
        return plain("--prune is not supported: delete what is no longer wanted with `delete`");
    }
    if args.on("force-conflicts") && !args.on("server-side") {
        return plain("--force-conflicts only works with --server-side");
    }
    let (dry, format) = (DryRun::of(args)?, Format::of(args)?);
    if args.on("server-side") && dry == DryRun::Client {
        return plain("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
    }
    let mut errors = Vec::new();
    let mut done = Vec::new();
    for manifest in manifest::read(args)? {
        if !chosen(args, &manifest.object)? {
            continue;
        }
        match one(session, args, dry, &manifest).await {
            Ok((object, what)) => {
                match &format {
                    Format::Human { .. } => emit(&format!("{} {what}{}\n", output::name_of(&object), dry.suffix()))?,
                    Format::Name => emit(&format!("{}\n", output::name_of(&object)))?,
                    _ => {}
                }
                done.push(object);
            }
            Err(Error::Closed) => return Err(Error::Closed),
            Err(e) => errors.push(e),
        }
    }
    if !format.human() && format != Format::Name && !done.is_empty() {
        output::print(&format, args, &output::as_one(done, false), output::name_of)?;
    }
    Error::gather(errors)
}

fn chosen(args: &Args, object: &Value) -> Result<bool> {
    let Some(selector) = args.get("selector") else { return Ok(true) };
    let labels = skiff_api::selector::Labels::parse(selector).map_err(|e| Error::Plain(e.to_string()))?;
    Ok(labels.matches_object(object))
}

/// What `--validate` asks of the server.
pub(super) fn validation(args: &Args) -> &'static str {
    match args.get("validate") {
        Some("ignore" | "false") => "Ignore",
        Some("warn") => "Warn",
        _ => "Strict",
    }
}

async fn one(
    session: &Session,
    args: &Args,
    dry: DryRun,
    manifest: &manifest::Manifest,
) -> Result<(Value, &'static str)> {
    let (kind, mut object) = session.placed(manifest).await?;
    if json::text(&object, "metadata.name").is_empty() {
        return plain(match json::text(&object, "metadata.generateName") {
            "" => format!(
                "error when retrieving current configuration of:\nResource: {:?}, GroupVersionKind: {:?}\nName: \"\", Namespace: {:?}\nfrom server for: {:?}: resource name may not be empty",
                resource_of(&kind),
                kind_of(&kind),
                json::text(&object, "metadata.namespace"),
                manifest.source
            ),
            prefix => format!("from {prefix}: cannot use generate name with apply"),
        });
    }
    if args.on("server-side") {
        return server_side(session, args, dry, &kind, &object).await.map(|o| (o, "serverside-applied"));
    }
    let modified = annotate(&mut object);
    let live = match session.json(&Call::get(kind.path_of(&object))).await {
        Ok(live) => live,
        Err(e) if e.not_found() => {
            let created = create(session, args, dry, &kind, &object).await;
            return created.map(|o| (o, "created")).map_err(|e| e.while_doing("creating", &manifest.source));
        }
        Err(e) => return Err(e),
    };
    update(session, args, dry, &kind, (&live, &object, &modified), &manifest.source).await
}

fn resource_of(kind: &Kind) -> String {
    format!("{}, Resource={}", kind.api_version(), kind.plural)
}

fn kind_of(kind: &Kind) -> String {
    format!("{}, Kind={}", kind.api_version(), kind.kind)
}

/// Puts the configuration itself, as text, into the annotation; the text is returned.
pub(super) fn annotate(object: &mut Value) -> String {
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(LAST_APPLIED);
    }
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata
        && !metadata.get("annotations").is_some_and(Value::is_object)
    {
        metadata.insert("annotations".into(), json!({}));
    }
    let text = compact(object) + "\n";
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(LAST_APPLIED.into(), json!(text));
    }
    text
}

async fn create(session: &Session, args: &Args, dry: DryRun, kind: &Kind, object: &Value) -> Result<Value> {
    if dry == DryRun::Client {
        return Ok(object.clone());
    }
    let call = Call::new(Method::POST, kind.path(json::text(object, "metadata.namespace"), ""));
    let call = call.query("fieldManager", args.get("field-manager").unwrap_or("kubectl-client-side-apply"));
    session.json(&dry.mark(call.query("fieldValidation", validation(args))).body(JSON, object)).await
}

async fn server_side(session: &Session, args: &Args, dry: DryRun, kind: &Kind, object: &Value) -> Result<Value> {
    let call = Call::new(Method::PATCH, kind.path_of(object))
        .query("fieldManager", args.get("field-manager").unwrap_or("kubectl"))
        .query("fieldValidation", validation(args))
        .query("force", if args.on("force-conflicts") { "true" } else { "false" })
        .body(APPLY, object);
    session.json(&dry.mark(call)).await.map_err(|e| match e {
        Error::Server(status) if json::text(&status, "reason") == "Conflict" => Error::Plain(conflict(&status)),
        other => other,
    })
}

fn conflict(status: &Value) -> String {
    format!(
        "{}\nPlease review the fields above--they currently have other managers. Here\nare the ways you can resolve this warning:\n\
         * If you intend to manage all of these fields, please re-run the apply\n  command with the `--force-conflicts` flag.\n\
         * If you do not intend to manage all of the fields, please edit your\n  manifest to remove references to the fields that should keep their\n  current managers.\n\
         * You may co-own fields by updating your manifest to match the existing\n  value; in this case, you'll become the manager if the other manager(s)\n  stop managing the field (remove it from their configuration).\n\
         See https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts",
        json::text(status, "message")
    )
}

type States<'a> = (&'a Value, &'a Value, &'a str);

async fn update(
    session: &Session,
    args: &Args,
    dry: DryRun,
    kind: &Kind,
    (live, wanted, _): States<'_>,
    source: &str,
) -> Result<(Value, &'static str)> {
    let annotations = json::map(live, "metadata.annotations");
    let last = annotations.and_then(|a| a.get(LAST_APPLIED)).and_then(Value::as_str);
    if last.is_none() && dry != DryRun::Client {
        note(&missing_annotation(&format!("{}s/{}", kind.kind.to_lowercase(), json::text(wanted, "metadata.name"))));
    }
    let original: Value = match last {
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Error::Plain(format!("the annotation {LAST_APPLIED} of the object is no JSON: {e}")))?,
        None => Value::Null,
    };
    let merge_type = kind.resource().map(|r| skiff_api::merge_keys::root(r.group, r.kind));
    let patch = three_way(merge_type, &original, wanted, live);
    if patch.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok((live.clone(), "unchanged"));
    }
    if dry == DryRun::Client {
        let patched = match kind.resource() {
            Some(r) => skiff_api::patch::strategic(r, live, &patch),
            None => skiff_api::patch::merge(live, &patch),
        };
        return patched.map(|o| (o, "configured")).map_err(|e| Error::Plain(e.to_string()));
    }
    let type_ = if kind.resource().is_some() { STRATEGIC } else { MERGE };
    let call = Call::new(Method::PATCH, kind.path_of(wanted))
        .query("fieldManager", args.get("field-manager").unwrap_or("kubectl-client-side-apply"))
        .query("fieldValidation", validation(args))
        .body(type_, &patch);
    match session.json(&dry.mark(call)).await {
        Ok(object) => Ok((object, "configured")),
        Err(e) => Err(applying(e, kind, wanted, &patch, source)),
    }
}

fn missing_annotation(name: &str) -> String {
    format!(
        "Warning: resource {name} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. \
         kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. \
         The missing annotation will be patched automatically.\n"
    )
}

fn applying(error: Error, kind: &Kind, object: &Value, patch: &Value, source: &str) -> Error {
    let Error::Server(mut status) = error else { return error };
    let message = format!(
        "error when applying patch:\n{}\nto:\nResource: {:?}, GroupVersionKind: {:?}\nName: {:?}, Namespace: {:?}\nfor: {source:?}: error when patching {source:?}: {}",
        compact(patch),
        resource_of(kind),
        kind_of(kind),
        json::text(object, "metadata.name"),
        json::text(object, "metadata.namespace"),
        json::text(&status, "message"),
    );
    json::set(&mut status, "message", message);
    Error::Server(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_holds_the_file() {
        let mut object =
            json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "default"}});
        let want = "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"annotations\":{},\"name\":\"a\",\"namespace\":\"default\"}}\n";
        assert_eq!(annotate(&mut object), want);
        assert_eq!(object["metadata"]["annotations"][LAST_APPLIED], want);
        assert_eq!(annotate(&mut object), want, "applying what was applied changes nothing");
    }
}
