//! The connection to the API server: which cluster, which namespace, and requests as paths and JSON.

use std::time::Duration;

use futures::AsyncBufReadExt;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use super::{
    error::{Error, Result, plain, transport},
    flags::Args,
    kinds::{Kind, Kinds},
    text::note,
};
use crate::cluster::paths::Paths;

pub(super) const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(super) const APPLY: &str = "application/apply-patch+yaml";

/// The most that is read of one answer.
const MAX_ANSWER: usize = 512 << 20;

pub(super) struct Session {
    pub(super) client: Client,
    server: String,
    pub(super) namespace: String,
    /// Whether the namespace was asked for by flag.
    pub(super) namespace_given: bool,
    pub(super) kinds: Kinds,
}

/// What is asked for: a path with query parameters, a body and its type.
#[derive(Clone, Debug)]
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    accept: &'static str,
    body: Option<(&'static str, Vec<u8>)>,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Call {
        Call { method, path: path.into(), query: Vec::new(), accept: JSON, body: None }
    }

    pub(super) fn get(path: impl Into<String>) -> Call {
        Call::new(Method::GET, path)
    }

    pub(super) fn query(mut self, name: &str, value: impl Into<String>) -> Call {
        self.query.push((name.into(), value.into()));
        self
    }

    /// A parameter that is sent only when it says something.
    pub(super) fn maybe(self, name: &str, value: Option<&str>) -> Call {
        match value.filter(|v| !v.is_empty()) {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    pub(super) fn accept(mut self, accept: &'static str) -> Call {
        self.accept = accept;
        self
    }

    pub(super) fn body(mut self, kind: &'static str, body: &Value) -> Call {
        self.body = Some((kind, body.to_string().into_bytes()));
        self
    }

    fn request(&self) -> Result<Request<Vec<u8>>> {
        let mut uri = self.path.clone();
        for (at, (name, value)) in self.query.iter().enumerate() {
            uri.push(if at == 0 { '?' } else { '&' });
            uri.push_str(&format!("{}={}", encode(name), encode(value)));
        }
        let mut request = Request::builder().method(self.method.clone()).uri(uri).header("Accept", self.accept);
        if let Some((kind, _)) = &self.body {
            request = request.header("Content-Type", *kind);
        }
        let body = self.body.as_ref().map(|(_, b)| b.clone()).unwrap_or_default();
        request.body(body).map_err(|e| Error::Plain(format!("cannot make a request for {:?}: {e}", self.path)))
    }
}

/// Percent-encoding for a path segment or a query value.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(byte.into()),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The kubeconfig that applies: by flag, environment, the running skiff cluster, the home directory.
pub(super) fn kubeconfig(args: &Args, as_skiff: bool) -> Result<Kubeconfig> {
    let bad = |e: kube::config::KubeconfigError| Error::Plain(e.to_string());
    if let Some(file) = args.get("kubeconfig") {
        if !std::path::Path::new(file).exists() {
            return plain(format!("stat {file}: no such file or directory"));
        }
        return Kubeconfig::read_from(file).map_err(bad);
    }
    if let Some(merged) = Kubeconfig::from_env().map_err(bad)? {
        return Ok(merged);
    }
    let home = std::env::var_os("HOME").map(|h| std::path::Path::new(&h).join(".kube/config"));
    let home = home.filter(|file| file.exists());
    match (as_skiff, skiff_cluster()) {
        (true, Some(file)) => Kubeconfig::read_from(file).map_err(bad),
        (_, other) => match (home, other) {
            (Some(home), _) => Kubeconfig::read_from(home).map_err(bad),
            (None, Some(file)) => Kubeconfig::read_from(file).map_err(bad),
            (None, None) => Ok(Kubeconfig::default()),
        },
    }
}

/// The kubeconfig of cluster `$SKIFF_CLUSTER`, of `skiff`, or of the only cluster that there is.
fn skiff_cluster() -> Option<std::path::PathBuf> {
    let of = |name: &str| Some(Paths::of(name).kubeconfig()).filter(|file| file.exists());
    if let Ok(name) = std::env::var("SKIFF_CLUSTER") {
        return of(&name);
    }
    of("skiff").or_else(|| {
        let mut known = Paths::clusters().into_iter().filter_map(|name| of(&name));
        known.next().filter(|_| known.next().is_none())
    })
}

impl Session {
    pub(super) async fn open(args: &Args, as_skiff: bool) -> Result<Session> {
        let mut file = kubeconfig(args, as_skiff)?;
        if file.clusters.is_empty() && args.get("server").is_none() {
            return Err(no_cluster(as_skiff));
        }
        overrides(&mut file, args);
        let options = KubeConfigOptions {
            context: args.get("context").map(str::to_owned),
            cluster: args.get("cluster").map(str::to_owned),
            user: args.get("user").map(str::to_owned),
        };
        if let Some(context) = args.get("context").filter(|c| !file.contexts.iter().any(|k| k.name == **c)) {
            return plain(format!("context {context:?} does not exist"));
        }
        let mut config =
            Config::from_custom_kubeconfig(file, &options).await.map_err(|e| Error::Plain(e.to_string()))?;
        if let Some(server) = args.get("server") {
            config.cluster_url = server.parse().map_err(|e| Error::Plain(format!("--server {server:?}: {e}")))?;
        }
        config.accept_invalid_certs |= args.on("insecure-skip-tls-verify");
        config.connect_timeout = Some(Duration::from_secs(30));
        config.read_timeout = timeout(args)?;
        config.write_timeout = None;
        config.default_retry = false;
        let namespace = args.get("namespace").map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let server = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
        let client = Client::try_from(config).map_err(|e| Error::Plain(e.to_string()))?;
        Ok(Session { client, server, namespace, namespace_given: args.has("namespace"), kinds: Kinds::default() })
    }

    /// The answer to a request, once it is known to be a good one.
    pub(super) async fn send(&self, call: &Call) -> Result<Response<Body>> {
        let (parts, body) = call.request()?.into_parts();
        let request = Request::from_parts(parts, Body::from(body));
        let response = self.client.send(request).await.map_err(|e| transport(&e, &self.server))?;
        for warning in response.headers().get_all("warning") {
            if let Some(text) = warning.to_str().ok().and_then(warning_text) {
                note(&format!("Warning: {text}\n"));
            }
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        Err(Error::Server(status(code, &self.bytes(response).await?)))
    }

    async fn bytes(&self, response: Response<Body>) -> Result<Vec<u8>> {
        let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let all = limited.collect().await.map_err(|e| Error::Plain(format!("cannot read the server's answer: {e}")))?;
        Ok(all.to_bytes().to_vec())
    }

    pub(super) async fn json(&self, call: &Call) -> Result<Value> {
        let response = self.send(call).await?;
        let bytes = self.bytes(response).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Plain(format!("the server's answer is no JSON: {e}")))
    }

    pub(super) async fn text(&self, call: &Call) -> Result<String> {
        let response = self.send(call).await?;
        Ok(String::from_utf8_lossy(&self.bytes(response).await?).into_owned())
    }

    /// The answer line by line, as it comes.
    pub(super) async fn lines(&self, call: &Call) -> Result<impl AsyncBufReadExt + Unpin + use<>> {
        let response = self.send(call).await?;
        let stream = futures::TryStreamExt::map_err(response.into_body().into_data_stream(), std::io::Error::other);
        Ok(futures::TryStreamExt::into_async_read(Box::pin(stream)))
    }

    /// A WebSocket below an object: exec, attach, port-forward.
    pub(super) async fn connect(&self, call: &Call) -> Result<kube::client::Connection> {
        self.client.connect(call.request()?).await.map_err(|e| transport(&e, &self.server))
    }

    pub(super) async fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value> {
        self.json(&Call::get(kind.path(namespace, name))).await
    }

    pub(super) async fn list(&self, kind: &Kind, namespace: &str, labels: Option<&str>) -> Result<Vec<Value>> {
        let call = Call::get(kind.path(namespace, "")).maybe("labelSelector", labels);
        let mut list = self.json(&call).await?;
        let items = list.get_mut("items").map(Value::take);
        let Some(Value::Array(mut items)) = items else { return Ok(Vec::new()) };
        for item in &mut items {
            kind.name_type(item);
        }
        Ok(items)
    }

    pub(super) async fn patch(&self, kind: &Kind, object: &Value, type_: &'static str, patch: &Value) -> Result<Value> {
        self.json(&Call::new(Method::PATCH, kind.path_of(object)).body(type_, patch)).await
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }
}

/// Flags that change what the file says.
fn overrides(file: &mut Kubeconfig, args: &Args) {
    for user in &mut file.auth_infos {
        let info = user.auth_info.get_or_insert_default();
        if let Some(name) = args.get("as") {
            info.impersonate = Some(name.to_owned());
        }
        let groups = args.all("as-group");
        if !groups.is_empty() {
            info.impersonate_groups = Some(groups.into_iter().map(str::to_owned).collect());
        }
        if let Some(token) = args.get("token") {
            let only: Option<kube::config::AuthInfo> = serde_json::from_value(json!({"token": token})).ok();
            info.token = only.and_then(|i| i.token);
        }
    }
}

fn no_cluster(as_skiff: bool) -> Error {
    let known = Paths::clusters();
    let hint = match known.as_slice() {
        [] => "`skiff up` starts one".to_owned(),
        names => format!("known clusters are {}: set SKIFF_CLUSTER to one of them", names.join(", ")),
    };
    match as_skiff {
        true => Error::Plain(format!("no cluster to speak to: {hint}, or set KUBECONFIG")),
        false => Error::Bare(format!(
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?\n\
             (no kubeconfig found: {hint}, or set KUBECONFIG)"
        )),
    }
}

fn timeout(args: &Args) -> Result<Option<Duration>> {
    match args.get("request-timeout") {
        None | Some("0" | "0s") => Ok(None),
        Some(text) => duration(text).map(Some),
    }
}

/// Longer waits are cut to this: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A Go duration (`1h30m`, `500ms`), or a number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration> {
    let bad = || Error::Plain(format!("time: invalid duration {text:?}"));
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds).min(LONGEST));
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(bad()),
            };
        rest = &rest[unit..];
    }
    match Duration::try_from_secs_f64(total) {
        Ok(duration) if !text.is_empty() => Ok(duration.min(LONGEST)),
        _ => Err(bad()),
    }
}

/// The text of a `Warning: 299 - "text"` header.
fn warning_text(header: &str) -> Option<String> {
    let quoted = &header[header.find('"')? + 1..];
    let mut text = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some(text),
            '\\' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    None
}

/// The Status of a refused request; one is made where the answer holds none.
fn status(code: u16, body: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice::<Value>(body)
        && value.get("kind").and_then(Value::as_str) == Some("Status")
    {
        return value;
    }
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        413 => "RequestEntityTooLarge",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        500.. => "InternalError",
        _ => "",
    };
    let text = String::from_utf8_lossy(body);
    let message = match (code, text.trim()) {
        (404, _) => "the server could not find the requested resource".to_owned(),
        (_, "") => format!("the server answered with HTTP status {code}"),
        (_, text) => text.to_owned(),
    };
    json!({"kind": "Status", "code": code, "reason": reason, "message": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("5", 5000), ("1h30m", 5_400_000), ("1.5s", 1500), ("500ms", 500)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "x", "5x", "-1s", "1e99h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn warnings() {
        assert_eq!(warning_text(r#"299 - "a \"b\"""#).as_deref(), Some("a \"b\""));
        assert_eq!(warning_text("299 - broken"), None);
    }
}
