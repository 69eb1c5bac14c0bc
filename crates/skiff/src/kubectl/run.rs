//! `run`: one pod from an image; with `-it --rm` for as long as someone looks.

use serde_json::{Map, Value, json};
use skiff_api::json;

use super::{
    create,
    dryrun::DryRun,
    error::{Error, Result, plain},
    exec::{Streams, stream, subresource},
    flags::{Args, Flag, switch, value},
    kinds::known,
    session::{Call, Session},
    text::{emit, note},
    wait,
};

pub(super) const FLAGS: &[Flag] = &[
    value("image", "the image"),
    value("image-pull-policy", "Always, IfNotPresent or Never"),
    value("restart", "Always, OnFailure or Never"),
    value("port", "the port that the container listens on"),
    value("env", "NAME=VALUE; may be repeated"),
    value("labels", "a=b,c=d; run=NAME without this").short('l'),
    value("annotations", "a=b; may be repeated"),
    value("overrides", "JSON that is merged into the pod"),
    switch("command", "the words after -- replace the image's command, too"),
    switch("stdin", "pass standard input to the container").short('i'),
    switch("tty", "give the container a terminal").short('t'),
    switch("attach", "show the container's output"),
    switch("rm", "delete the pod at the end"),
    switch("quiet", "print only the container's output").short('q'),
    switch("privileged", "run as privileged"),
    switch("expose", "not supported: use `expose`"),
    value("field-manager", "the name under which fields are owned"),
    value("pod-running-timeout", "accepted; has no effect"),
    switch("save-config", "keep the configuration in an annotation, so that apply can go on from it"),
];

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let pod = pod(args)?;
    let attach = (args.on("attach") || args.on("stdin")) && !args.off("attach");
    if args.on("rm") && !attach {
        return plain("--rm should only be used for attached containers");
    }
    if args.on("expose") {
        return plain("--expose is not supported: run the pod, then `expose` it");
    }
    let mut pod = pod;
    if session.namespace_given {
        let namespace = session.namespace.clone();
        json::below(&mut pod, "metadata").into_iter().for_each(|m| json::set(m, "namespace", namespace.clone()));
    }
    let kind = known("", "pods")?;
    let made = create::send(session, args, &kind, &pod, "kubectl-run").await?;
    if !attach || DryRun::of(args)? != DryRun::No {
        return create::report(args, &made, "created");
    }
    let ended = attached(session, args, &made).await;
    if args.on("rm") {
        session.json(&Call::new(http::Method::DELETE, kind.path_of(&made))).await?;
        if !args.on("quiet") {
            emit(&format!("pod {:?} deleted\n", json::text(&made, "metadata.name")))?;
        }
    }
    ended
}

async fn attached(session: &Session, args: &Args, pod: &Value) -> Result<()> {
    let kind = known("", "pods")?;
    let pod = wait::running(session, &kind, pod).await?;
    let name = json::text(&pod, "metadata.name");
    if json::text(&pod, "status.phase") == "Running" {
        if args.on("stdin") && !args.on("quiet") {
            note("If you don't see a command prompt, try pressing enter.\n");
        }
        let streams = Streams::wanted(args.on("stdin"), args.on("tty"));
        stream(session, streams.ask(subresource(&pod, "attach")?.query("container", name)), streams).await?;
    } else {
        emit(&session.text(&subresource(&pod, "log")?.query("container", name)).await?)?;
    }
    exit_code(session, args, &pod).await
}

/// The container's exit code, once there is one.
async fn exit_code(session: &Session, args: &Args, pod: &Value) -> Result<()> {
    if args.get("restart").unwrap_or("Always") == "Always" {
        return Ok(());
    }
    let kind = known("", "pods")?;
    let mut pod = session.json(&Call::get(kind.path_of(pod))).await?;
    while !matches!(json::text(&pod, "status.phase"), "Succeeded" | "Failed") {
        let place = (json::text(&pod, "metadata.namespace").to_owned(), json::text(&pod, "metadata.name").to_owned());
        let version = json::text(&pod, "metadata.resourceVersion").to_owned();
        match wait::changes(session, &kind, &place, &version).await? {
            Some(new) => pod = new,
            None => return Ok(()),
        }
    }
    let status = json::list(&pod, "status.containerStatuses").first().cloned().unwrap_or_default();
    match json::int(&status, "state.terminated.exitCode") {
        0 => Ok(()),
        code => Err(Error::Exit(u8::try_from(code).unwrap_or(1))),
    }
}

/// The pod, field by field as kubectl makes it.
fn pod(args: &Args) -> Result<Value> {
    let Some(image) = args.get("image").filter(|i| !i.is_empty()) else {
        return plain("required flag(s) \"image\" not set");
    };
    let [name, words @ ..] = args.words.as_slice() else {
        return plain("NAME is required for run");
    };
    let mut container = Map::new();
    if !words.is_empty() {
        container.insert(if args.on("command") { "command" } else { "args" }.into(), json!(words));
    }
    let env = args.all("env").into_iter().map(variable).collect::<Result<Vec<_>>>()?;
    if !env.is_empty() {
        container.insert("env".into(), json!(env));
    }
    container.insert("image".into(), json!(image));
    if let Some(policy) = args.get("image-pull-policy") {
        container.insert("imagePullPolicy".into(), json!(policy));
    }
    container.insert("name".into(), json!(name));
    if let Some(port) = args.number("port")? {
        container.insert("ports".into(), json!([{"containerPort": port}]));
    }
    container.insert("resources".into(), json!({}));
    if args.on("privileged") {
        container.insert("securityContext".into(), json!({"privileged": true}));
    }
    for (flag, fields) in [("stdin", &["stdin", "stdinOnce"][..]), ("tty", &["tty"][..])] {
        if args.on(flag) {
            fields.iter().for_each(|f| drop(container.insert((*f).into(), json!(true))));
        }
    }
    let restart = args.get("restart").unwrap_or("Always");
    if !matches!(restart, "Always" | "OnFailure" | "Never") {
        return plain(format!("invalid restart policy: {restart}\nSee 'kubectl run -h' for help and examples"));
    }
    let mut metadata = json!({"creationTimestamp": null, "labels": labels(name, args)?, "name": name});
    if !args.all("annotations").is_empty() {
        metadata["annotations"] = map(args.all("annotations").join(",").as_str())?;
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": restart},
        "status": {},
    });
    match args.get("overrides") {
        None => Ok(pod),
        Some(text) => {
            let patch = serde_json::from_str(text).map_err(|e| Error::Plain(format!("--overrides is no JSON: {e}")))?;
            skiff_api::patch::merge(&pod, &patch).map_err(|e| Error::Plain(e.to_string()))
        }
    }
}

fn variable(pair: &str) -> Result<Value> {
    match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(json!({"name": name, "value": value})),
        _ => plain(format!("invalid env: {pair}")),
    }
}

fn labels(name: &str, args: &Args) -> Result<Value> {
    match args.get("labels") {
        Some(text) => map(text),
        None => Ok(json!({"run": name})),
    }
}

fn map(text: &str) -> Result<Value> {
    let mut map = Map::new();
    for pair in text.split(',') {
        match pair.split_once('=') {
            Some((key, value)) => map.insert(key.to_owned(), json!(value)),
            None => return plain(format!("unexpected label spec: {pair}")),
        };
    }
    Ok(json!(map))
}
