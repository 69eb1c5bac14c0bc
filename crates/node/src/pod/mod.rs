//! The pods of this node: a worker for each, fed from one watch and one stream of exits.

pub mod backoff;
pub mod context;
pub mod env;
pub mod events;
pub mod hosts;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod publish;
pub mod quantity;
pub mod record;
pub mod resolv;
pub mod start;
pub mod state;
pub mod status;
pub mod tasks;
mod worker;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use skiff_client::life::Stop;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    task::JoinSet,
};
use tracing::warn;

use self::{
    context::Context,
    record::Record,
    worker::{Event, Seen},
};
use crate::{hostports::Published, network::Attachment, runtime, volumes};

type Uid = String;

struct Handle {
    seen: watch::Sender<Seen>,
    exits: mpsc::UnboundedSender<Event>,
}

pub struct Manager {
    ctx: Arc<Context>,
    workers: HashMap<Uid, Handle>,
    running: JoinSet<Uid>,
    /// What a former agent left, until the pod's object is seen.
    records: HashMap<Uid, Record>,
    /// Seen since the list began.
    listed: Option<HashSet<Uid>>,
}

/// The attachments of pods that a former agent left running.
pub fn attachments(records: &[Record]) -> Vec<(String, Attachment)> {
    records.iter().filter_map(|r| Some((r.uid.clone(), r.state.network.done()?.clone()?))).collect()
}

/// The node's ports that those pods have.
pub fn published(records: &[Record]) -> BTreeMap<Uid, Published> {
    let of = |r: &Record| {
        let attachment = r.state.network.done()?.as_ref()?;
        let pod = format!("{}/{}", r.namespace, r.name);
        Some((r.uid.clone(), Published { pod, ip: attachment.ip, ports: attachment.host_ports.clone() }))
    };
    records.iter().filter_map(of).filter(|(_, p)| !p.ports.is_empty()).collect()
}

impl Manager {
    pub fn new(ctx: Arc<Context>, records: Vec<Record>) -> Self {
        Manager {
            ctx,
            workers: HashMap::new(),
            running: JoinSet::new(),
            records: records.into_iter().map(|r| (r.uid.clone(), r)).collect(),
            listed: None,
        }
    }

    /// Runs until told to stop; the pods stay.
    pub async fn run(mut self, stop: Stop) {
        let api: Api<Pod> = Api::all(self.ctx.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.ctx.config.node_name));
        let mut pods = watcher(api, config).default_backoff().boxed();
        let mut exits = self.ctx.runtime.exits();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = pods.next() => match event {
                    Some(Ok(event)) => self.see(event).await,
                    Some(Err(e)) => warn!("the watch of pods failed, trying again: {e}"),
                    None => return,
                },
                exit = exits.recv() => match exit {
                    Ok(exit) => self.exited(exit),
                    Err(RecvError::Lagged(_)) => self.look_at_all(),
                    Err(RecvError::Closed) => return,
                },
                Some(done) = self.running.join_next() => {
                    done.into_iter().for_each(|uid| { self.workers.remove(&uid); });
                }
            }
        }
    }

    async fn see(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed = Some(HashSet::new()),
            watcher::Event::InitApply(pod) => {
                self.listed.get_or_insert_default().extend(pod.metadata.uid.clone());
                self.apply(pod);
            }
            watcher::Event::InitDone => self.after_list().await,
            watcher::Event::Apply(pod) => self.apply(pod),
            watcher::Event::Delete(pod) => self.gone(pod.metadata.uid.as_deref().unwrap_or_default()),
        }
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let pod = Arc::new(pod);
        match self.workers.get(&uid) {
            Some(worker) => drop(worker.seen.send_replace(Seen::Object(pod))),
            None => self.begin(uid, pod),
        }
    }

    fn begin(&mut self, uid: Uid, pod: Arc<Pod>) {
        let state = self.records.remove(&uid).map_or_else(|| state::initial(&pod), |r| r.state);
        let (seen, seen_rx) = watch::channel(Seen::Object(pod.clone()));
        let (exits, exits_rx) = mpsc::unbounded_channel();
        let ctx = self.ctx.clone();
        self.workers.insert(uid.clone(), Handle { seen, exits });
        self.running.spawn(async move {
            worker::run(ctx, pod, state, seen_rx, exits_rx).await;
            uid
        });
    }

    fn gone(&mut self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            worker.seen.send_replace(Seen::Gone);
        }
    }

    /// Whatever the list did not hold is not wanted any more.
    async fn after_list(&mut self) {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<_> = self.workers.keys().filter(|u| !listed.contains(*u)).cloned().collect();
        gone.iter().for_each(|uid| self.gone(uid));
        self.reap().await;
    }

    /// Removes what belongs to pods that nobody knows any more.
    async fn reap(&mut self) {
        for container in self.ctx.runtime.containers() {
            if !self.workers.contains_key(&container.spec.pod_uid)
                && let Err(e) = self.ctx.runtime.remove(&container.spec.id).await
            {
                warn!("a container of a former pod could not be removed: {e}");
            }
        }
        for (uid, record) in std::mem::take(&mut self.records) {
            if let Err(e) = self.ctx.host_ports.withdraw(&uid) {
                warn!("{e}");
            }
            if let Some(attachment) = record.state.network.done().cloned().flatten()
                && let Err(e) = self.ctx.network.detach(&uid, &attachment)
            {
                warn!("the network of former pod {} could not be removed: {e}", record.name);
            }
            if let Err(e) = self.ctx.records.remove(&uid) {
                warn!("{e}");
            }
        }
        self.reap_directories();
    }

    fn reap_directories(&self) {
        let known = |name: &str| self.workers.contains_key(name.rsplit('_').next().unwrap_or_default());
        for (part, remove) in
            [("pods", volumes::remove as fn(&std::path::Path) -> std::io::Result<()>), ("logs", remove_logs)]
        {
            let Ok(entries) = std::fs::read_dir(self.ctx.config.data_dir.join(part)) else { continue };
            for entry in entries.flatten().filter(|e| !known(&e.file_name().to_string_lossy())) {
                if let Err(e) = remove(&entry.path()) {
                    warn!("{} of a former pod could not be removed: {e}", entry.path().display());
                }
            }
        }
    }

    fn exited(&self, event: runtime::ExitEvent) {
        let uid = self.ctx.runtime.container(&event.id).map(|c| c.spec.pod_uid);
        if let Some(worker) = uid.and_then(|u| self.workers.get(&u)) {
            // A worker that has just ended wants it no more.
            let _ = worker.exits.send(Event::Exited { id: event.id, exit: event.exit });
        }
    }

    /// The stream of exits was too fast for us: every exit is looked up instead.
    fn look_at_all(&self) {
        for container in self.ctx.runtime.containers() {
            if let runtime::Phase::Exited(exit) = container.phase {
                self.exited(runtime::ExitEvent { id: container.spec.id, exit });
            }
        }
    }
}

fn remove_logs(path: &std::path::Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(path)
}
