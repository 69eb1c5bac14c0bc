//! The audit log: who asked for what, from where, and what came of it, one audit.k8s.io/v1 Event a line, at level Metadata
//! (no bodies, so no secrets). Every request but those for health is written before its answer is sent; a full queue makes
//! requests wait, so nothing is left out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::identity::Identity;
use tokio::sync::mpsc;

use crate::authn::impersonation;
use crate::query::Query;
use crate::route::{self, Route, Target, Verb};

/// Lines that wait to be written.
const QUEUE: usize = 1024;
const HEADER: &str = "audit-id";
/// Longer ones are not taken from clients.
const LONGEST_ID: usize = 64;
const LONGEST_AGENT: usize = 1024;

/// Where a request came from, put into its extensions by the listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(pub SocketAddr);

/// The way to the file; clones write to the same one.
#[derive(Clone, Debug)]
pub struct Log(mpsc::Sender<Vec<u8>>);

impl Log {
    /// Appends to `path` (made with mode 0600); a file of `most` bytes is kept as `path.1` and begun anew.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, most: u64) -> io::Result<Log> {
        let mut lines = Lines { file: append(path)?, path: path.to_owned(), most };
        let (log, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            while let Some(line) = queue.blocking_recv() {
                if let Err(e) = lines.write(&line) {
                    tracing::error!("the audit log {}: {e}", lines.path.display());
                }
            }
        })?;
        Ok(Log(log))
    }

    async fn write(&self, event: &Value) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        if self.0.send(line).await.is_err() {
            tracing::error!("the audit log has ended");
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

struct Lines {
    file: File,
    path: PathBuf,
    most: u64,
}

impl Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.file.metadata()?.len() + line.len() as u64 > self.most {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            self.file = append(&self.path)?;
        }
        self.file.write_all(line)
    }
}

/// A request as it came.
pub(crate) struct Record {
    log: Log,
    id: String,
    event: Value,
}

impl Record {
    /// None where there is no log, and for health checks.
    pub(crate) fn begin(log: Option<&Log>, parts: &Parts) -> Option<Record> {
        let path = parts.uri.path();
        let health = ["/healthz", "/livez", "/readyz"].iter().any(|of| path.starts_with(of));
        let log = log.filter(|_| !health)?.clone();
        let id = id(&parts.headers);
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": id,
            "stage": "ResponseComplete", "requestURI": parts.uri.to_string(), "verb": verb(parts),
            "user": parts.extensions.get::<Identity>().map_or(json!({}), user),
            "requestReceivedTimestamp": now(),
        });
        if let Ok(Some((other, _))) = impersonation::requested(&parts.headers) {
            event["impersonatedUser"] = user(&other);
        }
        if let Some(Source(address)) = parts.extensions.get::<Source>() {
            event["sourceIPs"] = json!([address.ip().to_canonical()]);
        }
        if let Some(agent) = parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()) {
            event["userAgent"] = agent.chars().take(LONGEST_AGENT).collect::<String>().into();
        }
        if let Route::Resource(target) = route::parse(path) {
            event["objectRef"] = reference(&target);
        }
        Some(Record { log, id, event })
    }

    /// Written before the answer is sent; of watches and connections, when they have begun.
    pub(crate) async fn end<B>(mut self, response: &mut Response<B>) {
        let code = response.status();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code.as_u16()});
        if code == StatusCode::FORBIDDEN {
            self.event["annotations"] = json!({"authorization.k8s.io/decision": "forbid"});
        } else if code != StatusCode::UNAUTHORIZED {
            self.event["annotations"] = json!({"authorization.k8s.io/decision": "allow"});
        }
        self.event["stageTimestamp"] = now().into();
        if let Ok(id) = self.id.parse() {
            response.headers_mut().insert(HEADER, id);
        }
        self.log.write(&self.event).await;
    }
}

/// The client's own, or a new one.
fn id(headers: &HeaderMap) -> String {
    let given = headers.get(HEADER).and_then(|v| v.to_str().ok()).filter(|id| !id.is_empty() && id.len() <= LONGEST_ID);
    given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// To the microsecond, as the reference's MicroTime.
fn now() -> String {
    format!("{:.6}", Timestamp::now())
}

fn verb(parts: &Parts) -> String {
    let method = || parts.method.as_str().to_ascii_lowercase();
    let Route::Resource(target) = route::parse(parts.uri.path()) else { return method() };
    let watch = Query::parse(parts.uri.query().unwrap_or_default()).flag("watch");
    Verb::of(&parts.method, &target, watch).map_or_else(method, |verb| verb.as_str().to_owned())
}

fn user(identity: &Identity) -> Value {
    let mut user = json!({"username": identity.name, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.clone().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    user
}

fn reference(target: &Target) -> Value {
    let resource = target.resource;
    let mut reference = json!({"resource": resource.plural, "apiVersion": resource.version});
    let more = [
        ("apiGroup", Some(resource.group).filter(|group| !group.is_empty())),
        ("namespace", target.namespace.as_deref()),
        ("name", target.name.as_deref()),
        ("subresource", target.subresource.as_deref()),
    ];
    for (key, value) in more {
        if let Some(value) = value {
            reference[key] = value.into();
        }
    }
    reference
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        parts.extensions.insert(Identity::component("jane"));
        parts.extensions.insert(Source("192.0.2.7:999".parse().unwrap()));
        parts
    }

    #[tokio::test]
    async fn a_request_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = Log::open(&path, 1 << 20).unwrap();
        assert!(Record::begin(Some(&log), &parts("/readyz?verbose", &[])).is_none(), "health is not written");
        assert!(Record::begin(None, &parts("/api/v1/pods", &[])).is_none());
        let uri = "/apis/apps/v1/namespaces/shop/deployments/web/scale?dryRun=All";
        let headers = [("user-agent", "kubectl/v1"), ("audit-id", "mine"), ("impersonate-user", "bob")];
        let record = Record::begin(Some(&log), &parts(uri, &headers)).unwrap();
        let mut response = Response::builder().status(403).body(()).unwrap();
        record.end(&mut response).await;
        assert_eq!(response.headers()["audit-id"], "mine");
        drop(log);
        let mut event: Value = loop {
            match std::fs::read_to_string(&path).unwrap() {
                text if text.ends_with('\n') => break serde_json::from_str(&text).unwrap(),
                _ => tokio::task::yield_now().await,
            }
        };
        for stamp in ["requestReceivedTimestamp", "stageTimestamp"] {
            assert!(event[stamp].take().as_str().unwrap().ends_with('Z'));
        }
        let expected = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "mine",
            "stage": "ResponseComplete", "requestURI": uri, "verb": "get",
            "user": {"username": "jane", "groups": ["system:authenticated"]},
            "impersonatedUser": {"username": "bob", "groups": ["system:authenticated"]},
            "sourceIPs": ["192.0.2.7"], "userAgent": "kubectl/v1",
            "objectRef": {"resource": "deployments", "apiGroup": "apps", "apiVersion": "v1", "namespace": "shop",
                "name": "web", "subresource": "scale"},
            "responseStatus": {"metadata": {}, "code": 403},
            "annotations": {"authorization.k8s.io/decision": "forbid"},
            "requestReceivedTimestamp": null, "stageTimestamp": null,
        });
        assert_eq!(event, expected);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_full_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut lines = Lines { file: append(&path).unwrap(), path: path.clone(), most: 10 };
        for line in ["one..\n", "two..\n", "three\n"] {
            lines.write(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("audit.log.1")).unwrap(), "two..\n");
    }
}
