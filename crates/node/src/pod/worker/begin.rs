//! Begins what the plan says: each action is a task that reports back, or is done at once.

use jiff::Timestamp;

use super::{Event, Worker};
use crate::{
    pod::{
        events::Kind,
        plan::{Action, Why},
        start,
        state::{Phase, Step, container_id},
        tasks,
    },
    probes,
};

impl Worker {
    pub(super) fn begin(&mut self, action: Action) {
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

    pub(super) fn attach(&mut self) {
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

    pub(super) fn mount(&mut self) {
        self.state.volumes = Step::Busy;
        let (ctx, pod, reports) = (self.ctx.clone(), self.pod.clone(), self.reports.clone());
        let tokens = self.tokens.clone();
        self.tasks.spawn(async move {
            let _ = reports.send(Event::Mounted(tasks::mount(&ctx, &pod, &tokens).await));
        });
    }

    pub(super) fn pull(&mut self, name: String) {
        let Some(container) = self.container_api(&name) else { return };
        self.container(&name).phase = Phase::Pulling;
        let (ctx, pod, reports) = (self.ctx.clone(), self.pod.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let result = tasks::pull(&ctx, &pod, &container).await;
            let _ = reports.send(Event::Pulled { container: name, result });
        });
    }

    pub(super) fn start(&mut self, name: String) {
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

    pub(super) fn stop(&mut self, name: String, grace: i64, why: Why) {
        let what = match why {
            Why::Deleted | Why::Completed => format!("Stopping container {name}"),
        };
        self.ctx.recorder.pod(&self.pod, Some(&name), Kind::Normal, "Killing", what);
        self.grace = self.grace.min(grace);
        self.kill(&name, grace);
    }

    /// preStop, the stop signal, and after the grace the end.
    pub(super) fn kill(&mut self, name: &str, grace: i64) {
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

    pub(super) fn tear_down(&mut self) {
        self.state.torn_down = Step::Busy;
        self.abort_refresh();
        let (ctx, pod, state) = (self.ctx.clone(), self.pod.clone(), self.state.clone());
        let reports = self.reports.clone();
        let logs = self.deleting();
        self.tasks.spawn(async move {
            let _ = reports.send(Event::TornDown(tasks::tear_down(&ctx, &pod, &state, logs).await));
        });
    }
}
