//! `logs`: what containers wrote.

use futures::{AsyncBufReadExt, StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    exec::subresource,
    flags::{Args, Flag, switch, value},
    kinds::known,
    pods,
    session::{Call, Session, duration},
    text::emit,
};

pub(super) const FLAGS: &[Flag] = &[
    switch("follow", "go on printing").short('f'),
    switch("previous", "of the container before its last restart").short('p'),
    switch("timestamps", "the time before each line"),
    switch("all-containers", "of all containers of the pod"),
    switch("prefix", "pod and container before each line"),
    switch("ignore-errors", "go on when one of several logs fails"),
    switch("all-pods", "of all pods that the object selects"),
    value("tail", "only the last lines; -1 for all"),
    value("since", "only what is younger: 5s, 2m, 3h"),
    value("since-time", "only what is younger than this time (RFC 3339)"),
    value("limit-bytes", "at most this many bytes"),
    value("container", "the container").short('c'),
    value("selector", "of all pods with these labels").short('l'),
    value("max-log-requests", "how many logs may be followed at once (5)"),
    value("pod-running-timeout", "accepted; has no effect"),
    switch("insecure-skip-tls-verify-backend", "accepted; has no effect"),
];

pub(super) async fn run(session: &Session, args: &Args) -> Result<()> {
    let sources = sources(session, args).await?;
    if args.has("since") && args.has("since-time") {
        return plain("at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    let several = sources.len();
    let limit = args.number("max-log-requests")?.unwrap_or(5);
    if args.on("follow") && several as i64 > limit {
        return plain(format!(
            "you are attempting to follow {several} log streams, but maximum allowed concurrency is {limit}, use --max-log-requests to increase the limit"
        ));
    }
    if !args.on("follow") {
        for source in &sources {
            tolerate(args, print(session, args, source, several > 1).await)?;
        }
        return Ok(());
    }
    let mut all: FuturesUnordered<_> = sources.iter().map(|s| print(session, args, s, several > 1)).collect();
    while let Some(ended) = all.next().await {
        tolerate(args, ended)?;
    }
    Ok(())
}

fn tolerate(args: &Args, ended: Result<()>) -> Result<()> {
    match ended {
        Err(e) if args.on("ignore-errors") && !matches!(e, Error::Closed) => emit(&format!("error: {e}\n")),
        other => other,
    }
}

struct Source {
    pod: Value,
    container: String,
}

async fn sources(session: &Session, args: &Args) -> Result<Vec<Source>> {
    let pods = match (args.words.as_slice(), args.get("selector")) {
        ([], Some(selector)) => {
            let pods = session.list(&known("", "pods")?, &session.namespace, Some(selector)).await?;
            if pods.is_empty() {
                super::text::note(&format!("No resources found in {} namespace.\n", session.namespace));
            }
            pods
        }
        ([word], None) => vec![one(session, word, args).await?],
        ([word, container], None) if !args.has("container") => {
            let pod = one(session, word, args).await?;
            return Ok(vec![Source { pod, container: container.clone() }]);
        }
        ([], None) => {
            return plain(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command\nSee 'kubectl logs -h' for help and examples",
            );
        }
        (_, Some(_)) => return plain("only a selector (-l) or a POD name is allowed"),
        _ => return plain("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'."),
    };
    let mut sources = Vec::new();
    for pod in pods {
        let containers = match args.on("all-containers") {
            true => [pods::names_of(&pod, "spec.initContainers"), pods::containers(&pod)].concat(),
            false => vec![pods::container(&pod, args)?],
        };
        sources.extend(containers.into_iter().map(|container| Source { pod: pod.clone(), container }));
    }
    Ok(sources)
}

async fn one(session: &Session, word: &str, args: &Args) -> Result<Value> {
    if word.contains('/') {
        let (kind, object) = pods::named(session, word).await?;
        if kind.kind == "Pod" {
            return Ok(object);
        }
        let mut found = pods::selected(session, &object).await?;
        if found.is_empty() {
            return plain(format!("timed out waiting for the condition: {word} has no pods"));
        }
        if found.len() > 1 {
            let name = json::text(&found[0], "metadata.name");
            super::text::note(&format!("Found {} pods, using pod/{name}\n", found.len()));
        }
        return Ok(found.remove(0));
    }
    let missing = |e: Error| match e {
        e if e.not_found() => Error::Plain(format!(
            "error from server (NotFound): pods {word:?} not found in namespace {:?}",
            session.namespace
        )),
        other => other,
    };
    pods::behind(session, word, args).await.map_err(missing)
}

fn call(args: &Args, source: &Source) -> Result<Call> {
    let mut call = subresource(&source.pod, "log")?.query("container", &source.container);
    for (flag, parameter) in [("follow", "follow"), ("previous", "previous"), ("timestamps", "timestamps")] {
        if args.on(flag) {
            call = call.query(parameter, "true");
        }
    }
    let tail = match args.number("tail")? {
        None if args.has("selector") => Some(10),
        tail => tail.filter(|t| *t >= 0),
    };
    let since = match args.get("since") {
        Some(text) => Some(duration(text)?.as_secs_f64().ceil() as u64).filter(|s| *s > 0),
        None => None,
    };
    let limit = args.number("limit-bytes")?.filter(|l| *l > 0);
    Ok(call
        .maybe("tailLines", tail.map(|t| t.to_string()).as_deref())
        .maybe("sinceSeconds", since.map(|s| s.to_string()).as_deref())
        .maybe("sinceTime", args.get("since-time"))
        .maybe("limitBytes", limit.map(|l| l.to_string()).as_deref()))
}

async fn print(session: &Session, args: &Args, source: &Source, _several: bool) -> Result<()> {
    let prefix = match args.on("prefix") {
        true => format!("[pod/{}/{}] ", json::text(&source.pod, "metadata.name"), source.container),
        false => String::new(),
    };
    let mut lines = session.lines(&call(args, source)?).await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) => return Ok(()),
            Ok(_) => write(&prefix, &line)?,
            Err(e) => return plain(format!("the log broke off: {e}")),
        }
    }
}

fn write(prefix: &str, line: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = out.write_all(prefix.as_bytes()).and_then(|()| out.write_all(line)).and_then(|()| out.flush());
    written.map_err(|_| Error::Closed)
}
