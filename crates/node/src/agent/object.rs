//! The Node object as this machine makes it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};

use crate::network::Ips;

/// What is known of machine and node.
#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    pub ips: Ips,
    pub labels: BTreeMap<String, String>,
    pub zone: Option<String>,
    pub cpus: u32,
    pub memory: u64,
    pub disk: u64,
    pub pods: u32,
    pub port: u16,
    pub info: NodeSystemInfo,
}

/// As the project's own version in a Kubernetes version.
pub const KUBELET_VERSION: &str = concat!("v1.36.0+skiff-", env!("CARGO_PKG_VERSION"));

pub fn labels(facts: &Facts) -> BTreeMap<String, String> {
    let mut labels = facts.labels.clone();
    let mut put = |key: &str, value: &str| labels.insert(key.into(), value.into());
    put("kubernetes.io/hostname", &facts.name);
    put("kubernetes.io/os", &facts.info.operating_system);
    put("kubernetes.io/arch", &facts.info.architecture);
    put("beta.kubernetes.io/os", &facts.info.operating_system);
    put("beta.kubernetes.io/arch", &facts.info.architecture);
    if let Some(zone) = &facts.zone {
        put("topology.kubernetes.io/zone", zone);
    }
    labels
}

pub fn node(facts: &Facts) -> Node {
    let metadata = ObjectMeta { name: Some(facts.name.clone()), labels: Some(labels(facts)), ..Default::default() };
    Node { metadata, ..Default::default() }
}

/// `before`: the conditions as the API has them, whose times stay when nothing changed.
pub fn status(facts: &Facts, before: &[NodeCondition], now: Timestamp) -> NodeStatus {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
    let ips = facts.ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    let resources = resources(facts);
    NodeStatus {
        addresses: Some(ips.chain([address("Hostname", facts.name.clone())]).collect()),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(conditions(before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: facts.port.into() }),
        }),
        node_info: Some(facts.info.clone()),
        ..Default::default()
    }
}

fn resources(facts: &Facts) -> BTreeMap<String, Quantity> {
    let kibibytes = |bytes: u64| Quantity(format!("{}Ki", bytes / 1024));
    BTreeMap::from([
        ("cpu".into(), Quantity(facts.cpus.to_string())),
        ("memory".into(), kibibytes(facts.memory)),
        ("ephemeral-storage".into(), kibibytes(facts.disk)),
        ("hugepages-1Gi".into(), Quantity("0".into())),
        ("hugepages-2Mi".into(), Quantity("0".into())),
        ("pods".into(), Quantity(facts.pods.to_string())),
    ])
}

fn conditions(before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let table = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let one = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let old = before.iter().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: old.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    table.into_iter().map(one).collect()
}
