//! One task for one pod: it alone owns the pod's state. Work that takes time runs beside it and reports back.
//!
//! ```text
//!           object ─┐
//!  runtime's exits ─┼─► state ─► plan ─► tasks ─┐
//!   tasks' reports ─┘     └────► status ─► API  │
//!         ▲─────────────────────────────────────┘
//! ```

mod begin;
mod containers;
mod reports;
mod resume;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as ContainerApi, Pod, PodSpec, PodStatus};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tracing::{debug, warn};

use super::{
    context::{Context, View},
    events::Kind,
    plan,
    publish::{self, Wanted},
    record::Record,
    start,
    state::{Container, PodState, Pulled, Step, Stopping},
    status, tasks,
};
use crate::{network::Attachment, probes, runtime::Exit, volumes::tokens::Tokens};

/// What the API says of the pod.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Object(Arc<Pod>),
    /// The object is gone without our doing.
    Gone,
}

/// Reports of the tasks, and exits.
#[derive(Debug)]
pub(super) enum Event {
    Attached(Result<Option<Attachment>, String>),
    Mounted(Result<(), String>),
    Pulled {
        container: String,
        result: Result<Pulled, tasks::PullFailure>,
    },
    Started {
        container: String,
        id: String,
        result: Result<(), start::Error>,
    },
    HookFailed {
        container: String,
        id: String,
        message: String,
    },
    Exited {
        id: String,
        exit: Exit,
    },
    Probed {
        container: String,
        id: String,
        change: probes::Change,
    },
    /// A ConfigMap or Secret that the pod may wait for has come or changed.
    SourceSeen,
    TornDown(Result<(), String>),
}

struct Worker {
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    gone: bool,
    state: PodState,
    saved: PodState,
    tokens: Arc<Tokens>,
    reports: mpsc::UnboundedSender<Event>,
    tasks: JoinSet<()>,
    stops: HashMap<String, AbortHandle>,
    probes: HashMap<String, Vec<AbortHandle>>,
    refresh: Option<AbortHandle>,
    /// Watches for ConfigMaps and Secrets that were missing.
    awaited: Option<AbortHandle>,
    /// The grace that running stops were given.
    grace: i64,
    wanted: watch::Sender<Wanted>,
    finished: bool,
}

const RETRY: SignedDuration = SignedDuration::from_secs(2);

/// Runs a pod until nothing of it is left on this node. `state` is where a former agent stopped.
pub(super) async fn run(
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    state: PodState,
    mut seen: watch::Receiver<Seen>,
    mut exits: mpsc::UnboundedReceiver<Event>,
) {
    let (reports, mut events) = mpsc::unbounded_channel();
    let (wanted, wanted_rx) = watch::channel(Wanted::default());
    let publisher = tokio::spawn(publish::run(ctx.client.clone(), Pod::clone(&pod), wanted_rx));
    let mut worker = Worker {
        ctx,
        pod,
        gone: false,
        saved: PodState::default(),
        state,
        tokens: Arc::default(),
        reports,
        tasks: JoinSet::new(),
        stops: HashMap::new(),
        probes: HashMap::new(),
        refresh: None,
        awaited: None,
        grace: i64::MAX,
        wanted,
        finished: false,
    };
    worker.resume();
    loop {
        let wake = worker.step();
        if worker.finished {
            break;
        }
        let sleep = wake.map(until);
        tokio::select! {
            changed = seen.changed() => match changed {
                Ok(()) => { let now = seen.borrow_and_update().clone(); worker.see(now) }
                // The agent stops: pods are left running.
                Err(_) => { publisher.abort(); return }
            },
            Some(event) = events.recv() => worker.handle(event),
            Some(event) = exits.recv() => worker.handle(event),
            () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
            // Only to forget tasks that are done.
            Some(_) = worker.tasks.join_next() => {}
        }
    }
    worker.leave();
    drop(worker);
    // Writes the last status and deletes the object, then ends by itself.
    if let Err(e) = publisher.await {
        debug!("a status writer ended early: {e}");
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default() + Duration::from_millis(1)
}

impl Worker {
    fn spec(&self) -> PodSpec {
        self.pod.spec.clone().unwrap_or_default()
    }

    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    fn container_api(&self, name: &str) -> Option<ContainerApi> {
        plan::find_container(self.pod.spec.as_ref()?, name).cloned()
    }

    fn container(&mut self, name: &str) -> &mut Container {
        self.state.containers.entry(name.to_string()).or_default()
    }

    /// Plans and begins what is due; publishes; the time to look again.
    fn step(&mut self) -> Option<Timestamp> {
        let mut wake = None;
        // Each round begins something or ends the loop; the bound is for the reader.
        for _ in 0..64 {
            let plan = plan::plan(&self.pod, &self.state, Timestamp::now());
            wake = plan.wake;
            if plan.actions.is_empty() {
                break;
            }
            plan.actions.into_iter().for_each(|a| self.begin(a));
            if self.finished {
                break;
            }
        }
        self.publish();
        self.save();
        wake
    }

    fn deleting(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Gone => {
                self.gone = true;
                self.state.stopping = Some(Stopping { since: Timestamp::now(), grace: 1 });
                let mut pod = Pod::clone(&self.pod);
                pod.metadata.deletion_grace_period_seconds = Some(1);
                self.pod = Arc::new(pod);
                self.hurry();
            }
            Seen::Object(pod) => {
                let labels = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
                let relabelled = labels(&pod) != labels(&self.pod);
                self.pod = Arc::new(keep_own_status(&pod, &self.pod));
                self.hurry();
                if relabelled && self.state.volumes.done().is_some() && !self.deleting() {
                    self.state.volumes = Step::Todo;
                }
            }
        }
    }

    /// A shorter grace than the running stops have: they begin anew.
    fn hurry(&mut self) {
        if self.deleting() && plan::grace(&self.pod) < self.grace {
            self.state.containers.values_mut().for_each(|c| c.stopping = false);
        }
    }

    fn warn(&self, container: Option<&str>, reason: &str, message: &str) {
        self.ctx.recorder.pod(&self.pod, container, Kind::Warning, reason, message);
    }

    fn publish(&mut self) {
        let around = status::Around { node_ips: self.ctx.config.node_ips, now: Timestamp::now() };
        let next = status::of(&self.pod, &self.state, around);
        let mut pod = Pod::clone(&self.pod);
        pod.status = Some(next.clone());
        self.pod = Arc::new(pod);
        self.ctx.directory.put(View { pod: self.pod.clone(), state: Arc::new(self.state.clone()) });
        let wanted = Wanted { status: next, delete: self.finished };
        self.wanted.send_if_modified(|old| {
            let changed = !self.gone && *old != wanted;
            if changed {
                *old = wanted;
            }
            changed
        });
    }

    fn save(&mut self) {
        if self.saved == self.state || self.finished {
            return;
        }
        let meta = &self.pod.metadata;
        let record = Record {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: self.uid(),
            state: self.state.clone(),
        };
        match self.ctx.records.save(&record) {
            Ok(()) => self.saved = self.state.clone(),
            Err(e) => warn!("a restart of the agent would not know the state of pod {}: {e}", record.name),
        }
    }

    fn leave(&mut self) {
        self.ctx.directory.remove(&self.pod);
        if let Err(e) = self.ctx.records.remove(&self.uid()) {
            warn!("{e}");
        }
    }
}

/// The API's object with what this node says of itself, which may be newer than what the API has.
fn keep_own_status(new: &Pod, old: &Pod) -> Pod {
    let mut pod = new.clone();
    let (Some(own), Some(theirs)) = (&old.status, &new.status) else { return pod };
    let mut status: PodStatus = own.clone();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| status::OURS.contains(&c.type_.as_str()));
    conditions
        .extend(theirs.conditions.iter().flatten().filter(|c| !status::OURS.contains(&c.type_.as_str())).cloned());
    pod.status = Some(status);
    pod
}
