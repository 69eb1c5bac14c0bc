//! Records Events about objects. Recording never waits and never fails the caller: what the bounded queue cannot hold
//! is dropped. Repetitions raise the count of the Event there is.

use std::collections::{HashMap, VecDeque};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::life::Stop;

const WAITING: usize = 512;
const REMEMBERED: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

#[derive(Clone, Debug, PartialEq)]
struct Note {
    about: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Hands Events of one component to the task that writes them.
#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<Note>);

impl Recorder {
    /// Starts the writing task on the current runtime.
    pub fn start(client: Client, component: &'static str, stop: Stop) -> Self {
        let (tx, rx) = mpsc::channel(WAITING);
        tokio::spawn(write_all(client, component, rx, stop));
        Recorder(tx)
    }

    pub fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &'static str, message: String) {
        self.record(about.object_ref(&()), Severity::Normal, reason, message);
    }

    pub fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &'static str, message: String) {
        self.record(about.object_ref(&()), Severity::Warning, reason, message);
    }

    pub fn record(&self, about: ObjectReference, severity: Severity, reason: &'static str, message: String) {
        if self.0.try_send(Note { about, severity, reason, message }).is_err() {
            tracing::debug!(reason, "event dropped: the queue is full");
        }
    }
}

async fn write_all(client: Client, component: &'static str, mut notes: mpsc::Receiver<Note>, stop: Stop) {
    let mut known = Known::default();
    loop {
        let note = tokio::select! {
            () = stop.cancelled() => return,
            note = notes.recv() => match note { Some(note) => note, None => return },
        };
        if let Err(error) = write(&client, component, &mut known, &note).await {
            tracing::debug!(component, reason = note.reason, %error, "event not recorded");
        }
    }
}

async fn write(client: &Client, component: &str, known: &mut Known, note: &Note) -> Result<(), kube::Error> {
    let namespace = note.about.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let now = Timestamp::now();
    if let Some((name, count)) = known.again(note) {
        let patch = json!({"count": count, "lastTimestamp": Time(now)});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => known.forget(note),
            other => return other.map(drop),
        }
    }
    let event = event(component, note, namespace, now);
    let name = event.metadata.name.clone().unwrap_or_default();
    api.create(&PostParams::default(), &event).await?;
    known.remember(note, name);
    Ok(())
}

fn event(component: &str, note: &Note, namespace: &str, now: Timestamp) -> Event {
    let about = note.about.name.as_deref().unwrap_or("");
    Event {
        metadata: ObjectMeta {
            // An object's name and the time in hexadecimal, as clients know Events.
            name: Some(format!("{about}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.into()),
            ..Default::default()
        },
        involved_object: note.about.clone(),
        reason: Some(note.reason.into()),
        message: Some(note.message.clone()),
        type_: Some(format!("{:?}", note.severity)),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        reporting_instance: Some(String::new()),
        ..Default::default()
    }
}

type Same = (Option<String>, Option<String>, &'static str, String);

/// The last Events by what they say, the oldest forgotten first.
#[derive(Default)]
struct Known {
    events: HashMap<Same, (String, i32)>,
    order: VecDeque<Same>,
}

fn same(note: &Note) -> Same {
    (note.about.uid.clone(), note.about.name.clone(), note.reason, note.message.clone())
}

impl Known {
    fn again(&mut self, note: &Note) -> Option<(String, i32)> {
        let (name, count) = self.events.get_mut(&same(note))?;
        *count += 1;
        Some((name.clone(), *count))
    }

    fn forget(&mut self, note: &Note) {
        let key = same(note);
        self.events.remove(&key);
        self.order.retain(|k| *k != key);
    }

    fn remember(&mut self, note: &Note, name: String) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
        if self.events.insert(same(note), (name, 1)).is_none() {
            self.order.push_back(same(note));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let about = ObjectReference { name: Some("web".into()), uid: Some("1".into()), ..Default::default() };
        Note { about, severity: Severity::Normal, reason: "Tested", message: message.into() }
    }

    #[test]
    fn repetitions_count_and_the_oldest_are_forgotten() {
        let mut known = Known::default();
        assert_eq!(known.again(&note("a")), None);
        known.remember(&note("a"), "web.1".into());
        assert_eq!(known.again(&note("a")), Some(("web.1".into(), 2)));
        assert_eq!(known.again(&note("a")), Some(("web.1".into(), 3)));
        (0..REMEMBERED).for_each(|i| known.remember(&note(&i.to_string()), "x".into()));
        assert_eq!(known.again(&note("a")), None);
        assert_eq!(known.events.len(), REMEMBERED);
        assert_eq!(known.order.len(), REMEMBERED);
    }

    #[test]
    fn an_event_says_who_what_and_when() {
        let event = event("tester", &note("hello"), "ns", Timestamp::from_second(1).unwrap());
        assert_eq!(event.metadata.name.as_deref(), Some("web.3b9aca00"));
        assert_eq!(event.type_.as_deref(), Some("Normal"));
        assert_eq!(event.source.unwrap().component.as_deref(), Some("tester"));
    }
}
