//! Events about pods: written behind the worker's back, in order, repeated ones counted instead of repeated.

use std::collections::VecDeque;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;
use tracing::debug;

/// Events waiting to be written; more are dropped, since an event is a remark and not a record.
const QUEUE: usize = 1024;
/// Events remembered for counting.
const REMEMBERED: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Warning,
}

#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Event>,
    node: String,
}

impl Recorder {
    /// The writer runs until the last recorder is gone.
    pub fn start(client: kube::Client, node: &str) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, events));
        Recorder { queue, node: node.into() }
    }

    pub fn pod(&self, pod: &Pod, container: Option<&str>, kind: Kind, reason: &str, message: impl Into<String>) {
        let meta = &pod.metadata;
        let init = pod
            .spec
            .as_ref()
            .is_some_and(|s| s.init_containers.iter().flatten().any(|c| Some(c.name.as_str()) == container));
        let list = if init { "initContainers" } else { "containers" };
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: container.map(|c| format!("spec.{list}{{{c}}}")),
        };
        self.send(object, kind, reason, message.into());
    }

    pub fn node(&self, kind: Kind, reason: &str, message: impl Into<String>) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..Default::default()
        };
        self.send(object, kind, reason, message.into());
    }

    fn send(&self, object: ObjectReference, kind: Kind, reason: &str, message: String) {
        let now = Time(Timestamp::now());
        let name = object.name.clone().unwrap_or_default();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let metadata = ObjectMeta {
            name: Some(format!("{name}.{}", &unique[..16])),
            namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".into())),
            ..Default::default()
        };
        let event = Event {
            metadata,
            involved_object: object,
            reason: Some(reason.into()),
            message: Some(message),
            type_: Some(if kind == Kind::Normal { "Normal" } else { "Warning" }.into()),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Default::default()
        };
        if self.queue.try_send(event).is_err() {
            debug!("an event of {name} was dropped: the API server does not keep up");
        }
    }
}

async fn write(client: kube::Client, mut events: mpsc::Receiver<Event>) {
    let mut seen: VecDeque<Event> = VecDeque::new();
    while let Some(event) = events.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let same = |old: &Event| {
            old.involved_object.uid == event.involved_object.uid
                && old.involved_object.field_path == event.involved_object.field_path
                && old.reason == event.reason
                && old.message == event.message
        };
        let written = match seen.iter().position(same).and_then(|i| seen.remove(i)) {
            Some(old) => repeat(&api, old, event).await,
            None => api.create(&PostParams::default(), &event).await,
        };
        match written {
            Ok(event) => {
                seen.push_back(event);
                if seen.len() > REMEMBERED {
                    seen.pop_front();
                }
            }
            Err(e) => debug!("an event could not be written: {e}"),
        }
    }
}

/// Counts one more; when the old event is gone (expired), the new one is created.
async fn repeat(api: &Api<Event>, old: Event, new: Event) -> kube::Result<Event> {
    let count = old.count.unwrap_or(1) + 1;
    let patch = serde_json::json!({"count": count, "lastTimestamp": new.last_timestamp});
    let name = old.metadata.name.clone().unwrap_or_default();
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => api.create(&PostParams::default(), &new).await,
        other => other,
    }
}
