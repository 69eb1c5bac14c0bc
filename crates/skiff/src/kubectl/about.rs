//! What there is to speak to: `api-resources`, `api-versions`, `cluster-info`, `version`, `config`.

use serde_json::{Value, json};
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, perhaps, switch, value},
    kinds::Kind,
    output::Format,
    session::{Call, Session, kubeconfig},
    text::{Columns, emit, pretty},
    yaml,
};

pub(super) const RESOURCES: &[Flag] = &[
    value("api-group", "only of this group"),
    switch("namespaced", "only those in namespaces; --namespaced=false: only the others"),
    value("verbs", "only those that know all these verbs"),
    switch("no-headers", "no line of column names"),
    value("output", "wide or name").short('o'),
    value("sort-by", "name or kind"),
    value("categories", "only of these categories"),
    switch("cached", "accepted; has no effect"),
];

pub(super) const VERSION: &[Flag] =
    &[switch("client", "only this program's"), value("output", "json or yaml").short('o')];

pub(super) const CONFIG: &[Flag] = &[
    switch("minify", "only what the current context uses"),
    switch("raw", "with certificates and keys"),
    switch("flatten", "with certificates and keys in the file itself"),
    switch("no-headers", "no line of column names"),
    perhaps("merge", "true", "accepted; has no effect"),
    value("output", "json, yaml or name").short('o'),
];

pub(super) async fn api_resources(session: &Session, args: &Args) -> Result<()> {
    let wanted_verbs = args.list("verbs");
    let categories = args.list("categories");
    let wanted = |k: &&Kind| {
        args.get("api-group").is_none_or(|g| k.group == g)
            && args.get("namespaced").is_none_or(|n| (n == "true") == k.namespaced)
            && wanted_verbs.iter().all(|v| k.verbs.iter().any(|have| have == v))
            && categories.iter().all(|c| k.categories.iter().any(|have| have == c))
            && !k.verbs.is_empty()
    };
    let mut kinds: Vec<&Kind> = session.discovered().await?.iter().filter(wanted).collect();
    match args.get("sort-by") {
        Some("kind") => kinds.sort_by(|a, b| a.kind.cmp(&b.kind)),
        Some("name") => kinds.sort_by(|a, b| a.plural.cmp(&b.plural)),
        Some(other) => return plain(format!("--sort-by accepts only name or kind, not {other:?}")),
        None => kinds.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural))),
    }
    if args.get("output") == Some("name") {
        return emit(&kinds.iter().map(|k| format!("{}\n", k.qualified())).collect::<String>());
    }
    let wide = args.get("output") == Some("wide");
    let mut rows: Vec<Vec<String>> = Vec::new();
    let head = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"];
    if !args.on("no-headers") {
        rows.push(head[..if wide { 7 } else { 5 }].iter().map(|h| (*h).to_owned()).collect());
    }
    rows.extend(kinds.iter().map(|k| {
        let mut row =
            vec![k.plural.clone(), k.short.join(","), k.api_version(), k.namespaced.to_string(), k.kind.clone()];
        if wide {
            row.extend([k.verbs.join(","), k.categories.join(",")]);
        }
        row
    }));
    emit(&Columns::default().render(&rows))
}

pub(super) async fn api_versions(session: &Session) -> Result<()> {
    let core = session.json(&Call::get("/api")).await?;
    let mut all: Vec<String> = json::texts(&core, "versions").into_iter().map(str::to_owned).collect();
    let groups = session.json(&Call::get("/apis")).await?;
    for group in json::list(&groups, "groups") {
        all.extend(json::list(group, "versions").iter().map(|v| json::text(v, "groupVersion").to_owned()));
    }
    all.sort();
    emit(&all.iter().map(|v| format!("{v}\n")).collect::<String>())
}

pub(super) async fn cluster_info(session: &Session, args: &Args) -> Result<()> {
    if args.words.first().is_some_and(|w| w == "dump") {
        return plain("`cluster-info dump` is not supported: use `get all -A -o yaml`");
    }
    let base = format!("https://{}", session.server());
    let mut text = format!("Kubernetes control plane is running at {base}\n");
    let services = super::kinds::known("", "services")?;
    let labelled = session.list(&services, "kube-system", Some("kubernetes.io/cluster-service=true")).await?;
    for service in labelled {
        let name = json::text(&service, "metadata.name");
        let title = match json::map(&service, "metadata.labels").and_then(|l| l.get("kubernetes.io/name")) {
            Some(Value::String(title)) => title.clone(),
            _ => name.to_owned(),
        };
        let port = match json::list(&service, "spec.ports").first().map(|p| json::text(p, "name")) {
            Some(port) if !port.is_empty() => format!("{name}:{port}"),
            _ => name.to_owned(),
        };
        text.push_str(&format!("{title} is running at {base}/api/v1/namespaces/kube-system/services/{port}/proxy\n"));
    }
    text.push_str("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.\n");
    emit(&text)
}

/// The Kubernetes release that this kubectl behaves like.
const RELEASE: &str = "v1.36.0";

pub(super) fn client_version(args: &Args) -> Result<Value> {
    let (major, minor) = ("1", "36");
    let version = json!({"clientVersion": {
        "major": major, "minor": minor, "gitVersion": format!("{RELEASE}+skiff"), "platform": platform(),
    }, "kustomizeVersion": "v0.0.0"});
    match args.get("output") {
        None | Some("json" | "yaml") => Ok(version),
        Some(_) => plain("--output must be 'yaml' or 'json'"),
    }
}

fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

pub(super) async fn version(session: Option<&Session>, args: &Args) -> Result<()> {
    let mut version = client_version(args)?;
    if let Some(map) = version.as_object_mut() {
        map.shift_remove("kustomizeVersion");
    }
    if let Some(session) = session {
        version["serverVersion"] = session.json(&Call::get("/version")).await?;
    }
    match args.get("output") {
        Some("json") => return emit(&(pretty(&version).replace("    ", "  ") + "\n")),
        Some("yaml") => return emit(&yaml::render(&version)),
        _ => {}
    }
    let mut text = format!("Client Version: {}\n", json::text(&version, "clientVersion.gitVersion"));
    if version.get("serverVersion").is_some() {
        text.push_str(&format!("Server Version: {}\n", json::text(&version, "serverVersion.gitVersion")));
    }
    emit(&text)
}

/// `config view`, `config get-contexts`, `config current-context`, `config use-context`.
pub(super) fn config(args: &Args, as_skiff: bool, what: &str) -> Result<()> {
    let file = kubeconfig(args, as_skiff)?;
    let file = serde_json::to_value(&file).map_err(|e| Error::Plain(format!("cannot show the kubeconfig: {e}")))?;
    let current = json::text(&file, "current-context");
    match what {
        "view" => view(args, file),
        "current-context" if current.is_empty() => plain("current-context is not set"),
        "current-context" => emit(&format!("{current}\n")),
        "get-contexts" => contexts(args, &file, current),
        _ => use_context(args, &file),
    }
}

fn view(args: &Args, mut file: Value) -> Result<()> {
    const HIDDEN: &[(&str, &str, &[&str])] = &[
        ("clusters", "cluster", &["certificate-authority-data"]),
        ("users", "user", &["client-certificate-data", "client-key-data", "token", "password"]),
    ];
    if args.on("minify") {
        minify(&mut file);
    }
    for (list, inner, secrets) in HIDDEN.iter().filter(|_| !args.on("raw")) {
        for entry in file.get_mut(*list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(map) = entry.get_mut(*inner).and_then(Value::as_object_mut) else { continue };
            for secret in *secrets {
                if map.get(*secret).is_some_and(|v| !v.is_null()) {
                    let word = if *secret == "token" || *secret == "password" { "REDACTED" } else { "DATA+OMITTED" };
                    map.insert((*secret).to_owned(), json!(word));
                }
            }
        }
    }
    json::drop_nulls(&mut file);
    json::fill(&mut file, "kind", "Config");
    json::fill(&mut file, "apiVersion", "v1");
    json::fill(&mut file, "preferences", json!({}));
    match Format::of(args)? {
        Format::Human { .. } | Format::Yaml => emit(&yaml::render(&file)),
        Format::Json => emit(&(pretty(&file) + "\n")),
        format => super::output::print(&format, args, &file, |_| String::new()),
    }
}

fn minify(file: &mut Value) {
    let current = json::text(file, "current-context").to_owned();
    let context =
        json::list(file, "contexts").iter().find(|c| json::text(c, "name") == current).cloned().unwrap_or_default();
    let keep = [
        ("contexts", current),
        ("clusters", json::text(&context, "context.cluster").to_owned()),
        ("users", json::text(&context, "context.user").to_owned()),
    ];
    for (list, name) in keep {
        if let Some(Value::Array(all)) = file.get_mut(list) {
            all.retain(|e| json::text(e, "name") == name);
        }
    }
}

fn contexts(args: &Args, file: &Value, current: &str) -> Result<()> {
    let mut all: Vec<&Value> = json::list(file, "contexts").iter().collect();
    all.sort_by_key(|c| json::text(c, "name"));
    if let Some(missing) = args.words.iter().find(|w| !all.iter().any(|c| json::text(c, "name") == w.as_str())) {
        return plain(format!("context {missing} not found"));
    }
    all.retain(|c| args.words.is_empty() || args.words.iter().any(|w| w == json::text(c, "name")));
    if args.get("output") == Some("name") {
        return emit(&all.iter().map(|c| format!("{}\n", json::text(c, "name"))).collect::<String>());
    }
    let row = |cells: [&str; 5]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<String>>();
    let mut rows = Vec::new();
    if !args.on("no-headers") {
        rows.push(row(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"]));
    }
    for context in all {
        let text = |path: &str| json::text(context, path);
        let mark = if text("name") == current { "*" } else { "" };
        rows.push(row([mark, text("name"), text("context.cluster"), text("context.user"), text("context.namespace")]));
    }
    emit(&Columns::default().render(&rows))
}

fn use_context(args: &Args, file: &Value) -> Result<()> {
    let [name] = args.words.as_slice() else { return plain("exactly one context name is required") };
    if !json::list(file, "contexts").iter().any(|c| json::text(c, "name") == name) {
        return plain(format!("no context exists with the name: {name:?}"));
    }
    let named = args.get("kubeconfig").map(str::to_owned).or_else(|| std::env::var("KUBECONFIG").ok());
    let home = || std::env::var("HOME").map(|h| format!("{h}/.kube/config")).ok();
    let Some(path) = named.or_else(home) else { return plain("no kubeconfig to change: set KUBECONFIG") };
    let path = path.split(':').next().unwrap_or_default().to_owned();
    let bad = |e: &dyn std::fmt::Display| Error::Plain(format!("{path}: {e}"));
    let text = std::fs::read_to_string(&path).map_err(|e| bad(&e))?;
    let mut whole: Value = serde_yaml_ng::from_str(&text).map_err(|e| bad(&e))?;
    json::set(&mut whole, "current-context", name.clone());
    std::fs::write(&path, yaml::render(&whole)).map_err(|e| bad(&e))?;
    emit(&format!("Switched to context {name:?}.\n"))
}
