//! One task for one pod: it alone owns the pod's state. Work that takes time runs beside it and reports back.
//!
//! ```text
//!           object ─┐
//!  runtime's exits ─┼─► state ─► plan ─► tasks ─┐
//!   tasks' reports ─┘     └────► status ─► API  │
//!         ▲─────────────────────────────────────┘
//! ```

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
    plan::{self, Action, Why},
    publish::{self, Wanted},
    record::Record,
    start,
    state::{Container, Ended, Phase, PodState, Pulled, Step, Stopping, container_id},
    status, tasks,
};
use crate::{
    network::Attachment,
    probes,
    runtime::{self, Exit},
    volumes::tokens::Tokens,
};

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
    Pulled { container: String, result: Result<Pulled, tasks::PullFailure> },
    Started { container: String, id: String, result: Result<(), start::Error> },
    HookFailed { container: String, id: String, message: String },
    Exited { id: String, exit: Exit },
    Probed { container: String, id: String, change: probes::Change },
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

    /// Brings a state from the record in line with what runs; what was under way is begun again.
    fn resume(&mut self) {
        if self.state.network.is_busy() {
            self.state.network = Step::Todo;
        }
        // Refreshing volumes is harmless and the tokens are asked anew.
        self.state.volumes = Step::Todo;
        if self.state.torn_down.is_busy() {
            self.state.torn_down = Step::Todo;
        }
        self.state.started.get_or_insert_with(Timestamp::now);
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let own = self.container(&name);
            own.stopping = false;
            match own.phase.clone() {
                Phase::Pulling => own.phase = Phase::default(),
                Phase::Starting { id } | Phase::Running { id, .. } => self.find_again(&name, id),
                Phase::Waiting { .. } | Phase::Exited(_) => {}
            }
        }
    }

    fn find_again(&mut self, name: &str, id: String) {
        match self.ctx.runtime.container(&id).map(|c| c.phase) {
            Some(runtime::Phase::Running { started, .. }) => self.running(name, id, started),
            Some(runtime::Phase::Exited(exit)) => self.ended(name, id, exit),
            Some(runtime::Phase::Starting) => self.await_start(name, id),
            None => self.ended(name, id, unknown_exit()),
        }
    }

    /// A shim that a former agent started is still at work: it is looked at until it is done.
    fn await_start(&mut self, name: &str, id: String) {
        self.container(name).phase = Phase::Starting { id: id.clone() };
        let (ctx, reports, container) = (self.ctx.clone(), self.reports.clone(), name.to_string());
        self.tasks.spawn(async move {
            let starting = || ctx.runtime.container(&id).is_some_and(|c| c.phase == runtime::Phase::Starting);
            while starting() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let _ = reports.send(Event::Started { container, id, result: Ok(()) });
        });
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

    fn begin(&mut self, action: Action) {
        match action {
            Action::Attach => self.attach(),
            Action::Mount => self.mount(),
            Action::Pull(name) => self.pull(name),
            Action::Start(name) => self.start(name),
            Action::Stop { container, grace, why } => self.stop(container, grace, why),
            Action::TearDown => self.tear_down(),
            Action::Finish => self.finished = true,
        }
    }

    fn attach(&mut self) {
        if self.spec().host_network == Some(true) {
            self.state.network = Step::Done(None);
            return;
        }
        self.state.network = Step::Busy;
        let (ctx, pod, reports) = (self.ctx.clone(), self.pod.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let _ = reports.send(Event::Attached(tasks::attach(&ctx, &pod).await.map(Some)));
        });
    }

    fn mount(&mut self) {
        self.state.volumes = Step::Busy;
        let (ctx, pod, reports) = (self.ctx.clone(), self.pod.clone(), self.reports.clone());
        let tokens = self.tokens.clone();
        self.tasks.spawn(async move {
            let _ = reports.send(Event::Mounted(tasks::mount(&ctx, &pod, &tokens).await));
        });
    }

    fn pull(&mut self, name: String) {
        let Some(container) = self.container_api(&name) else { return };
        self.container(&name).phase = Phase::Pulling;
        let (ctx, pod, reports) = (self.ctx.clone(), self.pod.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let result = tasks::pull(&ctx, &pod, &container).await;
            let _ = reports.send(Event::Pulled { container: name, result });
        });
    }

    fn start(&mut self, name: String) {
        let Some(container) = self.container_api(&name) else { return };
        let uid = self.uid();
        let network = self.state.network.done().cloned().flatten();
        let now = Timestamp::now();
        let own = self.container(&name);
        if let Phase::Exited(ended) = own.phase.clone() {
            own.crashes.next(ended.exit.finished, now);
            own.restarts += 1;
            own.last = Some(ended);
        }
        let Some(pulled) = own.image.clone() else { return };
        let attempt = start::Attempt { container, number: own.restarts, pulled, network };
        let id = container_id(&uid, &name, own.restarts);
        let former = own.last.as_ref().map(|l| l.id.clone());
        own.phase = Phase::Starting { id: id.clone() };
        own.stopping = false;
        let (ctx, pod, reports) = (self.ctx.clone(), self.pod.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let result = tasks::start(&ctx, &pod, &attempt, former).await;
            let hook = result.is_ok().then(|| attempt.container.lifecycle.clone()?.post_start).flatten();
            let _ = reports.send(Event::Started { container: name.clone(), id: id.clone(), result });
            if let Some(hook) = hook
                && let Err(message) = probes::hook(&ctx, &pod, &attempt.container, &id, &hook).await
            {
                let _ = reports.send(Event::HookFailed { container: name, id, message });
            }
        });
    }

    fn stop(&mut self, name: String, grace: i64, why: Why) {
        let what = match why {
            Why::Deleted | Why::Completed => format!("Stopping container {name}"),
        };
        self.ctx.recorder.pod(&self.pod, Some(&name), Kind::Normal, "Killing", what);
        self.grace = self.grace.min(grace);
        self.kill(&name, grace);
    }

    /// preStop, the stop signal, and after the grace the end.
    fn kill(&mut self, name: &str, grace: i64) {
        let Some(container) = self.container_api(name) else { return };
        let deleted = self.deleting();
        let own = self.container(name);
        let Some(id) = own.id().map(String::from) else { return };
        own.stopping = true;
        let signal = own.image.as_ref().and_then(|i| i.image.config.stop_signal.clone());
        let stop = tasks::Stop { container, id, signal, grace, serving: deleted && own.ready };
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        let task = self.tasks.spawn(async move { tasks::stop(&ctx, &pod, stop).await });
        if let Some(former) = self.stops.insert(name.into(), task) {
            former.abort();
        }
    }

    fn tear_down(&mut self) {
        self.state.torn_down = Step::Busy;
        self.abort_refresh();
        let (ctx, pod, state) = (self.ctx.clone(), self.pod.clone(), self.state.clone());
        let reports = self.reports.clone();
        let logs = self.deleting();
        self.tasks.spawn(async move {
            let _ = reports.send(Event::TornDown(tasks::tear_down(&ctx, &pod, &state, logs).await));
        });
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

    fn handle(&mut self, event: Event) {
        match event {
            Event::Attached(result) => self.attached(result),
            Event::Mounted(result) => self.mounted(result),
            Event::Pulled { container, result } => self.pulled(&container, result),
            Event::Started { container, id, result } => self.started(&container, id, result),
            Event::HookFailed { container, id, message } => self.hook_failed(&container, &id, &message),
            Event::Exited { id, exit } => self.exited(id, exit),
            Event::Probed { container, id, change } => self.probed(&container, &id, change),
            Event::TornDown(Ok(())) => {
                self.state.torn_down = Step::Done(());
                self.state.network = Step::Todo;
                self.state.volumes = Step::Todo;
            }
            Event::TornDown(Err(message)) => {
                warn!("pod {}: {message}", self.uid());
                self.state.torn_down = Step::Failed { message, retry: Timestamp::now() + RETRY };
            }
        }
    }

    fn warn(&self, container: Option<&str>, reason: &str, message: &str) {
        self.ctx.recorder.pod(&self.pod, container, Kind::Warning, reason, message);
    }

    fn attached(&mut self, result: Result<Option<Attachment>, String>) {
        self.state.network = match result {
            Ok(attachment) => Step::Done(attachment),
            Err(message) => {
                self.warn(None, "FailedCreatePodSandBox", &message);
                Step::Failed { message, retry: Timestamp::now() + RETRY }
            }
        };
    }

    fn mounted(&mut self, result: Result<(), String>) {
        self.state.volumes = match result {
            Ok(()) => {
                self.watch_sources();
                Step::Done(())
            }
            Err(message) => {
                self.warn(None, "FailedMount", &message);
                Step::Failed { message, retry: Timestamp::now() + RETRY }
            }
        };
    }

    /// From now on ConfigMaps, Secrets and tokens are followed.
    fn watch_sources(&mut self) {
        if self.refresh.is_none() {
            let (ctx, pod, tokens) = (self.ctx.clone(), self.pod.clone(), self.tokens.clone());
            self.refresh = Some(self.tasks.spawn(async move { crate::volumes::refresh::run(ctx, pod, tokens).await }));
        }
    }

    fn abort_refresh(&mut self) {
        self.refresh.take().into_iter().for_each(|t| t.abort());
    }

    fn pulled(&mut self, name: &str, result: Result<Pulled, tasks::PullFailure>) {
        let now = Timestamp::now();
        match result {
            Ok(pulled) => {
                let own = self.container(name);
                own.image = Some(pulled);
                own.phase = Phase::default();
            }
            Err(failure) => {
                self.warn(Some(name), "Failed", &failure.message);
                self.warn(Some(name), "Failed", &format!("Error: {}", failure.reason));
                let image = self.container_api(name).and_then(|c| c.image).unwrap_or_default();
                let own = self.container(name);
                let again = own.pulls.seconds() > 0 && failure.reason == "ErrImagePull";
                own.pulls.next(now, now);
                let retry = own.pulls.due(now);
                let message = format!("Back-off pulling image \"{image}\": {}", failure.message);
                own.phase = match again {
                    true => Container::waiting("ImagePullBackOff", message.clone(), Some(retry)),
                    false => Container::waiting(failure.reason, failure.message, Some(retry)),
                };
                if again {
                    self.ctx.recorder.pod(&self.pod, Some(name), Kind::Normal, "BackOff", message);
                }
            }
        }
    }

    fn started(&mut self, name: &str, id: String, result: Result<(), start::Error>) {
        match result {
            Ok(()) => {
                self.ctx.recorder.pod(
                    &self.pod,
                    Some(name),
                    Kind::Normal,
                    "Started",
                    format!("Started container {name}"),
                );
                self.find_again(name, id);
            }
            Err(start::Error::Config { reason, message }) => {
                self.warn(Some(name), "Failed", &format!("Error: {message}"));
                self.container(name).phase = Container::waiting(reason, message, Some(Timestamp::now() + RETRY));
            }
            Err(start::Error::Start(e)) => {
                self.warn(Some(name), "Failed", &format!("Error: {}", e.message));
                let now = Timestamp::now();
                let exit = Exit {
                    code: e.exit_code,
                    signal: None,
                    oom: false,
                    started: Some(now),
                    finished: now,
                    reason: "StartError".into(),
                    message: e.message,
                };
                self.ended(name, id, exit);
            }
        }
    }

    fn running(&mut self, name: &str, id: String, since: Timestamp) {
        let Some(api) = self.container_api(name) else { return };
        let own = self.container(name);
        own.phase = Phase::Running { id: id.clone(), since };
        own.started = api.startup_probe.is_none();
        own.ready = api.readiness_probe.is_none() && !probes::listens(&api);
        let ip = if self.spec().host_network == Some(true) { Some(self.ctx.config.node_ip) } else { self.state.ip() };
        let Some(ip) = ip else { return };
        let reports = self.reports.clone();
        let (container, run) = (name.to_string(), id.clone());
        let report = move |change| {
            let _ = reports.send(Event::Probed { container: container.clone(), id: run.clone(), change });
        };
        let target = probes::Target { ctx: self.ctx.clone(), pod: self.pod.clone(), container: api, id, ip };
        self.abort_probes(name);
        let task = self.tasks.spawn(probes::run(target, report));
        self.probes.insert(name.into(), vec![task]);
    }

    fn abort_probes(&mut self, name: &str) {
        self.probes.remove(name).into_iter().flatten().for_each(|t| t.abort());
    }

    fn exited(&mut self, id: String, exit: Exit) {
        let name =
            self.state.containers.iter().find(|(_, c)| c.is_live() && c.id() == Some(&id)).map(|(n, _)| n.clone());
        // While it starts, the report of the start looks at the exit too.
        if let Some(name) = name.filter(|n| self.state.containers[n].is_running()) {
            self.ended(&name, id, exit);
        }
    }

    fn ended(&mut self, name: &str, id: String, mut exit: Exit) {
        self.abort_probes(name);
        self.stops.remove(name).into_iter().for_each(|t| t.abort());
        let attempt = self.container(name).restarts;
        if let Some(container) = self.container_api(name) {
            tasks::termination_message(&self.ctx, &self.pod, &container, attempt, &mut exit);
        }
        let own = self.container(name);
        own.phase = Phase::Exited(Ended { id, exit: exit.clone() });
        own.started = false;
        own.ready = false;
        own.stopping = false;
        self.say_back_off(name, &exit);
    }

    fn say_back_off(&self, name: &str, exit: &Exit) {
        let (Some(api), Some(own)) = (self.container_api(name), self.state.containers.get(name)) else { return };
        let again = plan::restarts(&self.spec(), &api, exit.code) && !self.deleting();
        if again && own.crashes.due(exit.finished) > Timestamp::now() {
            let pod = self.pod.metadata.name.clone().unwrap_or_default();
            let message = format!("Back-off restarting failed container {name} in pod {pod}");
            self.warn(Some(name), "BackOff", &message);
        }
    }

    fn hook_failed(&mut self, name: &str, id: &str, message: &str) {
        self.warn(Some(name), "FailedPostStartHook", message);
        if self.state.containers.get(name).is_some_and(|c| c.is_running() && c.id() == Some(id)) {
            self.kill(name, plan::grace(&self.pod));
        }
    }

    fn probed(&mut self, name: &str, id: &str, change: probes::Change) {
        if !self.state.containers.get(name).is_some_and(|c| c.is_running() && c.id() == Some(id)) {
            return;
        }
        match change {
            probes::Change::Started => self.container(name).started = true,
            probes::Change::Ready(ready) => self.container(name).ready = ready,
            probes::Change::Failed { kind, grace } => {
                let message = format!("Container {name} failed {kind} probe, will be restarted");
                self.ctx.recorder.pod(&self.pod, Some(name), Kind::Normal, "Killing", message);
                self.kill(name, grace.unwrap_or_else(|| plan::grace(&self.pod)));
            }
        }
    }

    fn publish(&mut self) {
        let around = status::Around { node_ip: self.ctx.config.node_ip, now: Timestamp::now() };
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

fn unknown_exit() -> Exit {
    let now = Timestamp::now();
    Exit {
        code: 137,
        signal: None,
        oom: false,
        started: None,
        finished: now,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
    }
}
