//! What the tasks of preparation and the probes report, and what follows from it.

use jiff::Timestamp;
use tracing::warn;

use super::{Event, RETRY, Worker};
use crate::{
    network::Attachment,
    pod::{
        events::Kind,
        plan, start,
        state::{Container, Phase, Pulled, Step},
        tasks,
    },
    probes,
    volumes::refresh,
};

impl Worker {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Attached(result) => self.attached(result),
            Event::Mounted(result) => self.mounted(result),
            Event::Pulled { container, result } => self.pulled(&container, result),
            Event::Started { container, id, result } => self.started(&container, id, result),
            Event::HookFailed { container, id, message } => self.hook_failed(&container, &id, &message),
            Event::Exited { id, exit } => self.exited(id, exit),
            Event::Probed { container, id, change } => self.probed(&container, &id, change),
            Event::SourceSeen => self.try_again(),
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

    pub(super) fn attached(&mut self, result: Result<Option<Attachment>, String>) {
        self.state.network = match result {
            Ok(attachment) => Step::Done(attachment),
            Err(message) => {
                self.warn(None, "FailedCreatePodSandBox", &message);
                Step::Failed { message, retry: Timestamp::now() + RETRY }
            }
        };
    }

    pub(super) fn mounted(&mut self, result: Result<(), String>) {
        self.state.volumes = match result {
            Ok(()) => {
                self.abort_wait();
                self.watch_sources();
                Step::Done(())
            }
            Err(message) => {
                self.warn(None, "FailedMount", &message);
                self.await_sources();
                Step::Failed { message, retry: Timestamp::now() + RETRY }
            }
        };
    }

    /// From now on ConfigMaps, Secrets and tokens are followed.
    pub(super) fn watch_sources(&mut self) {
        if self.refresh.is_none() {
            let (ctx, pod, tokens) = (self.ctx.clone(), self.pod.clone(), self.tokens.clone());
            self.refresh = Some(self.tasks.spawn(async move { refresh::run(ctx, pod, tokens).await }));
        }
    }

    pub(super) fn abort_refresh(&mut self) {
        self.refresh.take().into_iter().for_each(|t| t.abort());
        self.abort_wait();
    }

    /// What failed is tried again by the clock; when what was missing comes, at once.
    pub(super) fn await_sources(&mut self) {
        if self.awaited.is_none() {
            let (ctx, pod, reports) = (self.ctx.clone(), self.pod.clone(), self.reports.clone());
            let seen = move || drop(reports.send(Event::SourceSeen));
            self.awaited = Some(self.tasks.spawn(async move { refresh::await_any(&ctx, &pod, seen).await }));
        }
    }

    pub(super) fn abort_wait(&mut self) {
        self.awaited.take().into_iter().for_each(|t| t.abort());
    }

    fn try_again(&mut self) {
        if matches!(self.state.volumes, Step::Failed { .. }) && !self.deleting() {
            self.state.volumes = Step::Todo;
        }
        for container in self.state.containers.values_mut() {
            if let Phase::Waiting { reason, retry, .. } = &mut container.phase
                && reason == start::NO_CONFIG
            {
                *retry = None;
            }
        }
    }

    pub(super) fn pulled(&mut self, name: &str, result: Result<Pulled, tasks::PullFailure>) {
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

    pub(super) fn hook_failed(&mut self, name: &str, id: &str, message: &str) {
        self.warn(Some(name), "FailedPostStartHook", message);
        if self.state.containers.get(name).is_some_and(|c| c.is_running() && c.id() == Some(id)) {
            self.kill(name, plan::grace(&self.pod));
        }
    }

    pub(super) fn probed(&mut self, name: &str, id: &str, change: probes::Change) {
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
}
