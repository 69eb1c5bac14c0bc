//! One change of one object, decoded and encoded at most once for all watchers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;
use skiff_api::protobuf;
use skiff_api::resources::Resource;
use skiff_store::{Entry, Event, Rev};

use crate::object::{self, Object};

#[derive(Debug)]
pub(crate) struct Change {
    resource: &'static Resource,
    pub rev: Rev,
    pub key: Arc<str>,
    now: Option<Entry>,
    before: Option<Entry>,
    now_value: OnceLock<Option<Value>>,
    before_value: OnceLock<Option<Value>>,
    now_json: OnceLock<Bytes>,
    now_protobuf: OnceLock<Bytes>,
}

/// What a watcher sees of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

impl Change {
    /// None for what is no change of an object.
    pub(crate) fn of(resource: &'static Resource, event: Event) -> Result<Change, Rev> {
        let (rev, key, now, before) = match event {
            Event::Put { entry, prev } => (entry.modified, entry.key.clone(), Some(entry), prev),
            Event::Delete { rev, prev } => (rev, prev.key.clone(), None, Some(prev)),
            Event::Progress(rev) => return Err(rev),
        };
        let (now_value, before_value, now_json, now_protobuf) = Default::default();
        Ok(Change { resource, rev, key, now, before, now_value, before_value, now_json, now_protobuf })
    }

    /// The same change as it came, without what has been made of it.
    pub(crate) fn bare(&self) -> Change {
        let (now_value, before_value, now_json, now_protobuf) = Default::default();
        let (now, before) = (self.now.clone(), self.before.clone());
        let (resource, rev, key) = (self.resource, self.rev, self.key.clone());
        Change { resource, rev, key, now, before, now_value, before_value, now_json, now_protobuf }
    }

    /// Bytes of the objects that it holds, as stored.
    pub(crate) fn size(&self) -> usize {
        let both = self.now.iter().chain(&self.before);
        both.map(|entry| entry.value.len()).sum()
    }

    /// The object as it is after the change; None when it was deleted.
    pub(crate) fn now(&self) -> Option<&Value> {
        self.now_value.get_or_init(|| decode(self.resource, self.now.as_ref())).as_ref()
    }

    /// The object as it was before; its resourceVersion is that of the change.
    pub(crate) fn before(&self) -> Option<&Value> {
        let decoded = || {
            let mut value = decode(self.resource, self.before.as_ref())?;
            object::set_resource_version(&mut value, self.rev);
            Some(value)
        };
        self.before_value.get_or_init(decoded).as_ref()
    }

    /// [`Change::now`] as JSON.
    pub(crate) fn now_json(&self) -> Bytes {
        self.now_json.get_or_init(|| serde_json::to_vec(&self.now()).unwrap_or_default().into()).clone()
    }

    /// [`Change::now`] as a protobuf body.
    pub(crate) fn now_protobuf(&self) -> Bytes {
        let encoded = || self.now().and_then(protobuf::encode).unwrap_or_default().into();
        self.now_protobuf.get_or_init(encoded).clone()
    }

    /// What the change is to somebody who sees only what `matches`: an object that enters the selection is new to them,
    /// one that leaves it is gone.
    pub(crate) fn seen_by(&self, matches: impl Fn(&Value) -> bool) -> Option<(Kind, &Value)> {
        let now = self.now().filter(|v| matches(v));
        // Only what can change the answer is decoded: without a selection the old object is not.
        let before = || self.before().filter(|v| matches(v));
        match now {
            Some(value) if self.before.is_none() => Some((Kind::Added, value)),
            Some(value) => Some((if before().is_some() { Kind::Modified } else { Kind::Added }, value)),
            None => before().map(|value| (Kind::Deleted, value)),
        }
    }
}

/// An object that cannot be read is passed over; reading it by name says what is wrong with it.
fn decode(resource: &Resource, entry: Option<&Entry>) -> Option<Value> {
    let object = Object::decode(resource, entry?);
    object.inspect_err(|e| tracing::error!("{e}")).ok().map(|o| o.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn maps() -> &'static Resource {
        skiff_api::resources::find("", "v1", "configmaps").unwrap()
    }

    fn entry(rev: Rev, app: &str) -> Entry {
        let value = object::encode(maps(), &json!({"metadata": {"name": "a", "labels": {"app": app}}}));
        Entry { key: "/k/a".into(), value, created: 1, modified: rev }
    }

    fn seen(event: Event) -> Option<(Kind, String)> {
        let change = Change::of(maps(), event).unwrap();
        let seen = change.seen_by(|v| v["metadata"]["labels"]["app"] == "x");
        seen.map(|(kind, v)| (kind, object::resource_version(v).to_string()))
    }

    #[test]
    fn selections_turn_changes_into_arrivals_and_departures() {
        let put =
            |before: Option<&str>, now: &str| Event::Put { entry: entry(5, now), prev: before.map(|b| entry(3, b)) };
        assert_eq!(seen(put(None, "x")), Some((Kind::Added, "5".into())));
        assert_eq!(seen(put(Some("x"), "x")), Some((Kind::Modified, "5".into())));
        assert_eq!(seen(put(Some("y"), "x")), Some((Kind::Added, "5".into())));
        assert_eq!(seen(put(Some("x"), "y")), Some((Kind::Deleted, "5".into())));
        assert_eq!(seen(put(Some("y"), "y")), None);
        assert_eq!(seen(Event::Delete { rev: 9, prev: entry(5, "x") }), Some((Kind::Deleted, "9".into())));
        assert_eq!(seen(Event::Delete { rev: 9, prev: entry(5, "y") }), None);
    }
}
