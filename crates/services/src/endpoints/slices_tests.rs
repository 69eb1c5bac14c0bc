use std::sync::Arc;

use super::{super::fixture, *};

fn nodes() -> Nodes {
    let zones = [("n".to_string(), Some("z1".to_string())), ("m".to_string(), None)].into();
    Nodes { zones, ..Nodes::default() }
}

/// A server that carries plans out.
#[derive(Default)]
struct Server {
    slices: Vec<EndpointSlice>,
    writes: usize,
    next: u32,
}

impl Server {
    fn sync(&mut self, service: &Service, pods: &[Arc<Pod>]) -> Plan {
        let existing: Vec<&EndpointSlice> = self.slices.iter().collect();
        let plan = plan(service, pods, &nodes(), &existing, Some("2026-01-01T00:00:00Z".into()));
        self.apply(plan.clone());
        plan
    }

    fn apply(&mut self, plan: Plan) {
        self.writes += plan.create.len() + plan.update.len() + plan.delete.len();
        self.slices.retain(|s| !plan.delete.contains(s.metadata.name.as_ref().unwrap()));
        for new in plan.update {
            let old =
                self.slices.iter_mut().find(|s| s.metadata.name == new.metadata.name).expect("updates what exists");
            *old = new;
        }
        for mut new in plan.create {
            self.next += 1;
            new.metadata.name = Some(format!("s{}", self.next));
            self.slices.push(new);
        }
    }

    /// "name/ports:ready,(serving),[neither]" of each slice.
    fn show(&self) -> Vec<String> {
        self.slices.iter().map(show).collect()
    }
}

fn show(slice: &EndpointSlice) -> String {
    let ports: Vec<_> = slice.ports.iter().flatten().map(|p| p.port.unwrap().to_string()).collect();
    let endpoints = slice.endpoints.iter().flatten().map(|e| {
        let ip = e.addresses[0].trim_start_matches("10.244.0.");
        match e.conditions.as_ref().unwrap() {
            EndpointConditions { ready: Some(true), .. } => ip.to_string(),
            EndpointConditions { serving: Some(true), .. } => format!("({ip})"),
            _ => format!("[{ip}]"),
        }
    });
    let endpoints: Vec<_> = endpoints.collect();
    format!("{}/{}:{}", slice.metadata.name.as_deref().unwrap_or(""), ports.join(","), endpoints.join(","))
}

fn ready(numbers: impl IntoIterator<Item = u32>) -> Vec<Arc<Pod>> {
    numbers.into_iter().map(|n| fixture::pod(n).ready().into()).collect()
}

#[test]
fn life_of_a_service() {
    let web = fixture::service("web", &[("", "80")]);
    let mut server = Server::default();
    server.sync(&web, &[]);
    assert_eq!(server.show(), ["s1/:"], "known, and nobody behind it");
    server.sync(&web, &ready([1, 2]));
    assert_eq!(server.show(), ["s1/80:1,2"], "the empty slice is used");
    let pods =
        vec![fixture::pod(1).ready().terminating().into(), fixture::pod(2).into(), fixture::pod(3).ready().into()];
    server.sync(&web, &pods);
    assert_eq!(server.show(), ["s1/80:(1),[2],3"]);
    let writes = server.writes;
    server.sync(&web, &pods);
    assert_eq!(server.writes, writes, "nothing changed, nothing written");
    server.sync(&web, &[]);
    assert_eq!(server.show(), ["s1/:"]);
}

#[test]
fn slices_are_filled_and_few_are_touched() {
    let web = fixture::service("web", &[("", "80")]);
    let mut server = Server::default();
    server.sync(&web, &ready(1..=250));
    let sizes = |s: &Server| s.slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect::<Vec<_>>();
    assert_eq!(sizes(&server), [100, 100, 50]);
    let plan = server.sync(&web, &ready(1..=251));
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    let plan = server.sync(&web, &ready((1..=251).filter(|n| n % 2 == 1)));
    assert_eq!(plan.create.len(), 0);
    let all: BTreeSet<_> = server.slices.iter().flat_map(|s| s.endpoints.iter().flatten()).map(id).collect();
    assert_eq!(all.len(), 126);
}

#[test]
fn pods_with_other_ports_stand_in_other_slices() {
    let web = fixture::service("web", &[("http", "http")]);
    let pods = [
        fixture::pod(1).ready().port("http", 80).into(),
        fixture::pod(2).ready().port("http", 8080).into(),
        fixture::pod(3).ready().into(),
    ];
    let mut server = Server::default();
    server.sync(&web, &pods);
    let mut shown = server.show();
    shown.sort();
    assert_eq!(shown, ["s1/:3", "s2/80:1", "s3/8080:2"]);
}

#[test]
fn what_users_change_is_put_back_and_what_is_ours_is_marked() {
    let web = fixture::service("web", &[("", "80")]);
    let mut server = Server::default();
    server.sync(&web, &ready([1]));
    let made = server.slices[0].clone();
    assert_eq!(made.metadata.labels.as_ref().unwrap()[LABEL_SERVICE_NAME], "web");
    assert_eq!(made.metadata.labels.as_ref().unwrap()[LABEL_SLICE_MANAGED_BY], SLICE_CONTROLLER);
    assert_eq!(made.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-web");
    assert_eq!(made.metadata.annotations.as_ref().unwrap()[ANNOTATION_TRIGGER_TIME], "2026-01-01T00:00:00Z");
    server.slices[0].metadata.labels.as_mut().unwrap().clear();
    server.slices[0].endpoints = None;
    server.sync(&web, &ready([1]));
    assert_eq!(server.slices[0], made);
}

#[test]
fn pods_of_unknown_nodes_wait_unless_the_service_publishes_everyone() {
    let mut web = fixture::service("web", &[("", "80")]);
    let pods: [Arc<Pod>; 2] =
        [fixture::pod(1).ready().node("elsewhere").into(), fixture::pod(2).ready().node("m").into()];
    let mut server = Server::default();
    assert!(server.sync(&web, &pods).node_missing);
    assert_eq!(server.show(), ["s1/80:2"]);
    web.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    assert!(!server.sync(&web, &pods).node_missing);
    assert_eq!(server.show(), ["s1/80:2,1"]);
}

#[test]
fn a_slice_for_each_family_as_long_as_the_service_has_it() {
    let mut web = fixture::service("web", &[("", "80")]);
    web.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".into(), "IPv4".into()]);
    let mut server = Server::default();
    server.sync(&web, &[]);
    let families = |s: &Server| s.slices.iter().map(|s| s.address_type.clone()).collect::<BTreeSet<_>>();
    assert_eq!((server.slices.len(), families(&server).len()), (2, 2), "a placeholder for each");
    let mut both: Pod = fixture::pod(1).ready().into();
    let ip = k8s_openapi::api::core::v1::PodIP { ip: "fd00::1".into() };
    both.status.as_mut().unwrap().pod_ips.as_mut().unwrap().push(ip);
    server.sync(&web, &[both.clone().into(), fixture::pod(2).ready().into()]);
    let ips = |family: &str| {
        let of_family = server.slices.iter().filter(|s| s.address_type == family);
        let endpoints = of_family.flat_map(|s| s.endpoints.iter().flatten());
        endpoints.map(|e| e.addresses[0].clone()).collect::<Vec<_>>()
    };
    assert_eq!((ips("IPv4").len(), ips("IPv6")), (2, vec!["fd00::1".to_string()]));
    web.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".into()]);
    server.sync(&web, &[both.into()]);
    assert_eq!(families(&server), ["IPv6".to_string()].into());
}

#[test]
fn a_pod_without_a_node_is_published_where_everyone_is() {
    let mut web = fixture::service("web", &[("", "80")]);
    let mut pod: Pod = fixture::pod(1).into();
    pod.spec.as_mut().unwrap().node_name = None;
    let pods: [Arc<Pod>; 1] = [pod.into()];
    assert!(plan(&web, &pods, &nodes(), &[], None).node_missing);
    web.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let made = plan(&web, &pods, &nodes(), &[], None);
    let endpoint = &made.create[0].endpoints.as_ref().unwrap()[0];
    assert_eq!((&endpoint.node_name, &endpoint.zone), (&None, &None));
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let mut web = fixture::service("web", &[("", "80")]);
    let zone = |web: &Service| {
        let made = plan(web, &ready([1]), &nodes(), &[], None);
        made.create[0].endpoints.as_ref().unwrap()[0].hints.clone()
    };
    assert_eq!(zone(&web), None);
    for near in ["PreferClose", "PreferSameZone"] {
        web.spec.as_mut().unwrap().traffic_distribution = Some(near.into());
        let hints = zone(&web).unwrap();
        assert_eq!((hints.for_zones.unwrap()[0].name.as_str(), hints.for_nodes), ("z1", None), "{near}");
    }
    let unready = plan(&web, &[Arc::new(fixture::pod(1).into())], &nodes(), &[], None);
    assert_eq!(unready.create[0].endpoints.as_ref().unwrap()[0].hints, None, "only who is ready is recommended");
    web.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameNode".into());
    let hints = zone(&web).unwrap();
    assert_eq!(hints.for_zones.unwrap()[0].name, "z1");
    assert_eq!(hints.for_nodes.unwrap()[0].name, "n");
}

#[test]
fn hints_by_the_zones_processors_go_before_the_traffic_distribution() {
    let zones: BTreeMap<_, _> = ["a", "b"].map(|z| (z.to_string(), Some(format!("zone-{z}")))).into();
    let mut nodes = Nodes { zones, capacity: Capacity::of([(Some("zone-a"), 2000), (Some("zone-b"), 2000)]) };
    let mut web = fixture::service("web", &[("", "80")]);
    web.metadata.annotations = Some([("service.kubernetes.io/topology-mode".to_string(), "Auto".to_string())].into());
    web.spec.as_mut().unwrap().traffic_distribution = Some("PreferClose".into());
    let pod = |n: u32| -> Arc<Pod> { fixture::pod(n).ready().node(if n < 4 { "a" } else { "b" }).into() };
    let mut pods: Vec<Arc<Pod>> = [1, 2, 3, 4].map(pod).into();
    pods.push(fixture::pod(5).node("a").into());
    let hints = |plan: &Plan| -> Vec<String> {
        let slices = plan.create.iter().chain(&plan.update).flat_map(|s| s.endpoints.iter().flatten());
        let zone = |e: &Endpoint| Some(e.hints.as_ref()?.for_zones.as_ref()?[0].name.clone());
        slices.map(|e| zone(e).unwrap_or_default()).collect()
    };
    let made = plan(&web, &pods, &nodes, &[], None);
    assert_eq!(hints(&made), ["zone-a", "zone-a", "zone-b", "zone-b", ""]);
    assert_eq!(made.topology, [("IPv4", Ok(()))].into());
    let again = plan(&web, &pods, &nodes, &[&made.create[0]], None);
    assert!(again.update.is_empty() && again.create.is_empty(), "{again:?}");
    nodes.capacity = Capacity::of([(Some("zone-a"), 2000)]);
    let without = plan(&web, &pods, &nodes, &[&made.create[0]], None);
    assert_eq!(hints(&without), [""; 5]);
    assert_eq!(without.topology, [("IPv4", Err(Unable::OneZone))].into());
}

/// Whatever is there before, one plan leads to the wanted endpoints, each once, and a second plan does nothing.
#[test]
fn from_any_start_one_plan_is_enough() {
    let mut seed = 7u32;
    let mut random = |n: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % n
    };
    let web = fixture::service("web", &[("http", "http")]);
    for _ in 0..60 {
        let mut server = Server::default();
        let mut pods: Vec<Arc<Pod>> = vec![];
        for _ in 0..3 {
            let count = random(260);
            let numbers: Vec<u32> = (0..count).map(|_| random(400)).collect();
            let numbers: BTreeSet<u32> = numbers.into_iter().collect();
            pods = numbers.iter().map(|n| fixture::pod(*n).ready().port("http", 80 + (n % 2) as i32).into()).collect();
            server.sync(&web, &pods);
            // Somebody copies a slice: its endpoints stand twice now.
            if let Some(mut copy) = server.slices.first().cloned() {
                copy.metadata.name = Some(format!("copy{}", random(u32::MAX)));
                server.slices.push(copy);
            }
        }
        server.sync(&web, &pods);
        let ids: Vec<_> = server.slices.iter().flat_map(|s| s.endpoints.iter().flatten()).map(id).collect();
        assert_eq!(ids.len(), pods.len());
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), pods.len());
        assert!(server.slices.iter().all(|s| s.endpoints.as_ref().unwrap().len() <= CAPACITY));
        let writes = server.writes;
        server.sync(&web, &pods);
        assert_eq!(server.writes, writes);
    }
}
