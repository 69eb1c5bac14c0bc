//! What the API says about balancers and nodes. Of the Services only load balancers are watched, and slices only while a
//! balancer's policy is Local.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, ResourceExt};
use skiff_client::watch::{Config, Event, Watch};
use skiff_services::model::{Endpoint, LABEL_SERVICE_NAME, Slice, TrafficPolicy};

use super::choose::{Balancer, Cluster};

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The class by which a Service asks for the cluster's own balancer.
const CLASS: &str = "skiff/pool";

#[expect(clippy::large_enum_variant, reason = "one at a time, and straight into the view")]
pub(super) enum Seen {
    Service(Event<Service>),
    Node(Event<Node>),
    Slice(Event<EndpointSlice>),
}

pub(super) struct Watches {
    services: Watch<Service>,
    nodes: Watch<Node>,
    slices: Option<Watch<EndpointSlice>>,
}

impl Watches {
    pub(super) fn open(client: &Client) -> Self {
        let balancers = Config::default().fields("spec.type=LoadBalancer");
        Watches { services: Watch::all(client, balancers), nodes: Watch::all(client, Config::default()), slices: None }
    }

    /// Nothing is lost when the caller stops waiting.
    pub(super) async fn next(&mut self) -> Seen {
        let slices = async {
            match &mut self.slices {
                Some(slices) => slices.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = self.services.next() => Seen::Service(event),
            event = self.nodes.next() => Seen::Node(event),
            event = slices => Seen::Slice(event),
        }
    }

    pub(super) fn follow_slices(&mut self, client: &Client, needed: bool) {
        match (needed, &self.slices) {
            (true, None) => self.slices = Some(Watch::all(client, Config::default())),
            (false, Some(_)) => self.slices = None,
            _ => {}
        }
    }
}

/// Namespace and name.
type Key = (String, String);

fn key(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// One kind of object: a list that is being read replaces what there is when it is complete.
struct View<V> {
    objects: BTreeMap<Key, V>,
    fresh: BTreeMap<Key, V>,
    complete: bool,
}

impl<V> Default for View<V> {
    fn default() -> Self {
        View { objects: BTreeMap::new(), fresh: BTreeMap::new(), complete: false }
    }
}

impl<V> View<V> {
    fn take<K: ResourceExt>(&mut self, event: Event<K>, read: impl Fn(&K) -> Option<V>) {
        let put = |into: &mut BTreeMap<Key, V>, object: &K| match read(object) {
            Some(value) => drop(into.insert(key(object), value)),
            None => drop(into.remove(&key(object))),
        };
        match event {
            Event::Init => self.fresh.clear(),
            Event::InitApply(object) => put(&mut self.fresh, &object),
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.fresh);
                self.complete = true;
            }
            Event::Apply(object) => put(&mut self.objects, &object),
            Event::Delete(object) => drop(self.objects.remove(&key(&object))),
        }
    }
}

struct Known {
    ips: Vec<IpAddr>,
    local: bool,
}

/// Where a slice's endpoints are.
struct Homes {
    service: String,
    /// Nodes with a ready endpoint.
    ready: BTreeSet<String>,
    /// Nodes with one that still serves while it ends: the proxy uses it where none is ready.
    ending: BTreeSet<String>,
}

#[derive(Default)]
pub(super) struct Observed {
    services: View<Known>,
    /// By name: ready and not excluded.
    nodes: View<bool>,
    slices: View<Homes>,
}

impl Observed {
    pub(super) fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Service(event) => self.services.take(event, balancer),
            Seen::Node(event) => self.nodes.take(event, |node| Some(is_able(node))),
            Seen::Slice(event) => self.slices.take(event, homes),
        }
        if !self.needs_slices() {
            self.slices = View::default();
        }
    }

    /// Absence means something only after the lists.
    pub(super) fn is_complete(&self) -> bool {
        self.services.complete && self.nodes.complete && (self.slices.complete || !self.needs_slices())
    }

    pub(super) fn has_addresses(&self) -> bool {
        !self.services.objects.is_empty()
    }

    pub(super) fn needs_slices(&self) -> bool {
        self.services.objects.values().any(|s| s.local)
    }

    pub(super) fn other_nodes(&self, me: &str) -> bool {
        self.nodes.objects.keys().any(|(_, name)| name != me)
    }
}

impl Cluster for Observed {
    fn balancers(&self) -> Vec<Balancer> {
        let homes = |(namespace, name): &Key| {
            let of_service = |(at, home): &(&Key, &Homes)| at.0 == *namespace && home.service == *name;
            let slices = || self.slices.objects.iter().filter(of_service).map(|(_, home)| home);
            let ready: BTreeSet<String> = slices().flat_map(|home| home.ready.clone()).collect();
            match ready.is_empty() {
                true => slices().flat_map(|home| home.ending.clone()).collect(),
                false => ready,
            }
        };
        let balancer =
            |(key, known): (&Key, &Known)| Balancer { ips: known.ips.clone(), only: known.local.then(|| homes(key)) };
        self.services.objects.iter().map(balancer).collect()
    }

    fn nodes(&self) -> BTreeSet<&str> {
        self.nodes.objects.iter().filter(|(_, able)| **able).map(|((_, name), _)| name.as_str()).collect()
    }
}

/// None: another program's, or without an address.
fn balancer(service: &Service) -> Option<Known> {
    let class = service.spec.as_ref().and_then(|s| s.load_balancer_class.as_deref());
    let known = skiff_services::model::Service::from_api(service)?;
    let ours = class.is_none_or(|c| c == CLASS) && !known.load_balancer_ips.is_empty();
    ours.then(|| Known { ips: known.load_balancer_ips, local: known.external_policy == TrafficPolicy::Local })
}

fn is_able(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && !node.labels().contains_key(EXCLUDED) && node.metadata.deletion_timestamp.is_none()
}

fn homes(slice: &EndpointSlice) -> Option<Homes> {
    let service = slice.labels().get(LABEL_SERVICE_NAME)?.clone();
    let slice = Slice::from_api(slice)?;
    let nodes = |which: fn(&Endpoint) -> bool| {
        let endpoints = slice.endpoints.iter().filter(|e| which(e));
        endpoints.filter_map(|e| e.node.as_deref().map(str::to_owned)).collect()
    };
    Some(Homes { service, ready: nodes(|e| e.ready), ending: nodes(|e| e.serving && e.terminating) })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_local_balancer_is_where_its_endpoints_are_to_the_last() {
        let service = json!({"metadata": {"namespace": "default", "name": "web"},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.96.0.5", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        let slice = |endpoints: Value| {
            let slice = json!({"metadata": {"namespace": "default", "name": "web-1", "labels": {LABEL_SERVICE_NAME: "web"}},
                "addressType": "IPv4", "ports": [], "endpoints": endpoints});
            Seen::Slice(Event::Apply(serde_json::from_value(slice).unwrap()))
        };
        let endpoint = |node: &str, ready: bool, terminating: bool| {
            let conditions = json!({"ready": ready, "serving": true, "terminating": terminating});
            json!({"addresses": ["10.244.0.1"], "nodeName": node, "conditions": conditions})
        };
        let mut seen = Observed::default();
        seen.take(Seen::Service(Event::Apply(serde_json::from_value(service).unwrap())));
        let homes = |seen: &Observed| seen.balancers()[0].only.clone().unwrap().into_iter().collect::<Vec<_>>();
        seen.take(slice(json!([endpoint("a", true, false), endpoint("b", false, true)])));
        assert_eq!(homes(&seen), ["a"]);
        seen.take(slice(json!([endpoint("b", false, true)])));
        assert_eq!(homes(&seen), ["b"], "connections there still have an address");
        seen.take(slice(json!([])));
        assert_eq!(homes(&seen), [""; 0]);
    }
}
