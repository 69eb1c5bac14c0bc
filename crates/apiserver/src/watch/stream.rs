//! One watcher: the lines that it is sent.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_api::protobuf;
use skiff_api::resources::Resource;
use skiff_api::status::Status;
use skiff_store::Rev;
use tokio::time::{Duration, Instant, timeout_at};

use super::change::{Change, Kind};
use super::hub::{End, Feed, Notice};
use crate::Result;
use crate::call::Call;
use crate::encode::{Accept, Format, Shape, View};
use crate::object::{self, Object};
use crate::selection::Selection;

/// Bookmarks come at most this often.
const BOOKMARKS: Duration = Duration::from_secs(5);

/// What a watch begins with.
pub(super) struct Start {
    pub feed: Result<Feed>,
    /// Sent as ADDED first.
    pub objects: VecDeque<Object>,
    /// What is older than this was seen already.
    pub rev: Rev,
    pub end_bookmark: bool,
}

pub(super) struct Watcher {
    resource: &'static Resource,
    /// Keys outside it belong to other namespaces.
    prefix: String,
    accept: Accept,
    include: Option<String>,
    selection: Selection,
    start: Start,
    bookmarks: bool,
    last_bookmark: Instant,
    deadline: Instant,
    /// A table's columns are sent once.
    columns_sent: bool,
    ended: bool,
}

impl Watcher {
    pub(super) fn new(call: &Call, selection: Selection, start: Start, deadline: Instant) -> Self {
        Watcher {
            resource: call.resource(),
            prefix: object::prefix(call.resource(), call.namespace()),
            accept: call.accept,
            include: call.query.get("includeObject").map(str::to_string),
            selection,
            start,
            bookmarks: call.query.flag("allowWatchBookmarks"),
            last_bookmark: Instant::now(),
            deadline,
            columns_sent: false,
            ended: false,
        }
    }

    /// What the stream is made of.
    pub(super) fn media_type(&self) -> &'static str {
        match self.accept.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        }
    }

    /// The next line; None when the watch is over.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(line) = self.initial() {
            return Some(line);
        }
        loop {
            let feed = match &mut self.start.feed {
                Ok(feed) => feed,
                Err(status) => {
                    let status = status.clone();
                    return Some(self.fail(&status));
                }
            };
            match timeout_at(self.deadline, feed.next()).await {
                Err(_) | Ok(Err(End::Closed)) => return None,
                Ok(Err(End::Failed(status))) => return Some(self.fail(&status)),
                Ok(Ok(notice)) => {
                    if let Some(line) = self.line(&notice) {
                        return Some(line);
                    }
                }
            }
        }
    }

    /// The objects at the start and the bookmark that ends them.
    fn initial(&mut self) -> Option<Bytes> {
        while let Some(object) = self.start.objects.pop_front() {
            if self.selection.matches(&object.value) {
                return Some(self.frame(Kind::Added.as_str(), object.value));
            }
        }
        std::mem::take(&mut self.start.end_bookmark).then(|| {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            self.bookmark(self.start.rev, Some(annotations))
        })
    }

    fn line(&mut self, notice: &Notice) -> Option<Bytes> {
        match notice {
            Notice::Change(change) if change.rev > self.start.rev && change.key.starts_with(&self.prefix) => {
                self.start.rev = change.rev;
                self.change(change)
            }
            Notice::Progress(rev)
                if *rev > self.start.rev && self.bookmarks && self.last_bookmark.elapsed() > BOOKMARKS =>
            {
                self.last_bookmark = Instant::now();
                self.start.rev = *rev;
                Some(self.bookmark(*rev, None))
            }
            _ => None,
        }
    }

    fn change(&mut self, change: &Change) -> Option<Bytes> {
        let (kind, value) = match self.selection.is_everything() {
            true => change.seen_by(|_| true)?,
            false => change.seen_by(|v| self.selection.matches(v))?,
        };
        match (self.accept.shape, self.accept.format, kind) {
            (Shape::Object, Format::Protobuf, Kind::Added | Kind::Modified) => {
                Some(protobuf::watch_frame(kind.as_str(), &change.now_protobuf()).into())
            }
            (Shape::Object, _, Kind::Added | Kind::Modified) => Some(wrap(kind.as_str(), &change.now_json())),
            _ => Some(self.frame(kind.as_str(), value.clone())),
        }
    }

    fn frame(&mut self, kind: &str, value: Value) -> Bytes {
        let now = jiff::Timestamp::now();
        let view = View { resource: self.resource, accept: self.accept, include: self.include.as_deref(), now };
        let mut shown = view.object(value);
        if self.accept.shape == Shape::Table && std::mem::replace(&mut self.columns_sent, true) {
            shown["columnDefinitions"] = Value::Null;
        }
        self.event(kind, &shown)
    }

    fn event(&self, kind: &str, object: &Value) -> Bytes {
        match self.accept.format {
            Format::Protobuf => protobuf::watch_frame(kind, &protobuf::encode(object).unwrap_or_default()).into(),
            _ => wrap(kind, &serde_json::to_vec(object).unwrap_or_default()),
        }
    }

    fn bookmark(&self, rev: Rev, annotations: Option<Value>) -> Bytes {
        let (kind, version) = match self.accept.shape {
            Shape::Object => (self.resource.kind, self.resource.api_version()),
            Shape::Table => ("Table", "meta.k8s.io/v1".into()),
            Shape::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".into()),
        };
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": rev.to_string()}});
        if let Some(annotations) = annotations {
            object["metadata"]["annotations"] = annotations;
        }
        self.event("BOOKMARK", &object)
    }

    fn fail(&mut self, status: &Status) -> Bytes {
        self.ended = true;
        self.event("ERROR", &status.to_value())
    }
}

/// One line of the stream around an object that is JSON already.
fn wrap(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 32);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}
