//! `label` and `annotate`: set with `key=value`, remove with `key-`.

use serde_json::{Map, Value, json};
use skiff_api::json;

use super::{
    create,
    dryrun::DryRun,
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    output::Format,
    session::{Call, MERGE, Session},
    text::emit,
};

pub(super) const FLAGS: &[Flag] = &[
    switch("overwrite", "values that are there may be changed"),
    switch("all", "all objects of the kind in the namespace"),
    switch("list", "print what the objects have"),
    value("resource-version", "only if the object still has this version"),
    value("field-manager", "the name under which fields are owned"),
    switch("local", "not supported"),
];

#[derive(Clone, Copy)]
pub(super) enum What {
    Labels,
    Annotations,
}

impl What {
    fn field(self) -> &'static str {
        match self {
            What::Labels => "labels",
            What::Annotations => "annotations",
        }
    }

    fn one(self) -> &'static str {
        match self {
            What::Labels => "label",
            What::Annotations => "annotation",
        }
    }
}

pub(super) async fn run(session: &Session, args: &Args, what: What) -> Result<()> {
    let is_change = |w: &str| !w.starts_with('-') && (w.contains('=') || w.ends_with('-'));
    let (changes, words): (Vec<String>, Vec<String>) = args.words.iter().cloned().partition(|w| is_change(w));
    let changes = changes.iter().map(|c| change(c)).collect::<Result<Vec<_>>>()?;
    if changes.is_empty() && !args.on("list") {
        return plain(format!("at least one {} update is required", what.one()));
    }
    if words.is_empty() && !args.has("filename") {
        return plain("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    let everything = args.on("all") || args.has("selector") || args.has("field-selector");
    if words.len() == 1 && !words[0].contains('/') && !everything {
        return plain("resource(s) were provided, but no name was specified");
    }
    let targets = session.targets(&words, args).await?;
    let (found, errors) = session.fetch(&targets, args).await;
    for (kind, object) in found {
        if args.on("list") {
            list(&object, what)?;
            continue;
        }
        one(session, args, what, &kind.path_of(&object), &object, &changes).await?;
    }
    Error::gather(errors)
}

type Change = (String, Option<String>);

fn change(word: &str) -> Result<Change> {
    match word.split_once('=') {
        Some(("", _)) => plain(format!("invalid label spec: {word}")),
        Some((key, value)) => Ok((key.to_owned(), Some(value.to_owned()))),
        None => Ok((word.trim_end_matches('-').to_owned(), None)),
    }
}

fn list(object: &Value, what: What) -> Result<()> {
    let have = json::map(object, &format!("metadata.{}", what.field()));
    let lines: String =
        have.into_iter().flatten().map(|(k, v)| format!("{k}={}\n", v.as_str().unwrap_or_default())).collect();
    emit(&lines)
}

async fn one(session: &Session, args: &Args, what: What, path: &str, object: &Value, changes: &[Change]) -> Result<()> {
    let empty = Map::new();
    let have = json::map(object, &format!("metadata.{}", what.field())).unwrap_or(&empty);
    for (key, value) in changes {
        let old = have.get(key).and_then(Value::as_str);
        match (old, value) {
            (None, None) => emit(&format!("{} {key:?} not found.\n", what.one()))?,
            (Some(old), Some(new)) if old != new && !args.on("overwrite") => {
                return plain(match what {
                    What::Labels => format!("'{key}' already has a value ({old}), and --overwrite is false"),
                    What::Annotations => format!(
                        "--overwrite is false but found the following declared annotation(s): '{key}' already has a value ({old})"
                    ),
                });
            }
            _ => {}
        }
    }
    let wanted: Map<String, Value> = changes.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let changed = changes.iter().any(|(k, v)| have.get(k).and_then(Value::as_str) != v.as_deref());
    let removed = changes.iter().any(|(k, v)| v.is_none() && have.contains_key(k));
    let told = match (what, changed, removed) {
        (What::Annotations, ..) => "annotated",
        (What::Labels, false, _) => "not labeled",
        (What::Labels, true, true) => "unlabeled",
        (What::Labels, true, false) => "labeled",
    };
    let mut patch = json!({"metadata": {what.field(): wanted}});
    if let Some(version) = args.get("resource-version") {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let dry = DryRun::of(args)?;
    let result = match (changed, dry) {
        (false, _) => object.clone(),
        (true, DryRun::Client) => skiff_api::patch::merge(object, &patch).map_err(|e| Error::Plain(e.to_string()))?,
        (true, _) => {
            let manager = args.get("field-manager").unwrap_or(match what {
                What::Labels => "kubectl-label",
                What::Annotations => "kubectl-annotate",
            });
            let call = Call::new(http::Method::PATCH, path).query("fieldManager", manager).body(MERGE, &patch);
            session.json(&dry.mark(call)).await?
        }
    };
    match Format::of(args)? {
        Format::Human { .. } => emit(&format!("{} {told}{}\n", super::output::name_of(object), dry.suffix())),
        _ => create::report(args, &result, told),
    }
}
