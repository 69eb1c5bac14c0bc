//! Every cause, from evidence made by hand: what is wrong in it must be named, and nothing else.

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, from_value, json};
use skiff_nft::trace::{Fate, Outcome};
use skiff_services::model::Protocol;

use super::{
    super::{
        evidence::{Answered, Cluster, Lookup, Socket},
        question,
    },
    *,
};

const POD_IP: &str = "10.244.0.5";
const CLUSTER_IP: &str = "10.96.1.1";

fn client(kind: Kind) -> Client {
    Client {
        kind,
        name: if kind == Kind::Pod { "client".into() } else { "a".into() },
        namespace: "default".into(),
        ip: "10.244.0.2".parse().unwrap(),
        node: "a".into(),
        host_network: false,
        dns_policy: "ClusterFirst".into(),
    }
}

fn pod(name: &str, ip: &str, more: Value) -> Value {
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}, "uid": name},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    skiff_api::patch::merge(&pod, &more).unwrap()
}

fn service(more: Value) -> Value {
    let service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP], "selector": {"app": "web"}, "type": "ClusterIP",
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    });
    skiff_api::patch::merge(&service, &more).unwrap()
}

fn node(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
}

fn outcome(fates: &[(Fate, f64)]) -> Outcome {
    Outcome { fates: fates.iter().cloned().collect(), remembered: vec![] }
}

fn to(endpoint: &str) -> Fate {
    Fate::To { endpoint: endpoint.parse().unwrap(), masqueraded: false }
}

fn sends() -> Outcome {
    outcome(&[(to("10.244.0.5:8080"), 1.0)])
}

fn refuses() -> Outcome {
    outcome(&[(Fate::Reset, 1.0)])
}

fn found(ip: &str) -> Answered {
    Answered::Found { aliases: vec![], addresses: vec![ip.parse().unwrap()] }
}

fn socket(at: &str) -> Socket {
    Socket { protocol: Protocol::Tcp, at: at.parse().unwrap() }
}

/// A Service of one pod that works, asked for by its name.
struct Scene {
    evidence: Evidence,
}

impl Scene {
    fn new() -> Self {
        Scene::asking("http://web", Kind::Pod)
    }

    fn asking(target: &str, kind: Kind) -> Self {
        let question = question::parse(&[target.into()], None, "default").unwrap();
        let full = "web.default.svc.cluster.local".to_owned();
        let lookup = Lookup {
            server: "10.96.0.10".into(),
            asked: vec![(full, found(CLUSTER_IP))],
            zone: Some(found(CLUSTER_IP)),
        };
        let evidence = Evidence {
            question,
            domain: "cluster.local".into(),
            dns: "10.96.0.10".parse().unwrap(),
            client: client(kind),
            cluster: Cluster::default(),
            lookup: Some(lookup),
            attempts: vec![],
            sockets: [("default/web-1".to_owned(), Ok(vec![socket("0.0.0.0:8080")]))].into(),
        };
        let scene = Scene { evidence }.services(&[service(json!({}))]).pods(&[pod("web-1", POD_IP, json!({}))]);
        scene.nodes(&[node("a", "172.30.0.11"), node("b", "172.30.0.12")]).attempt("10.96.1.1:80", sends())
    }

    fn services(mut self, all: &[Value]) -> Self {
        self.evidence.cluster.services = all.iter().map(|s| from_value(s.clone()).unwrap()).collect();
        self
    }

    fn pods(mut self, all: &[Value]) -> Self {
        self.evidence.cluster.pods = all.iter().map(|p| from_value(p.clone()).unwrap()).collect();
        self
    }

    fn nodes(mut self, all: &[Value]) -> Self {
        self.evidence.cluster.nodes = all.iter().map(|n| from_value(n.clone()).unwrap()).collect();
        self
    }

    fn events(mut self, all: &[Value]) -> Self {
        self.evidence.cluster.events = all.iter().map(|e| from_value(e.clone()).unwrap()).collect();
        self
    }

    /// In place of any other attempt.
    fn attempt(mut self, to: &str, outcome: Outcome) -> Self {
        let connected = match outcome.endpoints().is_empty() {
            true => Connected::Refused,
            false => Connected::After(Duration::from_millis(1)),
        };
        let way = Way { from: self.evidence.client.clone(), to: to.parse().unwrap(), protocol: Protocol::Tcp };
        let kernel = Ok(Some(outcome.clone()));
        self.evidence.attempts =
            vec![Attempt { way, kernel, wanted: outcome, element: Some("element".into()), connected: Ok(connected) }];
        self
    }

    fn changed(mut self, change: impl FnOnce(&mut Evidence)) -> Self {
        change(&mut self.evidence);
        self
    }

    fn unanswered(self) -> Self {
        self.changed(|e| {
            e.attempts.clear();
            e.lookup = Some(Lookup {
                server: "10.96.0.10".into(),
                asked: vec![("web.default.svc.cluster.local".into(), Answered::NoSuchName)],
                zone: Some(Answered::NoSuchName),
            });
        })
    }

    fn without_endpoints(self) -> Self {
        self.attempt("10.96.1.1:80", refuses())
    }
}

fn not_ready(more: Value) -> Value {
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    pod("web-1", POD_IP, skiff_api::patch::merge(&status, &more).unwrap())
}

fn event(message: &str, at: &str) -> Value {
    json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "web-1", "namespace": "default"},
        "reason": "Unhealthy", "message": message, "lastTimestamp": at})
}

#[track_caller]
fn check(scene: Scene, place: Place, cause: &str, words: &[&str]) {
    let report = diagnose(&scene.evidence);
    let broken = report.broken.clone().unwrap_or_else(|| panic!("{cause}: nothing is broken: {report:#?}"));
    assert_eq!((broken.hop, broken.cause), (place, cause), "{broken:#?}");
    assert!(!report.works && !broken.mend.is_empty(), "{cause} has no remedy");
    broken.mend.iter().for_each(|m| exists(m));
    let text = super::super::report::render(&report, false);
    for word in words {
        assert!(text.contains(word), "{cause} does not say {word:?}:\n{text}");
    }
}

/// Advice that is a command is one that there is, for stock kubectl users and for those of the built-in one.
fn exists(mend: &str) {
    let command = mend.split("    #").next().unwrap_or_default().split(" | ").next().unwrap_or_default();
    let words: Vec<String> =
        command.trim_start_matches("sudo ").split(' ').map(|w| w.trim_matches('\'').into()).collect();
    match words[0].as_str() {
        "kubectl" => assert!(crate::kubectl::knows(&words[1..]), "no such command: {mend}"),
        "skiff" => {
            let read = <crate::cli::Cli as clap::Parser>::try_parse_from(&words);
            assert!(read.is_ok(), "{mend}: {}", read.err().map(|e| e.to_string()).unwrap_or_default());
        }
        _ => {}
    }
}

#[test]
fn what_works_works() {
    for scene in [Scene::new(), Scene::asking("svc/web", Kind::Node)] {
        let report = diagnose(&scene.evidence);
        assert!(report.works && report.broken.is_none(), "{report:#?}");
        let places: Vec<Place> = report.hops.iter().chain(&report.ways[0].hops).map(|h| h.hop).collect();
        use Place::{Answer, Endpoints, Listener, Name, Rules, Service};
        assert_eq!(places, [Name, Service, Rules, Endpoints, Listener, Answer]);
    }
}

#[test]
fn what_cannot_be_seen_is_said_and_not_held_against_anybody() {
    let blind = || Err("it needs root".to_owned());
    let scene = Scene::new().changed(|e| {
        e.attempts[0].kernel = Err("it needs root".into());
        e.attempts[0].connected = Err("it needs root".into());
        e.sockets.insert("default/web-1".into(), blind());
    });
    let report = diagnose(&scene.evidence);
    assert!(report.works, "{report:#?}");
    let unknown: Vec<Place> = report.ways[0].hops.iter().filter(|h| h.state == State::Unknown).map(|h| h.hop).collect();
    assert_eq!(unknown, [Place::Rules, Place::Listener, Place::Answer]);
}

#[test]
fn names() {
    let place = Place::Name;
    let elsewhere = service(json!({"metadata": {"namespace": "shop"}}));
    let alike = service(json!({"metadata": {"name": "wbe"}}));
    check(Scene::new().services(&[elsewhere]).unanswered(), place, "noSuchService", &["use web.shop"]);
    check(Scene::new().services(&[alike]).unanswered(), place, "noSuchService", &["use wbe"]);
    let only_pods = Scene::new().services(&[]).unanswered();
    check(only_pods, place, "noSuchService", &["expose deployment web"]);
    let outside_dead = Scene::new().services(&[]).unanswered().changed(|e| {
        let lookup = e.lookup.as_mut().unwrap();
        lookup.asked.push(("web".into(), Answered::Failed("ServFail".into())));
        lookup.zone = None;
    });
    check(outside_dead, place, "noSuchService", &[]);
    let silent = Scene::new().changed(|e| {
        e.lookup.as_mut().unwrap().asked[0].1 = Answered::Failed("no answer within 5 s".into());
    });
    check(silent, place, "dnsSilent", &["no answer within 5 s", "dig @10.96.0.10"]);
    let behind = Scene::new().changed(|e| e.lookup.as_mut().unwrap().zone = Some(found("10.96.1.9")));
    check(behind, place, "dnsBehind", &["10.96.1.9"]);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "db.example.com", "clusterIP": null,
        "clusterIPs": null}});
    check(
        Scene::new().services(&[service(external)]).unanswered(),
        place,
        "externalNameUnresolved",
        &["db.example.com"],
    );
    let other_server = Scene::new().unanswered().changed(|e| {
        e.client.dns_policy = "Default".into();
        let lookup = e.lookup.as_mut().unwrap();
        (lookup.server, lookup.zone) = ("192.0.2.53".into(), None);
    });
    check(other_server, place, "podAsksElsewhere", &["192.0.2.53", "Default"]);
    let two_names = Scene::asking("http://web.default.svc.other", Kind::Pod).unanswered();
    check(two_names.changed(|e| e.lookup.as_mut().unwrap().zone = None), place, "wrongName", &["web.default"]);
    let on_node = Scene::asking("http://web", Kind::Node).changed(|e| {
        e.lookup = None;
        e.attempts.clear();
    });
    check(on_node, place, "namesAreForPods", &["tcp://10.96.1.1:80"]);
}

#[test]
fn services_and_ports() {
    let place = Place::Service;
    check(Scene::new().attempt("10.96.1.1:8080", refuses()), place, "noSuchPort", &["targetPort", "web:80"]);
    check(Scene::new().attempt("10.96.1.1:99", refuses()), place, "noSuchPort", &["80/TCP"]);
    let node_port = service(json!({"spec": {"ports": [{"port": 80, "nodePort": 31000}]}}));
    let scene = Scene::new().services(&[node_port]);
    check(scene.attempt("10.96.1.1:31000", refuses()), place, "noSuchPort", &["NodePort"]);
    let udp = Scene::new().changed(|e| e.attempts[0].way.protocol = Protocol::Udp);
    check(udp, place, "wrongProtocol", &["80/TCP speaks TCP", "\"protocol\":\"UDP\""]);
    let at_node = |to: &str| {
        let node_port = service(json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 31000}]}}));
        Scene::asking("http://172.30.0.11:80", Kind::Outside)
            .services(&[node_port])
            .attempt(to, outcome(&[(Fate::Untouched, 1.0)]))
    };
    check(at_node("172.30.0.11:80"), place, "noSuchNodePort", &["connect to 172.30.0.11:31000"]);
    check(at_node("172.30.0.11:31009"), place, "noSuchNodePort", &["31000/TCP of default/web"]);
    let nobody = Scene::asking("10.96.7.7:80", Kind::Pod);
    check(nobody.attempt("10.96.7.7:80", refuses()), place, "nobodyHasTheAddress", &["10.96.7.7"]);
    let outside = Scene::asking("192.0.2.9:80", Kind::Pod);
    check(outside.attempt("192.0.2.9:80", refuses()), place, "outside", &["192.0.2.9"]);
    let headless = service(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    let scene = Scene::new().services(&[headless]).attempt("10.244.0.5:80", outcome(&[(Fate::Untouched, 1.0)]));
    check(scene, place, "headlessTranslatesNoPorts", &["web:8080"]);
    let no_ports = Scene::new().services(&[service(json!({"spec": {"ports": null}}))]);
    check(no_ports.changed(|e| e.attempts.clear()), place, "noPorts", &[]);
    let portless = Scene::asking("192.0.2.9", Kind::Pod).changed(|e| e.attempts.clear());
    check(portless, place, "portMissing", &["tcp://192.0.2.9:PORT"]);
}

#[test]
fn rules_of_the_kernel() {
    let place = Place::Rules;
    let old = Scene::new().changed(|e| e.attempts[0].kernel = Ok(Some(outcome(&[(to("10.244.0.9:8080"), 1.0)]))));
    check(old, place, "rulesBehind", &["10.244.0.9:8080", "10.244.0.5:8080", "healthz"]);
    let unequal = Scene::new().changed(|e| {
        e.attempts[0].wanted = outcome(&[(to("10.244.0.5:8080"), 0.5), (to("10.244.0.6:8080"), 0.5)]);
    });
    check(unequal, place, "rulesBehind", &["10.244.0.6:8080"]);
    check(Scene::new().changed(|e| e.attempts[0].kernel = Ok(None)), place, "noRules", &["node a"]);
}

#[test]
fn endpoints_that_are_not_there() {
    let place = Place::Endpoints;
    let none = |pods: &[Value]| Scene::new().pods(pods).without_endpoints();
    let other = pod("web-1", POD_IP, json!({"metadata": {"labels": {"app": "webs"}}}));
    check(
        none(&[other]),
        place,
        "selectorMatchesNothing",
        &["1 pod carries app=webs", r#"{"spec":{"selector":{"app":"webs"}}}"#],
    );
    let elsewhere = pod("web-1", POD_IP, json!({"metadata": {"namespace": "shop"}}));
    check(none(&[elsewhere]), place, "selectorMatchesNothing", &["shop/web-1"]);
    check(none(&[]), place, "selectorMatchesNothing", &["no pods in namespace default"]);
    let over = pod("web-1", POD_IP, json!({"status": {"phase": "Succeeded"}}));
    let ending = pod("web-2", POD_IP, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    check(none(&[over, ending]), place, "podsEnded", &["succeeded", "ending"]);
    check(none(&[pod("web-1", POD_IP, json!({}))]), place, "endpointsBehind", &["web-1"]);
    let named = service(json!({"spec": {"ports": [{"port": 80, "targetPort": "htpp", "protocol": "TCP"}]}}));
    check(
        Scene::new().services(&[named]).without_endpoints(),
        place,
        "targetPortNotFound",
        &["http (8080/TCP)", "\"value\":\"http\""],
    );
    let headless = service(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    let scene = Scene::new().services(&[headless]).pods(&[not_ready(json!({}))]).unanswered();
    check(scene, place, "noneReady", &["the only pod"]);
    let bare = service(json!({"spec": {"selector": null}}));
    check(
        Scene::new().services(std::slice::from_ref(&bare)).without_endpoints(),
        place,
        "noSelector",
        &["EndpointSlice"],
    );
    let slice = |port: &str, ready: bool| {
        from_value(
            json!({"metadata": {"name": "s", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": port, "port": 8080}],
            "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": ready}}]}),
        )
        .unwrap()
    };
    let by_hand = |port, ready| {
        let scene = Scene::new().services(std::slice::from_ref(&bare)).without_endpoints();
        scene.changed(|e| e.cluster.slices = vec![slice(port, ready)])
    };
    check(by_hand("http", true), place, "slicePortNotFound", &["\"http\""]);
    check(by_hand("", false), place, "noneReady", &["EndpointSlices"]);
}

#[test]
fn pods_that_are_not_ready() {
    let why = |pod: Value, words: &[&str]| {
        check(Scene::new().pods(&[pod]).without_endpoints(), Place::Endpoints, "noneReady", words)
    };
    let waiting = |reason: &str| {
        not_ready(json!({"status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "because"}}}]}}))
    };
    why(waiting("ImagePullBackOff"), &["ImagePullBackOff: because", "skiff image load"]);
    why(waiting("CreateContainerConfigError"), &["CreateContainerConfigError: because"]);
    let unscheduled = json!({"status": {"phase": "Pending", "conditions": [
        {"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}});
    why(pod("web-1", POD_IP, unscheduled), &["no node takes it: 0/1 nodes"]);
    let gate = json!({"spec": {"readinessGates": [{"conditionType": "example.com/ok"}]}});
    why(not_ready(gate), &["example.com/ok"]);
    let events = [
        event("Readiness probe failed: old", "2026-01-01T00:00:00Z"),
        event("Readiness probe failed: 503", "2026-01-01T00:01:00Z"),
    ];
    let scene = Scene::new().pods(&[not_ready(json!({}))]).events(&events).without_endpoints();
    check(scene, Place::Endpoints, "noneReady", &["Readiness probe failed: 503", "kubectl logs web-1"]);
    let several: Vec<Value> = (0..5)
        .map(|n| {
            let mut pod = not_ready(json!({}));
            pod["metadata"]["name"] = format!("web-{n}").into();
            pod
        })
        .collect();
    check(
        Scene::new().pods(&several).without_endpoints(),
        Place::Endpoints,
        "noneReady",
        &["none of the 5 pods", "and 2 more"],
    );
}

#[test]
fn endpoints_that_are_not_for_this_client() {
    let place = Place::Endpoints;
    let drops = || outcome(&[(Fate::Drop, 1.0)]);
    let local = service(json!({"spec": {"internalTrafficPolicy": "Local"}}));
    let far = pod("web-1", POD_IP, json!({"spec": {"nodeName": "b"}}));
    let scene = Scene::new().services(&[local]).pods(std::slice::from_ref(&far)).attempt("10.96.1.1:80", drops());
    check(scene, place, "noLocalEndpoints", &["internalTrafficPolicy", "node b"]);
    let local = service(json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": 31000}]}}));
    let scene = Scene::asking("172.30.0.11:31000", Kind::Outside).services(&[local]).pods(&[far]);
    check(scene.attempt("172.30.0.11:31000", drops()), place, "noLocalEndpoints", &["172.30.0.12:31000"]);
    let guarded = service(json!({"spec": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "172.31.255.1"}]}}}));
    let scene = Scene::asking("172.31.255.1:80", Kind::Outside).services(&[guarded]);
    let right = "{\"spec\":{\"loadBalancerSourceRanges\":[\"192.0.2.0/24\",\"10.244.0.2/32\"]}}";
    let words = ["192.0.2.0/24", "10.244.0.2", right];
    check(scene.attempt("172.31.255.1:80", drops()), place, "sourceNotAdmitted", &words);
}

#[test]
fn listeners_and_answers() {
    let listening = |sockets: &[&str]| {
        let sockets: Vec<Socket> = sockets.iter().map(|s| socket(s)).collect();
        Scene::new().changed(|e| {
            e.sockets.insert("default/web-1".into(), Ok(sockets));
        })
    };
    let place = Place::Listener;
    check(listening(&[]), place, "nothingListens", &["Nothing at all", "kubectl logs web-1"]);
    check(listening(&["0.0.0.0:9999"]), place, "nothingListens", &["9999/TCP on every address", "\"value\":9999"]);
    check(listening(&["0.0.0.0:9999", "[::]:7777"]), place, "nothingListens", &["7777/TCP", "kubectl logs web-1"]);
    check(listening(&["127.0.0.1:8080"]), place, "listensElsewhere", &["127.0.0.1"]);
    check(listening(&["[::1]:8080"]), place, "listensElsewhere", &["::1"]);
    for open in ["[::]:8080", "10.244.0.5:8080", "[::ffff:10.244.0.5]:8080"] {
        assert!(diagnose(&listening(&[open]).evidence).works, "{open}");
    }
    for (failed, word) in [(Connected::Refused, "refused"), (Connected::TimedOut, "no answer")] {
        let scene = Scene::new().changed(|e| e.attempts[0].connected = Ok(failed));
        check(scene, Place::Answer, "noAnswer", &[word]);
    }
}

#[test]
fn names_of_services() {
    for (text, want) in [
        ("web", "default/web"),
        ("web.shop", "shop/web"),
        ("web.shop.svc", "shop/web"),
        ("web.shop.svc.cluster.local.", "shop/web"),
        ("web-0.web.shop.svc.cluster.local", "shop/web"),
        ("web.svc", "default/web"),
        ("www.example.com", "example/www"),
    ] {
        let (name, namespace) = service_of_name(text, "cluster.local", "default");
        assert_eq!(format!("{namespace}/{name}"), want, "{text}");
    }
    let ip: IpAddr = POD_IP.parse().unwrap();
    assert!(pod_at(&Scene::new().evidence.cluster, ip).is_some());
}
