//! `create`: objects from files, or simple ones from words and flags.

mod generate;

use http::Method;
use serde_json::Value;
use skiff_api::json;

use super::{
    apply::{annotate, validation},
    dryrun::DryRun,
    error::{Error, Result, plain},
    flags::{Args, Flag, perhaps, switch, value},
    kinds::{Kind, built_in},
    manifest,
    output::{self, Format},
    session::{Call, JSON, Session},
    text::emit,
};

pub(super) const FLAGS: &[Flag] = &[
    switch("save-config", "keep the configuration in an annotation, so that apply can go on from it"),
    value("field-manager", "the name under which fields are owned"),
    perhaps("validate", "strict", "strict, warn or ignore: what to do about unknown fields"),
    value("selector", "only objects of the file with these labels").short('l'),
    value("raw", "send the file to this path"),
];

pub(super) const DEPLOYMENT: &[Flag] = &[
    value("image", "an image; may be repeated"),
    value("replicas", "how many pods").short('r'),
    value("port", "the port that the container listens on"),
];

pub(super) const SERVICE: &[Flag] = &[
    value("tcp", "a port, or PORT:TARGETPORT; may be repeated"),
    value("clusterip", "a wished-for ClusterIP, or None"),
    value("node-port", "a wished-for node port"),
    value("external-name", "the name that stands behind an ExternalName Service"),
];

pub(super) const DATA: &[Flag] = &[
    value("from-literal", "KEY=VALUE; may be repeated"),
    value("from-file", "FILE, KEY=FILE or a directory; may be repeated"),
    value("from-env-file", "a file of KEY=VALUE lines"),
    value("type", "the type of the secret"),
    switch("append-hash", "not supported"),
];

/// `create -f`
pub(super) async fn files(session: &Session, args: &Args) -> Result<()> {
    if !args.has("filename") {
        return plain("must specify one of -f and -k");
    }
    if !args.words.is_empty() {
        return plain(format!(
            "Unexpected args: [{}]\nSee 'kubectl create -h' for help and examples",
            args.words.join(" ")
        ));
    }
    let mut errors = Vec::new();
    for manifest in manifest::read(args)? {
        let created = match session.placed(&manifest).await {
            Ok((kind, mut object)) => {
                if args.on("save-config") {
                    annotate(&mut object);
                }
                let sent = send(session, args, &kind, &object, "kubectl-create").await;
                sent.map_err(|e| e.while_doing("creating", &manifest.source))
            }
            Err(e) => Err(e),
        };
        match created {
            Ok(object) => report(args, &object, "created")?,
            Err(e) => errors.push(e),
        }
    }
    Error::gather(errors)
}

/// Sends a new object, or returns it as it is when this is only a rehearsal.
pub(super) async fn send(session: &Session, args: &Args, kind: &Kind, object: &Value, manager: &str) -> Result<Value> {
    let dry = DryRun::of(args)?;
    if dry == DryRun::Client {
        return Ok(object.clone());
    }
    let namespace = match json::text(object, "metadata.namespace") {
        "" if kind.namespaced => session.namespace.as_str(),
        own => own,
    };
    let call = Call::new(Method::POST, kind.path(namespace, ""))
        .query("fieldManager", args.get("field-manager").unwrap_or(manager))
        .query("fieldValidation", validation(args))
        .body(JSON, object);
    session.json(&dry.mark(call)).await
}

/// `deployment.apps/web created`, or the object as `-o` asks for it.
pub(super) fn report(args: &Args, object: &Value, what: &str) -> Result<()> {
    let format = Format::of(args)?;
    if format.human() {
        let dry = DryRun::of(args)?;
        return emit(&format!("{} {what}{}\n", output::name_of(object), dry.suffix()));
    }
    output::print(&format, args, object, output::name_of)
}

/// `create deployment`, `create service nodeport`, …
pub(super) async fn generated(session: &Session, args: &Args, what: &str) -> Result<()> {
    let mut object = generate::object(what, args)?;
    let api_version = json::text(&object, "apiVersion").to_owned();
    let name = json::text(&object, "kind").to_owned();
    let Some(kind) = built_in().find(|k| k.api_version() == api_version && k.kind == name) else {
        return plain(format!("no kind {name} in {api_version}"));
    };
    if kind.namespaced && session.namespace_given {
        let namespace = session.namespace.clone();
        json::below(&mut object, "metadata").into_iter().for_each(|m| json::set(m, "namespace", namespace.clone()));
    }
    if args.on("save-config") {
        annotate(&mut object);
    }
    let sent = send(session, args, &kind, &object, "kubectl-create").await;
    let object = sent.map_err(|e| failed(e, what))?;
    report(args, &object, "created")
}

/// How the failure to make a generated object is told.
fn failed(error: Error, what: &str) -> Error {
    let noun = match what {
        "deployment" => "deployment",
        "configmap" => "configmap",
        "secret generic" => "secret",
        "serviceaccount" => "serviceaccount",
        what if what.starts_with("service ") => {
            let kind = match what {
                "service clusterip" => "ClusterIP",
                "service nodeport" => "NodePort",
                "service loadbalancer" => "LoadBalancer",
                _ => "ExternalName",
            };
            return prefixed(error, &format!("failed to create {kind} service"));
        }
        _ => return error,
    };
    prefixed(error, &format!("failed to create {noun}"))
}

fn prefixed(error: Error, what: &str) -> Error {
    match error {
        Error::Server(status) => Error::Plain(format!("{what}: {}", json::text(&status, "message"))),
        other => other,
    }
}
