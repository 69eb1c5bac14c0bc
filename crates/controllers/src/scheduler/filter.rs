//! Why a node cannot take a pod. The words are those that operators know from FailedScheduling events.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::{
    api::core::v1::{Container, Node, Pod, Taint, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{affinity, quantity::milli};

pub(crate) type Amounts = BTreeMap<String, i128>;

/// (address, protocol, port) on a node.
pub(crate) type HostPort = (String, String, i32);

/// A node with what its pods already take.
#[derive(Clone, Debug)]
pub(crate) struct Room<'a> {
    pub node: &'a Node,
    pub used: Amounts,
    pub ports: HashSet<HostPort>,
    pub pods: usize,
    /// Pods of the same controller as the pod to place.
    pub siblings: usize,
}

impl<'a> Room<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        Room { node, used: Amounts::new(), ports: HashSet::new(), pods: 0, siblings: 0 }
    }

    pub(crate) fn add(&mut self, pod: &Pod) {
        for (resource, amount) in requests(pod) {
            *self.used.entry(resource).or_default() += amount;
        }
        self.ports.extend(host_ports(pod));
        self.pods += 1;
    }
}

/// Every reason why the pod cannot go there; none: it can.
pub(crate) fn obstacles(pod: &Pod, room: &Room) -> Vec<String> {
    let unschedulable = taint("node.kubernetes.io/unschedulable");
    if room.node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) && !tolerates(pod, &unschedulable) {
        return vec!["node(s) were unschedulable".into()];
    }
    if let Some(taint) = taints(room.node).into_iter().find(|t| t.effect != "PreferNoSchedule" && !tolerates(pod, t)) {
        let value = taint.value.unwrap_or_default();
        return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
    }
    if !affinity::allows(pod, room.node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    if host_ports(pod).iter().any(|wanted| room.ports.iter().any(|taken| collide(wanted, taken))) {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    shortages(pod, room)
}

fn taint(key: &str) -> Taint {
    Taint { key: key.into(), effect: "NoSchedule".into(), ..Default::default() }
}

/// The node's taints, and the one that a node which is not ready has even before anyone writes it.
pub(crate) fn taints(node: &Node) -> Vec<Taint> {
    let mut taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let not_ready = taint("node.kubernetes.io/not-ready");
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    if !ready && !taints.iter().any(|t| t.key.starts_with("node.kubernetes.io/")) {
        taints.push(not_ready);
    }
    taints
}

pub(crate) fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_ref());
    tolerations.into_iter().flatten().any(|t| tolerated_by(t, taint))
}

pub(crate) fn tolerated_by(toleration: &Toleration, taint: &Taint) -> bool {
    let filled = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let effect = filled(&toleration.effect).is_none_or(|e| e == taint.effect);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = filled(&toleration.key).map_or(exists, |k| k == taint.key);
    let value = exists || toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("");
    effect && key && value
}

fn shortages(pod: &Pod, room: &Room) -> Vec<String> {
    let allocatable = room.node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let has = |resource: &str| allocatable.and_then(|a| a.get(resource)).and_then(|q| milli(&q.0));
    let mut reasons = vec![];
    if has("pods").is_some_and(|most| (room.pods as i128 + 1) * 1000 > most) {
        reasons.push("Too many pods".to_string());
    }
    for (resource, wanted) in requests(pod).into_iter().filter(|(_, wanted)| *wanted > 0) {
        let used = room.used.get(&resource).copied().unwrap_or(0);
        // A node that says nothing about memory or CPU is not measured by them.
        let known = has(&resource).or(if resource.contains('/') { Some(0) } else { None });
        if known.is_some_and(|all| used + wanted > all) {
            reasons.push(format!("Insufficient {resource}"));
        }
    }
    reasons
}

/// What a pod asks for: its containers together, or its greediest init container, and the overhead.
pub(crate) fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut sum = Amounts::new();
    spec.containers.iter().for_each(|c| add(&mut sum, &of_container(c)));
    let (sidecars, inits): (Vec<_>, Vec<_>) =
        spec.init_containers.iter().flatten().partition(|c| c.restart_policy.as_deref() == Some("Always"));
    sidecars.iter().for_each(|c| add(&mut sum, &of_container(c)));
    for init in inits {
        for (resource, amount) in of_container(init) {
            let known = sum.entry(resource).or_default();
            *known = (*known).max(amount);
        }
    }
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

fn of_container(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    list.into_iter().flatten().filter_map(|(k, q)| Some((k.clone(), milli(&q.0)?))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (resource, amount) in more {
        *sum.entry(resource.clone()).or_default() += amount;
    }
}

pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return vec![] };
    let host = spec.host_network == Some(true);
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    let taken = ports.filter_map(|p| {
        let number = p.host_port.or(host.then_some(p.container_port)).filter(|n| *n > 0)?;
        let address = p.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "::").unwrap_or_else(|| "0.0.0.0".into());
        Some((address, p.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
    });
    taken.collect()
}

fn collide(a: &HostPort, b: &HostPort) -> bool {
    let everywhere = |p: &HostPort| p.0 == "0.0.0.0";
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || everywhere(a) || everywhere(b))
}
