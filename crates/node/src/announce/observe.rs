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
use skiff_services::model::{LABEL_SERVICE_NAME, Slice, TrafficPolicy};

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

/// The Service's name and the nodes with a ready endpoint.
type Homes = (String, BTreeSet<String>);

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
            let of_service = |(at, home): &(&Key, &Homes)| at.0 == *namespace && home.0 == *name;
            self.slices.objects.iter().filter(of_service).flat_map(|(_, home)| home.1.clone()).collect()
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
    let ready = slice.endpoints.iter().filter(|e| e.ready);
    Some((service, ready.filter_map(|e| e.node.as_deref().map(str::to_owned)).collect()))
}
