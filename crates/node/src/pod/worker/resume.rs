//! A worker that goes on where a former agent stopped.

use std::time::Duration;

use jiff::Timestamp;

use super::{Event, Worker};
use crate::{
    pod::state::{Phase, Step},
    runtime::{self, Exit},
};

impl Worker {
    /// Brings a state from the record in line with what runs; what was under way is begun again.
    pub(super) fn resume(&mut self) {
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

    pub(super) fn find_again(&mut self, name: &str, id: String) {
        match self.ctx.runtime.container(&id).map(|c| c.phase) {
            Some(runtime::Phase::Running { started, .. }) => self.running(name, id, started),
            Some(runtime::Phase::Exited(exit)) => self.ended(name, id, exit),
            Some(runtime::Phase::Starting) => self.await_start(name, id),
            None => self.ended(name, id, unknown_exit()),
        }
    }

    /// A shim that a former agent started is still at work: it is looked at until it is done.
    pub(super) fn await_start(&mut self, name: &str, id: String) {
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
