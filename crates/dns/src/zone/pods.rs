//! Pods by address: for their own names (mode "verified") and to know whose search path a question came by.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1 as core;

/// What `a-b-c-d.NAMESPACE.pod` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodNames {
    /// Nothing: such names do not exist.
    Disabled,
    /// The address that stands in the name, whoever has it (as the usual manifests have it).
    #[default]
    Insecure,
    /// The address, when a pod of that namespace has it.
    Verified,
}

/// Namespace and name.
pub type PodKey = (Arc<str>, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub key: PodKey,
    pub ips: Vec<IpAddr>,
    /// It shares the node's address, which therefore says nothing about who asks.
    pub host_network: bool,
    /// Its search path is the cluster's, with nothing of its own in it.
    pub plain_search: bool,
}

impl Pod {
    /// None for a pod without an address, or that has ended.
    pub fn from_api(object: &core::Pod) -> Option<Self> {
        let meta = &object.metadata;
        let key = (meta.namespace.as_deref()?.into(), meta.name.as_deref()?.into());
        let (spec, status) = (object.spec.as_ref()?, object.status.as_ref()?);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let listed = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
        let mut ips: Vec<IpAddr> = listed.chain(status.pod_ip.as_deref()).filter_map(|t| t.parse().ok()).collect();
        ips.sort();
        ips.dedup();
        let host_network = spec.host_network == Some(true);
        let cluster_first = matches!(spec.dns_policy.as_deref(), None | Some("ClusterFirst"));
        let own_searches = spec.dns_config.as_ref().and_then(|c| c.searches.as_ref()).is_some_and(|s| !s.is_empty());
        let plain_search = cluster_first && !host_network && !own_searches;
        (!ips.is_empty()).then_some(Pod { key, ips, host_network, plain_search })
    }
}

/// Incremental: what is known at any time depends only on the pods that exist, not on how they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    pods: HashMap<PodKey, Pod>,
    by_ip: HashMap<IpAddr, BTreeSet<PodKey>>,
}

impl Pods {
    pub fn apply(&mut self, pod: Pod) {
        self.remove(&pod.key);
        for ip in &pod.ips {
            self.by_ip.entry(*ip).or_default().insert(pod.key.clone());
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    pub fn remove(&mut self, key: &PodKey) {
        let Some(old) = self.pods.remove(key) else { return };
        for ip in &old.ips {
            if let Some(keys) = self.by_ip.get_mut(ip) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_ip.remove(ip);
                }
            }
        }
    }

    /// After a fresh list.
    pub fn retain(&mut self, keep: impl Fn(&PodKey) -> bool) {
        let gone: Vec<PodKey> = self.pods.keys().filter(|k| !keep(k)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    fn at(&self, ip: IpAddr) -> impl Iterator<Item = &Pod> {
        self.by_ip.get(&ip).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    pub(super) fn has(&self, ip: IpAddr, namespace: &[u8]) -> bool {
        self.at(ip).any(|p| p.key.0.as_bytes() == namespace)
    }

    /// The one pod that asks from this address.
    pub fn asking(&self, ip: IpAddr) -> Option<&Pod> {
        let mut all = self.at(ip);
        let first = all.next()?;
        (all.next().is_none() && !first.host_network).then_some(first)
    }

    pub fn get(&self, key: &PodKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

/// `10-244-0-7`, or an IPv6 address with dashes for colons.
pub(super) fn dashed_address(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    if !text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return None;
    }
    text.replace('-', ".").parse().map(IpAddr::V4).or_else(|_| text.replace('-', ":").parse().map(IpAddr::V6)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value, status: Value) -> Option<Pod> {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec, "status": status});
        Pod::from_api(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn which_pods_count() {
        let both =
            json!({"phase": "Running", "podIP": "10.244.0.1", "podIPs": [{"ip": "10.244.0.1"}, {"ip": "fd00::1"}]});
        assert_eq!(pod("a", json!({}), both.clone()).unwrap().ips.len(), 2);
        assert_eq!(pod("a", json!({}), json!({"phase": "Pending"})), None);
        assert_eq!(pod("a", json!({}), json!({"phase": "Succeeded", "podIP": "10.244.0.1"})), None);
        let plain = |spec: Value| pod("a", spec, both.clone()).unwrap().plain_search;
        assert!(plain(json!({})) && plain(json!({"dnsPolicy": "ClusterFirst"})));
        assert!(!plain(json!({"dnsPolicy": "None"})) && !plain(json!({"dnsPolicy": "Default"})));
        assert!(!plain(json!({"hostNetwork": true})));
        assert!(!plain(json!({"dnsConfig": {"searches": ["example.org"]}})));
        assert!(plain(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}})));
    }

    #[test]
    fn one_address_one_pod() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let at = |address: &str| json!({"phase": "Running", "podIP": address});
        let mut pods = Pods::default();
        pods.apply(pod("a", json!({}), at("10.244.0.1")).unwrap());
        pods.apply(pod("b", json!({"hostNetwork": true}), at("172.30.0.11")).unwrap());
        assert_eq!(&*pods.asking(ip("10.244.0.1")).unwrap().key.1, "a");
        assert_eq!(pods.asking(ip("172.30.0.11")), None, "a node's address is everybody's");
        pods.apply(pod("c", json!({}), at("10.244.0.1")).unwrap());
        assert_eq!(pods.asking(ip("10.244.0.1")), None, "two pods, as while one follows the other");
        pods.apply(pod("a", json!({}), at("10.244.0.2")).unwrap());
        assert_eq!(&*pods.asking(ip("10.244.0.1")).unwrap().key.1, "c");
        assert!(pods.has(ip("10.244.0.2"), b"shop") && !pods.has(ip("10.244.0.2"), b"default"));
        pods.retain(|key| &*key.1 == "b");
        assert_eq!((pods.len(), pods.by_ip.len()), (1, 1));
    }

    #[test]
    fn addresses_with_dashes() {
        let read = |text: &str| dashed_address(text.as_bytes()).map(|ip| ip.to_string());
        assert_eq!(read("10-244-0-7").as_deref(), Some("10.244.0.7"));
        assert_eq!(read("fd00-244--7").as_deref(), Some("fd00:244::7"));
        assert_eq!(read("fd00-244--0").as_deref(), Some("fd00:244::"));
        for wrong in ["10-244-0", "10-244-0-256", "10.244.0.7", "web", "", "-", "fd00:244::7"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
