//! `get`: tables as the server makes them, or the objects themselves; `-w` goes on printing what changes.

use futures::AsyncBufReadExt;
use serde_json::Value;
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    jsonpath,
    output::{self, Format},
    session::{Call, JSON, Session},
    table::{Sheet, Style},
    targets::Target,
    text::{emit, note},
};

pub(super) const SELECT: &[Flag] = &[
    value("selector", "only objects with these labels: a=b, a!=b, a in (b,c), a notin (b), a, !a").short('l'),
    value("field-selector", "only objects with these fields: metadata.name=x, status.phase!=Running"),
    switch("all-namespaces", "in all namespaces").short('A'),
    switch("ignore-not-found", "a missing object is no failure"),
];

pub(super) const FLAGS: &[Flag] = &[
    switch("watch", "go on printing changes").short('w'),
    switch("watch-only", "print changes only"),
    switch("output-watch-events", "with --watch: print what happened, too"),
    switch("show-labels", "one more column: the labels"),
    switch("show-kind", "print the kind before each name"),
    switch("no-headers", "no line of column names"),
    value("label-columns", "one more column for each of these labels").short('L'),
    value("sort-by", "order by the field that this path names"),
    value("chunk-size", "how many objects to ask for at a time; 0 for all"),
    value("subresource", "status or scale in place of the object itself"),
    value("raw", "print what the server says at this path"),
    switch("server-print", "accepted; the server makes the tables"),
];

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    if let Some(path) = args.get("raw") {
        return emit(&session.text(&Call::get(path)).await?);
    }
    let format = Format::of(args)?;
    if args.words.is_empty() && !args.has("filename") {
        return Err(Error::Bare(
            "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n\n\
             error: Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).\n\
             See 'kubectl get -h' for help and examples"
                .into(),
        ));
    }
    let targets = session.targets(&args.words, args).await?;
    if args.on("watch") || args.on("watch-only") {
        return watch(session, args, &format, &targets).await;
    }
    match format {
        Format::Human { wide } => tables(session, args, &targets, wide).await,
        format => objects(session, args, &format, &targets).await,
    }
}

fn call(target: &Target, args: &Args) -> Call {
    let path = match args.get("subresource") {
        Some(sub) if !target.name.is_empty() => format!("{}/{sub}", target.path()),
        _ => target.path(),
    };
    let call = Call::get(path);
    if !target.name.is_empty() {
        return call;
    }
    call.maybe("labelSelector", args.get("selector")).maybe("fieldSelector", args.get("field-selector"))
}

/// All of a collection, asked for in pieces. `rows` is the field that holds what was asked for.
async fn whole(session: &Session, args: &Args, call: &Call, rows: &str) -> Result<Value> {
    let chunk = args.number("chunk-size")?.unwrap_or(500);
    let limited = |next: &str| {
        let limit = (chunk > 0).then(|| chunk.to_string());
        call.clone().maybe("limit", limit.as_deref()).maybe("continue", Some(next))
    };
    let mut all = session.json(&limited("")).await?;
    let mut next = json::text(&all, "metadata.continue").to_owned();
    while !next.is_empty() {
        let mut more = session.json(&limited(&next)).await?;
        next = json::text(&more, "metadata.continue").to_owned();
        if let (Some(Value::Array(have)), Some(Value::Array(new))) = (all.get_mut(rows), more.get_mut(rows)) {
            have.append(new);
        }
    }
    Ok(all)
}

/// How a `list` that failed is told: with what was being looked for, as kubectl does for bad selectors.
fn explained(error: Error, target: &Target, args: &Args) -> Error {
    let (labels, fields) = (args.get("selector").unwrap_or_default(), args.get("field-selector").unwrap_or_default());
    match error {
        Error::Server(mut status) if error_is_bad_request(&status) && (labels, fields) != ("", "") => {
            let kind = format!("{}, Resource={}", gv(target), target.kind.plural);
            let message = format!(
                "Unable to find {kind:?} that match label selector {labels:?}, field selector {fields:?}: {}",
                json::text(&status, "message")
            );
            json::set(&mut status, "message", message);
            Error::Server(status)
        }
        other => other,
    }
}

fn error_is_bad_request(status: &Value) -> bool {
    json::text(status, "reason") == "BadRequest"
}

fn gv(target: &Target) -> String {
    format!("{}/{}", target.kind.group, target.kind.version)
}

async fn tables(session: &Session, args: &Args, targets: &[Target], wide: bool) -> Result<()> {
    let mut errors = Vec::new();
    let mut sheets: Vec<Sheet> = Vec::new();
    for target in targets {
        let mut call = call(target, args).accept(TABLE);
        if args.has("sort-by") {
            call = call.query("includeObject", "Object");
        }
        let answer = match target.name.is_empty() {
            true => whole(session, args, &call, "rows").await.map_err(|e| explained(e, target, args)),
            false => session.json(&call).await,
        };
        match answer {
            Ok(table) => add(&mut sheets, target, table),
            Err(e) if e.not_found() && args.on("ignore-not-found") => {}
            Err(e) => errors.push(e),
        }
    }
    sheets.retain(|s| !s.is_empty());
    // By words, naming several kinds is enough; from files, several must have been found.
    let mentioned = targets.iter().map(|t| t.kind.qualified()).collect::<std::collections::BTreeSet<_>>().len();
    let kinds = if args.has("filename") { sheets.len() } else { mentioned };
    let with_kind = args.on("show-kind") || kinds > 1;
    if sheets.is_empty() && errors.is_empty() && !args.on("ignore-not-found") {
        note(&nothing_found(session, args, targets));
    }
    let mut text = String::new();
    for (at, sheet) in sheets.iter_mut().enumerate() {
        if let Some(path) = args.get("sort-by") {
            sheet.sort(&output::relaxed(path)?);
        }
        text.push_str(if at > 0 { "\n" } else { "" });
        text.push_str(&sheet.render(&style(args, with_kind, wide)));
    }
    emit(&text)?;
    Error::gather(errors)
}

fn style(args: &Args, with_kind: bool, wide: bool) -> Style {
    Style {
        wide,
        with_kind,
        with_namespace: args.on("all-namespaces"),
        with_labels: args.on("show-labels"),
        label_columns: args.list("label-columns").into_iter().map(str::to_owned).collect(),
        headers: !args.on("no-headers"),
    }
}

/// Tables of the same kind that follow each other are one.
fn add(sheets: &mut Vec<Sheet>, target: &Target, table: Value) {
    match sheets.last_mut() {
        Some(last) if last.kind == target.kind => last.extend(table),
        _ => sheets.push(Sheet::new(target.kind.clone(), table)),
    }
}

fn nothing_found(session: &Session, args: &Args, targets: &[Target]) -> String {
    let namespaced = targets.iter().all(|t| t.kind.namespaced);
    match namespaced && !args.on("all-namespaces") {
        true => format!("No resources found in {} namespace.\n", session.namespace),
        false => "No resources found\n".into(),
    }
}

async fn objects(session: &Session, args: &Args, format: &Format, targets: &[Target]) -> Result<()> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let list = targets.iter().any(|t| t.name.is_empty()) || targets.len() != 1;
    for target in targets {
        let answer = match target.name.is_empty() {
            true => whole(session, args, &call(target, args), "items").await.map_err(|e| explained(e, target, args)),
            false => session.json(&call(target, args)).await,
        };
        match answer {
            Ok(mut answer) => match answer.get_mut("items").map(Value::take) {
                Some(Value::Array(mut items)) if target.name.is_empty() => {
                    items.iter_mut().for_each(|item| target.kind.name_type(item));
                    found.append(&mut items);
                }
                _ => found.push(answer),
            },
            Err(e) if e.not_found() && args.on("ignore-not-found") => {}
            Err(e) => errors.push(e),
        }
    }
    if let Some(path) = args.get("sort-by") {
        let path = output::relaxed(path)?;
        found.sort_by(|a, b| super::table::compare(&path, a, b));
    }
    if !found.is_empty() || (list && errors.is_empty()) {
        output::print(format, args, &output::as_one(found, list), output::name_of)?;
    }
    Error::gather(errors)
}

async fn watch(session: &Session, args: &Args, format: &Format, targets: &[Target]) -> Result<()> {
    let [target] = targets else {
        return plain("you may only specify a single resource type");
    };
    let human = format.human();
    let accept = if human { TABLE } else { JSON };
    let field = (!target.name.is_empty()).then(|| format!("metadata.name={}", target.name));
    let collection = Target { name: String::new(), ..target.clone() };
    let call = call(&collection, args).maybe("fieldSelector", field.as_deref()).accept(accept);
    if !target.name.is_empty() {
        session.json(&Call::get(target.path())).await?;
    }
    let first = session.json(&call).await.map_err(|e| explained(e, target, args))?;
    let version = json::text(&first, "metadata.resourceVersion").to_owned();
    let mut printer = Watcher { args, format, sheet: None, target };
    if !args.on("watch-only") {
        printer.list(first)?;
    }
    let following = call.query("watch", "true").query("resourceVersion", version);
    let mut lines = session.lines(&following).await?;
    let mut line = String::new();
    loop {
        line.clear();
        match lines.read_line(&mut line).await {
            Ok(0) => return Ok(()),
            Ok(_) => printer.event(&line)?,
            // The server, or --request-timeout, ended it.
            Err(_) => return Ok(()),
        }
    }
}

struct Watcher<'a> {
    args: &'a Args,
    format: &'a Format,
    sheet: Option<Sheet>,
    target: &'a Target,
}

impl Watcher<'_> {
    fn list(&mut self, mut answer: Value) -> Result<()> {
        if self.format.human() {
            return self.rows(answer, "ADDED");
        }
        let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) else { return Ok(()) };
        for mut item in items {
            self.target.kind.name_type(&mut item);
            self.object(&item)?;
        }
        Ok(())
    }

    fn event(&mut self, line: &str) -> Result<()> {
        let mut event: Value =
            serde_json::from_str(line).map_err(|e| Error::Plain(format!("a watch event is no JSON: {e}")))?;
        let object = event.get_mut("object").map(Value::take).unwrap_or_default();
        match (json::text(&event, "type"), self.format.human()) {
            ("ERROR", _) => Err(Error::Server(object)),
            ("BOOKMARK", _) => Ok(()),
            (happened, true) => self.rows(object, happened),
            (_, false) => self.object(&object),
        }
    }

    fn object(&self, object: &Value) -> Result<()> {
        if *self.format == Format::Yaml {
            emit("---\n")?;
        }
        output::print(self.format, self.args, object, output::name_of)
    }

    fn rows(&mut self, table: Value, happened: &str) -> Result<()> {
        let wide = *self.format == Format::Human { wide: true };
        let mut style = style(self.args, self.args.on("show-kind"), wide);
        let known = self.sheet.is_some();
        let sheet = match &mut self.sheet {
            Some(sheet) => {
                sheet.replace(table);
                sheet
            }
            none => none.insert(Sheet::new(self.target.kind.clone(), table)),
        };
        if sheet.is_empty() {
            if !known {
                self.sheet = None;
            }
            return Ok(());
        }
        style.headers &= !known;
        let event = self.args.on("output-watch-events").then_some(happened);
        emit(&sheet.render_with(&style, event))
    }
}

/// A template that names one field; used for ordering.
pub(super) type Path = [jsonpath::Node];
