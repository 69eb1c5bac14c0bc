//! What all pod workers of a node share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::reflector::Store;

use super::{events::Recorder, record::Records, state::PodState};
use crate::{agent::Config, hostports::HostPorts, image::Images, network::Network, runtime::Runtime};

pub struct Context {
    pub config: Config,
    pub client: kube::Client,
    pub runtime: Runtime,
    pub images: Images,
    pub network: Network,
    pub host_ports: Arc<HostPorts>,
    pub services: Store<Service>,
    pub records: Records,
    pub recorder: Recorder,
    pub directory: Directory,
    pub machine: Machine,
}

/// What the node has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    pub cpus: u32,
    pub memory: u64,
}

impl Context {
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }

    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let meta = &pod.metadata;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let name = format!("{}_{}_{}", part(&meta.namespace), part(&meta.name), part(&meta.uid));
        self.config.data_dir.join("logs").join(name)
    }

    pub fn log_path(&self, pod: &Pod, container: &str, attempt: i32) -> PathBuf {
        self.log_dir(pod).join(container).join(format!("{attempt}.log"))
    }
}

/// A pod as the node's own API serves it.
#[derive(Clone, Debug)]
pub struct View {
    pub pod: Arc<Pod>,
    pub state: Arc<PodState>,
}

type Key = (String, String);

/// The pods on this node by namespace and name.
#[derive(Debug, Default)]
pub struct Directory(Mutex<HashMap<Key, View>>);

impl Directory {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, View>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, view: View) {
        self.all().insert(key(&view.pod), view);
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<View> {
        self.all().get(&(namespace.to_string(), name.to_string())).cloned()
    }

    pub fn list(&self) -> Vec<View> {
        self.all().values().cloned().collect()
    }

    /// Only this very pod: another of the same name may have followed.
    pub fn remove(&self, pod: &Pod) {
        let mut all = self.all();
        if all.get(&key(pod)).is_some_and(|v| v.pod.metadata.uid == pod.metadata.uid) {
            all.remove(&key(pod));
        }
    }
}

fn key(pod: &Pod) -> Key {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}
