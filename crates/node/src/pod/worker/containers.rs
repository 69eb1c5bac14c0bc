//! The life of a container as it is reported: started, running, ended.

use jiff::Timestamp;

use super::{Event, RETRY, Worker};
use crate::{
    pod::{
        events::Kind,
        plan, start,
        state::{Container, Ended, Phase},
        tasks,
    },
    probes,
    runtime::Exit,
};

impl Worker {
    pub(super) fn started(&mut self, name: &str, id: String, result: Result<(), start::Error>) {
        match result {
            Ok(()) => {
                self.ctx.recorder.pod(
                    &self.pod,
                    Some(name),
                    Kind::Normal,
                    "Started",
                    format!("Started container {name}"),
                );
                self.abort_wait();
                self.find_again(name, id);
            }
            Err(start::Error::Config { reason, message }) => {
                self.warn(Some(name), "Failed", &format!("Error: {message}"));
                self.await_sources();
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

    pub(super) fn running(&mut self, name: &str, id: String, since: Timestamp) {
        let Some(api) = self.container_api(name) else { return };
        let own = self.container(name);
        own.phase = Phase::Running { id: id.clone(), since };
        own.started = api.startup_probe.is_none();
        own.ready = api.readiness_probe.is_none() && !probes::listens(&api);
        let ips =
            if self.spec().host_network == Some(true) { Some(self.ctx.config.node_ips) } else { self.state.ips() };
        let ip = ips.map(|i| i.first);
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

    pub(super) fn abort_probes(&mut self, name: &str) {
        self.probes.remove(name).into_iter().flatten().for_each(|t| t.abort());
    }

    pub(super) fn exited(&mut self, id: String, exit: Exit) {
        let name =
            self.state.containers.iter().find(|(_, c)| c.is_live() && c.id() == Some(&id)).map(|(n, _)| n.clone());
        // While it starts, the report of the start looks at the exit too.
        if let Some(name) = name.filter(|n| self.state.containers[n].is_running()) {
            self.ended(&name, id, exit);
        }
    }

    pub(super) fn ended(&mut self, name: &str, id: String, mut exit: Exit) {
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

    pub(super) fn say_back_off(&self, name: &str, exit: &Exit) {
        let (Some(api), Some(own)) = (self.container_api(name), self.state.containers.get(name)) else { return };
        let again = plan::restarts(&self.spec(), &api, exit.code) && !self.deleting();
        if again && own.crashes.due(exit.finished) > Timestamp::now() {
            let pod = self.pod.metadata.name.clone().unwrap_or_default();
            let message = format!("Back-off restarting failed container {name} in pod {pod}");
            self.warn(Some(name), "BackOff", &message);
        }
    }
}
