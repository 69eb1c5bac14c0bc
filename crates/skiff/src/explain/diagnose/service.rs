//! From an address and a port to a Service.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use serde_json::json;
use skiff_services::model::Protocol;

use super::{
    super::{
        evidence::{Connected, Evidence, Way},
        objects::{
            Via, exact, id, is_external_name, is_headless, name, node_port_owner, owner, port_words, ports, protocol,
            target_words,
        },
        report::{Broken, Place},
    },
    Step, Subject, endpoints, kubectl_for, meant, patch, service_words,
};

/// What must be said before any single way: a headless Service without endpoints has none, and a way needs a port.
pub(super) fn of_all_ways(e: &Evidence) -> Option<Step> {
    if !e.attempts.is_empty() {
        return None;
    }
    match meant(e) {
        Some(service) if is_headless(service) => Some(endpoints::none(e, service, ports(service).first())),
        Some(service) if is_external_name(service) => {
            Some(Step::good(Place::Service, [format!("{} is only another name", service_words(service))]))
        }
        Some(service) => {
            let broken = Broken::new(Place::Service, "noPorts", format!("{} has no ports.", service_words(service)))
                .mend(
                    patch(service, &json!({"ports": [{"port": 80}]}))
                        + "    # with a targetPort, where pods listen on another",
                );
            Some(Step::broken([], broken))
        }
        None => {
            let broken = Broken::new(Place::Service, "portMissing", "a connection needs a port.")
                .mend(format!("skiff explain {}:PORT", e.question.target));
            Some(Step::broken([], broken))
        }
    }
}

pub(super) fn hop<'a>(e: &'a Evidence, way: &Way) -> (Step, Subject<'a>) {
    let (ip, port) = (way.to.ip(), way.to.port());
    if let Some((service, via)) = owner(&e.cluster, ip) {
        return of_service(service, via, way);
    }
    if let Some(pod) = e.cluster.pod_at(ip) {
        let step = match headless_port(e, port) {
            Some(step) => step,
            None => Step::good(Place::Service, [pod_words(e, &id(&pod.metadata))]),
        };
        return (step, Subject::Pod(pod));
    }
    if let Some(node) = e.cluster.node_at(ip) {
        return match node_port_owner(&e.cluster, port, way.protocol) {
            Some((service, port)) => {
                (found(service, port, Via::NodePort), Subject::Service(service, port, Via::NodePort))
            }
            None => (own_port(e, way, name(&node.metadata)), Subject::Other),
        };
    }
    (nobody(e, way), Subject::Other)
}

fn pod_words(e: &Evidence, pod: &str) -> String {
    match meant(e) {
        Some(service) if is_headless(service) => {
            format!("{} is headless: its name leads straight to pod {pod}", service_words(service))
        }
        _ => format!("no Service: the address is pod {pod}'s own"),
    }
}

/// A headless Service translates no ports: whoever connects to the Service's port finds nobody there.
fn headless_port(e: &Evidence, wanted: u16) -> Option<Step> {
    let service = meant(e).filter(|s| is_headless(s))?;
    let port = ports(service).iter().find(|p| p.port == i32::from(wanted))?;
    let target = target_words(port);
    if target == wanted.to_string() || port.target_port.is_none() {
        return None;
    }
    let own = name(&service.metadata);
    let broken = Broken::new(
        Place::Service,
        "headlessTranslatesNoPorts",
        format!(
            "{} is headless, so nothing turns its port {wanted} into the pods' port {target}.",
            service_words(service)
        ),
    )
    .detail("A client of a headless Service connects to the pods themselves.")
    .mend(format!("connect to {own}:{target}"))
    .mend("or give the Service a ClusterIP: delete it and create it without clusterIP: None");
    Some(Step::broken([format!("{} is headless", service_words(service))], broken))
}

fn of_service<'a>(service: &'a Service, via: Via, way: &Way) -> (Step, Subject<'a>) {
    if exact(service).is_some_and(|s| s.foreign_proxy) {
        let line = format!(
            "{} is served by another proxy (label service.kubernetes.io/service-proxy-name)",
            service_words(service)
        );
        return (Step::good(Place::Service, [line]), Subject::Other);
    }
    let wanted = |p: &&ServicePort| p.port == i32::from(way.to.port()) && protocol(p) == way.protocol;
    match ports(service).iter().find(wanted) {
        Some(port) => (found(service, port, via), Subject::Service(service, port, via)),
        None => (no_such_port(service, way), Subject::Other),
    }
}

fn found(service: &Service, port: &ServicePort, via: Via) -> Step {
    let node_port = port.node_port.filter(|_| via == Via::NodePort).map_or(String::new(), |p| format!(" {p} for"));
    let line = format!(
        "{}: {}{node_port} port {} → targetPort {}",
        service_words(service),
        via.word(),
        port_words(port),
        target_words(port)
    );
    Step::good(Place::Service, [line])
}

fn no_such_port(service: &Service, way: &Way) -> Step {
    let wanted = i32::from(way.to.port());
    let all: Vec<String> = ports(service).iter().map(port_words).collect();
    let seen = [format!("{} has the address, but only the ports {}", service_words(service), all.join(", "))];
    let what = format!("{} has no port {wanted}/{}.", service_words(service), way.protocol);
    let at = |p: &ServicePort| format!("connect to port {}: {}:{}", port_words(p), name(&service.metadata), p.port);
    let find = |f: &dyn Fn(&ServicePort) -> bool| ports(service).iter().find(|p| f(p));
    let broken = |cause| Broken::new(Place::Service, cause, what.clone());
    if let Some(other) = find(&|p| p.port == wanted) {
        let fits = format!("{} speaks {}.", port_words(other), protocol(other));
        let more = format!(
            "{} patch svc {} --type=json -p '[{{\"op\":\"add\",\"path\":\"/spec/ports/-\",\"value\":{{\"name\":\"{}-{wanted}\",\"protocol\":\"{}\",\"port\":{wanted}}}}}]'    # every port of it needs a name then",
            kubectl_for(service),
            name(&service.metadata),
            way.protocol.to_string().to_lowercase(),
            way.protocol,
        );
        return Step::broken(seen, broken("wrongProtocol").detail(format!("Its port {fits}")).mend(more));
    }
    if let Some(port) = find(&|p| target_words(p) == wanted.to_string()) {
        let detail = format!(
            "{wanted} is where its pods listen (targetPort); clients use the Service's own port {}.",
            port.port
        );
        return Step::broken(seen, broken("noSuchPort").detail(detail).mend(at(port)));
    }
    if let Some(port) = find(&|p| p.node_port == Some(wanted)) {
        let detail = format!("{wanted} is its NodePort, which is served on the nodes' addresses.");
        return Step::broken(seen, broken("noSuchPort").detail(detail).mend(at(port)));
    }
    let detail = format!("It has {}.", all.join(", "));
    Step::broken(seen, broken("noSuchPort").detail(detail).mends(ports(service).iter().map(at)))
}

/// A port of the node that is no NodePort: perhaps a program of the node has it.
fn own_port(e: &Evidence, way: &Way, node: &str) -> Step {
    let port = way.to.port();
    let attempt = e.attempts.iter().find(|a| a.way == *way);
    if attempt.is_some_and(|a| matches!(a.connected, Ok(Connected::After(_)))) {
        return Step::good(Place::Service, [format!("no Service: a program of node {node} has port {port}")]);
    }
    let seen = [format!("the address is node {node}'s, and no Service has the NodePort {port}/{}", way.protocol)];
    let broken = Broken::new(
        Place::Service,
        "noSuchNodePort",
        format!("no Service has the NodePort {port}/{}, and nothing else listens there.", way.protocol),
    );
    let with_port = |s: &Service| ports(s).iter().find(|p| p.port == i32::from(port)).and_then(|p| p.node_port);
    let meant = e.cluster.services.iter().find_map(|s| with_port(s).map(|node_port| (s, node_port)));
    if let Some((service, node_port)) = meant {
        let detail =
            format!("{port} is the port of {} on its ClusterIP; on a node it has {node_port}.", service_words(service));
        return Step::broken(seen, broken.detail(detail).mend(format!("connect to {}:{node_port}", way.to.ip())));
    }
    Step::broken(seen, broken.details(node_ports(e)).mend("kubectl get svc -A | grep -E 'NodePort|LoadBalancer'"))
}

fn node_ports(e: &Evidence) -> Option<String> {
    let all = e.cluster.services.iter().flat_map(|s| ports(s).iter().map(move |p| (s, p)));
    let words: Vec<String> =
        all.filter_map(|(s, p)| Some(format!("{}/{} of {}", p.node_port?, protocol(p), service_words(s)))).collect();
    (!words.is_empty()).then(|| format!("NodePorts are {}.", words.join(", ")))
}

fn nobody(e: &Evidence, way: &Way) -> Step {
    let ip = way.to.ip();
    let attempt = e.attempts.iter().find(|a| a.way == *way);
    let answers = attempt.is_some_and(|a| matches!(a.connected, Ok(Connected::After(_))));
    let inside = in_use_like(e, ip);
    if answers || (way.protocol != Protocol::Tcp && !inside) {
        return Step::good(Place::Service, [format!("no Service: {ip} is outside the cluster")]);
    }
    let seen = [format!("neither a Service nor a pod nor a node has the address {ip}")];
    if !inside {
        let broken =
            Broken::new(Place::Service, "outside", format!("{ip} is outside the cluster and does not answer."))
                .mend(format!("nc -zv {ip} {}    # on the host: whether it answers anybody", way.to.port()));
        return Step::broken(seen, broken);
    }
    let broken =
        Broken::new(Place::Service, "nobodyHasTheAddress", format!("no Service and no pod has the address {ip}."))
            .detail("A pod's address goes with the pod, a ClusterIP with its Service: use names, which stay.")
            .mend("kubectl get svc,pods -A -o wide");
    Step::broken(seen, broken)
}

/// Whether the address looks like those of this cluster's Services or pods: the same first two bytes.
fn in_use_like(e: &Evidence, ip: IpAddr) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    let services = e.cluster.services.iter().filter_map(exact).flat_map(|s| s.cluster_ips);
    let pods = e.cluster.pods.iter().flat_map(super::super::objects::pod_ips);
    services.chain(pods).any(|other| matches!(other, IpAddr::V4(o) if o.octets()[..2] == ip.octets()[..2]))
}
