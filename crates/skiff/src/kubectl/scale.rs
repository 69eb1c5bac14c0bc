//! `scale`, `patch` and `set image`: one change to an object that exists.

use serde_json::{Value, json};
use skiff_api::json;

use super::{
    create,
    dryrun::DryRun,
    error::{Error, Result, plain},
    flags::{Args, Flag, value},
    output,
    session::{Call, JSON, MERGE, STRATEGIC, Session},
    text::emit,
};

pub(super) const FLAGS: &[Flag] = &[
    value("replicas", "how many pods there shall be"),
    value("current-replicas", "only if there are this many"),
    value("resource-version", "only if the object still has this version"),
    value("timeout", "accepted; the change itself does not wait"),
    flags_all(),
];

const fn flags_all() -> Flag {
    super::flags::switch("all", "all objects of the kind in the namespace")
}

pub(super) const PATCH: &[Flag] = &[
    value("patch", "the patch, as JSON or YAML").short('p'),
    value("patch-file", "a file with the patch"),
    value("type", "strategic, merge or json"),
    value("subresource", "patch status or scale in place of the object itself"),
    value("field-manager", "the name under which fields are owned"),
];

pub(super) const IMAGE: &[Flag] = &[value("field-manager", "the name under which fields are owned"), flags_all()];

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let Some(replicas) = args.number("replicas")? else {
        return plain("required flag(s) \"replicas\" not set");
    };
    if replicas < 0 {
        return plain("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0");
    }
    let targets = session.targets(&args.words, args).await?;
    if targets.iter().any(|t| t.name.is_empty()) && !args.on("all") && !args.has("selector") {
        return plain("resource(s) were provided, but no name was specified");
    }
    let (found, mut errors) = session.fetch(&targets, args).await;
    if found.is_empty() && !errors.is_empty() {
        return plain(format!("no objects passed to scale {}", errors.remove(0)));
    }
    let dry = DryRun::of(args)?;
    for (kind, object) in found {
        if let Some(expected) = args.number("current-replicas")?.filter(|n| *n >= 0)
            && expected != json::int(&object, "spec.replicas")
        {
            return plain(format!("Expected replicas to be {expected}, was {}", json::int(&object, "spec.replicas")));
        }
        let mut patch = json!({"spec": {"replicas": replicas}});
        if let Some(version) = args.get("resource-version") {
            patch["metadata"] = json!({"resourceVersion": version});
        }
        if dry != DryRun::Client {
            let call = Call::new(http::Method::PATCH, format!("{}/scale", kind.path_of(&object))).body(MERGE, &patch);
            session.json(&dry.mark(call.query("fieldManager", "kubectl-scale"))).await?;
        }
        let format = output::Format::of(args)?;
        if format.human() {
            emit(&format!("{} scaled{}\n", output::name_of(&object), dry.suffix()))?;
        } else {
            let now =
                if dry == DryRun::Client { object } else { session.json(&Call::get(kind.path_of(&object))).await? };
            create::report(args, &now, "scaled")?;
        }
    }
    Error::gather(errors)
}

/// `patch`
pub(super) async fn patch(session: &Session, args: &Args) -> Result<()> {
    let text = match (args.get("patch"), args.get("patch-file")) {
        (Some(text), None) => text.to_owned(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|e| Error::Plain(format!("cannot read {file}: {e}")))?
        }
        _ => return plain("must specify --patch or --patch-file containing the contents of the patch"),
    };
    let patch: Value =
        serde_yaml_ng::from_str(&text).map_err(|e| Error::Plain(format!("unable to parse {text:?}: {e}")))?;
    let targets = session.targets(&args.words, args).await?;
    if targets.iter().any(|t| t.name.is_empty()) {
        return plain("resource(s) were provided, but no name was specified");
    }
    let (found, errors) = session.fetch(&targets, args).await;
    let dry = DryRun::of(args)?;
    for (kind, object) in found {
        let type_ = match args.get("type") {
            None | Some("strategic") => STRATEGIC,
            Some("merge") => MERGE,
            Some("json") => "application/json-patch+json",
            Some(other) => return plain(format!("--type must be one of [json merge strategic], not {other:?}")),
        };
        let below = args.get("subresource").map(|s| format!("/{s}")).unwrap_or_default();
        let call = Call::new(http::Method::PATCH, format!("{}{below}", kind.path_of(&object)));
        let manager = args.get("field-manager").unwrap_or("kubectl-patch");
        let new = match dry {
            DryRun::Client => object.clone(),
            _ => session.json(&dry.mark(call.query("fieldManager", manager).body(type_, &patch))).await?,
        };
        let same = json::text(&new, "metadata.resourceVersion") == json::text(&object, "metadata.resourceVersion");
        create::report(args, &new, if same { "patched (no change)" } else { "patched" })?;
    }
    Error::gather(errors)
}

/// `set image`
pub(super) async fn image(session: &Session, args: &Args) -> Result<()> {
    let (images, words): (Vec<String>, Vec<String>) = args.words.iter().cloned().partition(|w| w.contains('='));
    if images.is_empty() {
        return plain("at least one image update is required");
    }
    let targets = session.targets(&words, args).await?;
    let (found, errors) = session.fetch(&targets, args).await;
    let dry = DryRun::of(args)?;
    for (kind, object) in found {
        let mut new = object.clone();
        for pair in &images {
            let (container, image) = pair.split_once('=').unwrap_or((pair, ""));
            set_image(&mut new, container, image)?;
        }
        if new == object {
            continue;
        }
        let root = if kind.kind == "Pod" { "/spec" } else { "/spec/template/spec" };
        let mut patch = json!({});
        for list in ["containers", "initContainers"] {
            if let Some(value) = new.pointer(&format!("{root}/{list}")) {
                patch[list] = value.clone();
            }
        }
        let patch =
            if kind.kind == "Pod" { json!({"spec": patch}) } else { json!({"spec": {"template": {"spec": patch}}}) };
        if dry != DryRun::Client {
            let call = Call::new(http::Method::PATCH, kind.path_of(&object)).query("fieldManager", "kubectl-set");
            new = session.json(&dry.mark(call.body(STRATEGIC, &patch))).await?;
        }
        create::report(args, &new, "image updated")?;
    }
    Error::gather(errors)
}

fn set_image(object: &mut Value, container: &str, image: &str) -> Result<()> {
    let root = if json::text(object, "kind") == "Pod" { "/spec" } else { "/spec/template/spec" };
    let mut known = false;
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(all)) = object.pointer_mut(&format!("{root}/{list}")) else { continue };
        for one in all {
            if container == "*" || json::text(one, "name") == container {
                json::set(one, "image", image.to_owned());
                known = true;
            }
        }
    }
    if known { Ok(()) } else { plain(format!("unable to find container named {container:?}")) }
}

/// The whole object in place of the old one: `replace -f`.
pub(super) async fn replace(session: &Session, args: &Args) -> Result<()> {
    let mut errors = Vec::new();
    for manifest in super::manifest::read(args)? {
        let (kind, object) = session.placed(&manifest).await?;
        let dry = DryRun::of(args)?;
        let call = Call::new(http::Method::PUT, kind.path_of(&object)).query("fieldManager", "kubectl-replace");
        let call = call.query("fieldValidation", super::apply::validation(args)).body(JSON, &object);
        match session.json(&dry.mark(call)).await {
            Ok(new) => create::report(args, &new, "replaced")?,
            Err(e) => errors.push(e.while_doing("replacing", &manifest.source)),
        }
    }
    Error::gather(errors)
}
