//! What the node knows of one pod. Everything that decides reads this; it is also the pod's record on disk, from which
//! the next agent goes on.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use super::backoff::Backoff;
use crate::{
    image::Image,
    network::{Attachment, Ips},
    runtime::Exit,
};

/// A step of preparation that a pod needs once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step<T> {
    #[default]
    Todo,
    /// Under way in a task of this agent.
    Busy,
    Done(T),
    /// Failed; to be tried again then.
    Failed {
        message: String,
        retry: Timestamp,
    },
}

impl<T> Step<T> {
    pub fn done(&self) -> Option<&T> {
        if let Step::Done(value) = self { Some(value) } else { None }
    }

    pub fn is_busy(&self) -> bool {
        matches!(self, Step::Busy)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodState {
    /// `Done(None)` for pods of the host's network.
    pub network: Step<Option<Attachment>>,
    pub volumes: Step<()>,
    pub containers: BTreeMap<String, Container>,
    /// The pod is being ended, and why.
    pub stopping: Option<Stopping>,
    /// Everything that the pod had on this node was given back.
    pub torn_down: Step<()>,
    pub started: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    pub since: Timestamp,
    pub grace: i64,
}

/// One container of the pod over all its attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// The number of the current attempt.
    pub restarts: i32,
    pub phase: Phase,
    /// How the attempt before this one ended.
    pub last: Option<Ended>,
    pub crashes: Backoff,
    pub pulls: Backoff,
    pub image: Option<Pulled>,
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// A stop was ordered (liveness, termination); the reason for the event.
    pub stopping: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pulled {
    /// As `status.imageID` shows it.
    pub id: String,
    pub image: Image,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing is under way. `retry` holds it back after a failure.
    Waiting {
        reason: String,
        message: String,
        retry: Option<Timestamp>,
    },
    Pulling,
    Starting {
        id: String,
    },
    Running {
        id: String,
        since: Timestamp,
    },
    Exited(Ended),
}

impl Default for Phase {
    fn default() -> Self {
        Phase::Waiting { reason: String::new(), message: String::new(), retry: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub id: String,
    pub exit: Exit,
}

impl Container {
    /// The id of the container that runs, starts or ran last.
    pub fn id(&self) -> Option<&str> {
        match &self.phase {
            Phase::Starting { id } | Phase::Running { id, .. } => Some(id),
            Phase::Exited(ended) => Some(&ended.id),
            Phase::Waiting { .. } | Phase::Pulling => self.last.as_ref().map(|l| l.id.as_str()),
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. })
    }

    pub fn is_busy(&self) -> bool {
        self.is_live() || self.phase == Phase::Pulling
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    pub fn exited(&self) -> Option<&Ended> {
        if let Phase::Exited(ended) = &self.phase { Some(ended) } else { None }
    }

    pub fn waiting(reason: &str, message: impl Into<String>, retry: Option<Timestamp>) -> Phase {
        Phase::Waiting { reason: reason.into(), message: message.into(), retry }
    }
}

impl PodState {
    pub fn container(&self, name: &str) -> Container {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    pub fn ips(&self) -> Option<Ips> {
        self.network.done()?.as_ref().map(|a| a.ips())
    }
}

/// A fresh pod: what the API remembers of former attempts (before a reboot) still counts.
pub fn initial(pod: &core::Pod) -> PodState {
    let mut state = PodState::default();
    let Some(status) = &pod.status else { return state };
    let old = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for former in old {
        let ran = former.container_id.as_ref().is_some_and(|id| !id.is_empty());
        let restarts = former.restart_count + i32::from(ran);
        state.containers.insert(former.name.clone(), Container { restarts, ..Default::default() });
    }
    state
}

/// The id of an attempt: the same whoever computes it, so an agent that died between start and note finds it again.
pub fn container_id(pod_uid: &str, container: &str, attempt: i32) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(format!("{pod_uid}/{container}/{attempt}"));
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
