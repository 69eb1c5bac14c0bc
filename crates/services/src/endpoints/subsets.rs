//! The Endpoints object of a Service.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    ANNOTATION_OVER_CAPACITY, ENDPOINTS_CONTROLLER, LABEL_ENDPOINTS_MANAGED_BY, addresses, candidates, hostname,
    is_ready, is_terminating, labels, protocol, service_ports, target, target_port,
};
use crate::model::ANNOTATION_TRIGGER_TIME;

/// So many addresses fit into one Endpoints object.
const CAPACITY: usize = 1000;

/// The Endpoints object that should be written, or None when the existing one is right. `trigger` is when the change
/// that causes this happened, as far as that is known.
pub fn plan<P: AsRef<Pod>>(
    service: &Service,
    pods: &[P],
    existing: Option<&Endpoints>,
    trigger: Option<String>,
) -> Option<Endpoints> {
    let (subsets, truncated) = truncate(subsets(service, pods));
    let labels = labels(service, (LABEL_ENDPOINTS_MANAGED_BY, ENDPOINTS_CONTROLLER));
    let mut annotations = existing.and_then(|e| e.metadata.annotations.clone()).unwrap_or_default();
    annotations.remove(ANNOTATION_OVER_CAPACITY);
    if truncated {
        annotations.insert(ANNOTATION_OVER_CAPACITY.into(), "truncated".into());
    }
    if let Some(old) = existing
        && old.subsets.as_deref().unwrap_or_default() == subsets
        && old.metadata.labels.as_ref() == Some(&labels)
        && old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(ANNOTATION_OVER_CAPACITY)) == truncated
    {
        return None;
    }
    match trigger {
        Some(time) => annotations.insert(ANNOTATION_TRIGGER_TIME.into(), time),
        None => annotations.remove(ANNOTATION_TRIGGER_TIME),
    };
    let base = existing.map(|e| e.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..Default::default()
    });
    let metadata =
        ObjectMeta { labels: Some(labels), annotations: (!annotations.is_empty()).then_some(annotations), ..base };
    Some(Endpoints { metadata, subsets: (!subsets.is_empty()).then_some(subsets) })
}

/// One address as it stands in one subset; the order is that of the written object.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    ready: bool,
    address: EndpointAddress,
}

type Place = (IpAddr, String, bool);

/// Groups ports that have the same addresses behind them, as clients of Endpoints expect.
fn subsets<P: AsRef<Pod>>(service: &Service, pods: &[P]) -> Vec<EndpointSubset> {
    let mut by_port: BTreeMap<PortKey, BTreeSet<Place>> = BTreeMap::new();
    let mut entries: BTreeMap<Place, Entry> = BTreeMap::new();
    for pod in candidates(pods).filter(|pod| !is_terminating(pod)) {
        let Some((ip, entry)) = entry(service, pod) else { continue };
        let place = (ip, pod.metadata.uid.clone().unwrap_or_default(), entry.ready);
        for port in pod_ports(service, pod) {
            by_port.entry(port).or_default().insert(place.clone());
        }
        entries.insert(place, entry);
    }
    let mut groups: BTreeMap<BTreeSet<Place>, Vec<PortKey>> = BTreeMap::new();
    for (port, places) in by_port {
        groups.entry(places).or_default().push(port);
    }
    let mut subsets: Vec<_> = groups.into_iter().map(|(places, ports)| subset(&places, &ports, &entries)).collect();
    subsets.sort_by(by_ports);
    subsets
}

fn by_ports(a: &EndpointSubset, b: &EndpointSubset) -> Ordering {
    let key = |s: &EndpointSubset| {
        let ports = s.ports.as_deref().unwrap_or_default();
        ports.iter().map(|p| (p.name.clone(), p.port, p.protocol.clone())).collect::<Vec<_>>()
    };
    key(a).cmp(&key(b))
}

fn subset(places: &BTreeSet<Place>, ports: &[PortKey], entries: &BTreeMap<Place, Entry>) -> EndpointSubset {
    let of = |ready: bool| {
        let all = places.iter().filter_map(|p| entries.get(p)).filter(|e| e.ready == ready);
        let list: Vec<_> = all.map(|e| e.address.clone()).collect();
        (!list.is_empty()).then_some(list)
    };
    let ports: Vec<_> = ports.iter().filter_map(PortKey::to_api).collect();
    EndpointSubset { addresses: of(true), not_ready_addresses: of(false), ports: (!ports.is_empty()).then_some(ports) }
}

fn entry(service: &Service, pod: &Pod) -> Option<(IpAddr, Entry)> {
    let spec = service.spec.as_ref()?;
    let family = spec.ip_families.as_ref().and_then(|f| f.first());
    let wants_v6 = family.map(|f| f == "IPv6");
    let ip = addresses(pod).into_iter().find(|ip| wants_v6.is_none_or(|v6| ip.is_ipv6() == v6))?;
    let address = EndpointAddress {
        ip: ip.to_string(),
        hostname: hostname(pod, service),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(target(pod)),
    };
    Some((ip, Entry { ready: is_ready(pod) || spec.publish_not_ready_addresses == Some(true), address }))
}

/// A port in the order of the written object. No number: a headless Service without ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    name: Option<String>,
    number: Option<i32>,
    protocol: String,
    app_protocol: Option<String>,
}

impl PortKey {
    fn to_api(&self) -> Option<EndpointPort> {
        Some(EndpointPort {
            name: self.name.clone(),
            port: self.number?,
            protocol: Some(self.protocol.clone()),
            app_protocol: self.app_protocol.clone(),
        })
    }
}

fn pod_ports(service: &Service, pod: &Pod) -> Vec<PortKey> {
    let mut ports = service_ports(service).peekable();
    if ports.peek().is_none() {
        return vec![PortKey { name: None, number: None, protocol: String::new(), app_protocol: None }];
    }
    let known = ports.filter_map(|port| {
        Some(PortKey {
            name: port.name.clone().filter(|n| !n.is_empty()),
            number: Some(target_port(port, pod)?),
            protocol: protocol(port.protocol.as_deref()).into(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    known.collect()
}

/// Keeps at most [`CAPACITY`] addresses: ready ones first, each subset giving up its share. True when some had to go.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let waiting: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + waiting <= CAPACITY {
        return (subsets, false);
    }
    let keep_ready = ready.min(CAPACITY);
    share(subsets.iter_mut().map(|s| &mut s.addresses).collect(), ready, keep_ready);
    share(subsets.iter_mut().map(|s| &mut s.not_ready_addresses).collect(), waiting, CAPACITY - keep_ready);
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    (subsets, true)
}

fn share(mut lists: Vec<&mut Option<Vec<EndpointAddress>>>, total: usize, keep: usize) {
    let sizes: Vec<usize> = lists.iter().map(|l| l.as_ref().map_or(0, Vec::len)).collect();
    let mut kept: Vec<usize> = sizes.iter().map(|n| n * keep / total.max(1)).collect();
    let mut rest = keep.min(total) - kept.iter().sum::<usize>();
    for (kept, size) in kept.iter_mut().zip(&sizes) {
        let more = rest.min(size - *kept);
        *kept += more;
        rest -= more;
    }
    for (list, kept) in lists.iter_mut().zip(kept) {
        if let Some(addresses) = list.as_mut() {
            addresses.truncate(kept);
        }
        if kept == 0 {
            **list = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture::*, *};

    /// "ready|notReady:ports" of each subset.
    fn show(endpoints: &Endpoints) -> Vec<String> {
        let ips = |l: &Option<Vec<EndpointAddress>>| {
            l.iter().flatten().map(|a| a.ip.trim_start_matches("10.244.0.").to_string()).collect::<Vec<_>>().join(",")
        };
        let ports =
            |s: &EndpointSubset| s.ports.iter().flatten().map(|p| p.port.to_string()).collect::<Vec<_>>().join(",");
        let subsets = endpoints.subsets.iter().flatten();
        subsets.map(|s| format!("{}|{}:{}", ips(&s.addresses), ips(&s.not_ready_addresses), ports(s))).collect()
    }

    fn check(service: &Service, pods: Vec<Pod>, expect: &[&str]) {
        let pods: Vec<_> = pods.into_iter().map(std::sync::Arc::new).collect();
        let made = plan(service, &pods, None, None).expect("an object to create");
        assert_eq!(show(&made), expect);
        assert_eq!(plan(service, &pods, Some(&made), None), None, "planning again changes nothing");
    }

    #[test]
    fn table() {
        let web = service("web", &[("", "80")]);
        check(&web, vec![], &[]);
        check(&web, vec![pod(2).ready(), pod(1).ready()].into_iter().map(Into::into).collect(), &["1,2|:80"]);
        check(&web, vec![pod(1).ready().into(), pod(2).into()], &["1|2:80"]);
        check(&web, vec![pod(1).ready().terminating().into(), pod(2).ready().phase("Failed").into()], &[]);
        check(&web, vec![pod(1).ready().no_ip().into()], &[]);
    }

    #[test]
    fn named_ports_are_looked_up_in_each_pod() {
        let web = service("web", &[("http", "http"), ("metrics", "9000")]);
        let pods = vec![pod(1).ready().port("http", 8080).into(), pod(2).ready().port("http", 8081).into()];
        check(&web, pods, &["1|:8080", "2|:8081", "1,2|:9000"]);
        check(&web, vec![pod(1).ready().into()], &["1|:9000"]);
    }

    #[test]
    fn headless_without_ports_and_publishing_unready_pods() {
        let mut headless = service("db", &[]);
        let spec = headless.spec.get_or_insert_default();
        spec.cluster_ip = Some("None".into());
        spec.publish_not_ready_addresses = Some(true);
        check(&headless, vec![pod(1).into()], &["1|:"]);
        let pods = [std::sync::Arc::new(Pod::from(pod(1).hostname("a", "db")))];
        let made = plan(&headless, &pods, None, Some("2026-01-01T00:00:00Z".into())).unwrap();
        let address = &made.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap()[0];
        assert_eq!(address.hostname.as_deref(), Some("a"));
        assert!(made.metadata.labels.unwrap().contains_key(crate::model::LABEL_HEADLESS));
        assert_eq!(made.metadata.annotations.unwrap()[ANNOTATION_TRIGGER_TIME], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_thousand_addresses_fit_ready_ones_first() {
        let web = service("web", &[("", "80")]);
        let pods = (0..1200u32).map(|i| if i < 900 { pod(i).ready() } else { pod(i) });
        let pods: Vec<_> = pods.map(|p| std::sync::Arc::new(Pod::from(p))).collect();
        let made = plan(&web, &pods, None, None).unwrap();
        let subset = &made.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 900);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 100);
        assert_eq!(made.metadata.annotations.as_ref().unwrap()[ANNOTATION_OVER_CAPACITY], "truncated");
        assert_eq!(plan(&web, &pods, Some(&made), None), None);
        let fits = plan(&web, &pods[..10], Some(&made), None).unwrap();
        assert_eq!(fits.metadata.annotations, None);
    }

    #[test]
    fn labels_that_someone_changed_are_put_back() {
        let web = service("web", &[("", "80")]);
        let pods = [std::sync::Arc::new(Pod::from(pod(1).ready()))];
        let mut made = plan(&web, &pods, None, None).unwrap();
        made.metadata.labels.as_mut().unwrap().clear();
        made.metadata.resource_version = Some("7".into());
        let fixed = plan(&web, &pods, Some(&made), None).unwrap();
        assert_eq!(fixed.metadata.labels.unwrap()[LABEL_ENDPOINTS_MANAGED_BY], ENDPOINTS_CONTROLLER);
        assert_eq!(fixed.metadata.resource_version.as_deref(), Some("7"), "an update, refused when stale");
    }
}
