//! Which endpoints a Service has for this client and the share of each; and why it has none.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service, ServicePort},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::json;
use skiff_nft::trace::{Fate, Outcome};
use skiff_services::model::LABEL_SERVICE_NAME;

use super::{
    super::{
        evidence::{Attempt, Cluster, Evidence},
        nearest,
        objects::{
            Via, declared, exact, host_network, id, is_over, is_ready, name, namespace, node_of, pairs, pod_ips,
            port_words, protocol, selector, target_words,
        },
        report::{Broken, Place},
    },
    Step, Subject, kubectl, kubectl_for, patch, pods, rules, service_words,
};

/// What the kernel does, or where it was not asked what it should do.
pub(super) fn outcome(attempt: &Attempt) -> &Outcome {
    match &attempt.kernel {
        Ok(Some(outcome)) => outcome,
        _ => &attempt.wanted,
    }
}

/// The pod behind an endpoint's address: a pod of the node's network has the node's.
pub(crate) fn pod_at(cluster: &Cluster, ip: IpAddr) -> Option<&Pod> {
    let on_host = || cluster.pods.iter().find(|p| host_network(p) && !is_over(p) && pod_ips(p).contains(&ip));
    cluster.pod_at(ip).or_else(on_host)
}

pub(super) fn hop(e: &Evidence, attempt: &Attempt, subject: &Subject<'_>) -> Option<Step> {
    let (service, port, via) = match subject {
        Subject::Other => return None,
        Subject::Pod(pod) => return Some(of_pod(pod)),
        Subject::Service(service, port, via) => (*service, *port, *via),
    };
    let outcome = outcome(attempt);
    if !outcome.endpoints().is_empty() {
        return Some(Step::good(Place::Endpoints, shares(e, service, outcome)));
    }
    match outcome.fates.keys().next() {
        Some(Fate::Drop) => Some(dropped(e, attempt, service, via)),
        _ => Some(none(e, service, Some(port))),
    }
}

fn of_pod(pod: &Pod) -> Step {
    match is_ready(pod) {
        true => Step::good(Place::Endpoints, [pods::words(pod)]),
        // Straight to a pod's address readiness does not matter.
        false => Step::unknown(Place::Endpoints, [format!("{}; an address needs no readiness", pods::words(pod))]),
    }
}

fn shares(e: &Evidence, service: &Service, outcome: &Outcome) -> Vec<String> {
    let mut lines = vec![];
    for (fate, share) in &outcome.fates {
        let Fate::To { endpoint, .. } = fate else { continue };
        let behind = pod_at(&e.cluster, endpoint.ip()).map_or("not a pod of this cluster".into(), pods::words);
        lines.push(format!("{endpoint}  {:.1} %  {behind}", share * 100.0));
    }
    if exact(service).is_some_and(|s| s.affinity.is_some()) {
        lines.push("sessionAffinity ClientIP: a client that was here before goes where it went then".into());
    }
    let left_out: Vec<&Pod> = e.cluster.selected(service).into_iter().filter(|p| !is_over(p) && !is_ready(p)).collect();
    lines.extend(
        left_out.iter().map(|p| format!("left out: {}: {}", name(&p.metadata), pods::trouble(p, &e.cluster.events))),
    );
    lines
}

/// Somebody serves it, but not this client here.
fn dropped(e: &Evidence, attempt: &Attempt, service: &Service, via: Via) -> Step {
    let seen = [rules::summary(outcome(attempt))];
    let client = &attempt.way.from;
    let ranges = service.spec.as_ref().and_then(|s| s.load_balancer_source_ranges.clone()).unwrap_or_default();
    let admitted = ranges.iter().filter_map(|r| r.trim().parse::<ipnet::IpNet>().ok()).any(|r| r.contains(&client.ip));
    if via == Via::LoadBalancer && !ranges.is_empty() && !admitted {
        let broken = Broken::new(
            Place::Endpoints,
            "sourceNotAdmitted",
            format!(
                "{} admits only clients of {}, and the client is {}.",
                service_words(service),
                ranges.join(", "),
                client.ip
            ),
        )
        .mend(patch(service, &json!({"loadBalancerSourceRanges": with_client(&ranges, client.ip)})));
        return Step::broken(seen, broken);
    }
    let field = if via == Via::ClusterIp { "internalTrafficPolicy" } else { "externalTrafficPolicy" };
    let elsewhere: BTreeSet<&str> =
        e.cluster.selected(service).into_iter().filter(|p| is_ready(p)).map(node_of).collect();
    let nodes = elsewhere.iter().copied().collect::<Vec<_>>().join(", ");
    let broken = Broken::new(
        Place::Endpoints,
        "noLocalEndpoints",
        format!(
            "{field} of {} is Local, and node {} has no ready endpoint of it.",
            service_words(service),
            client.node
        ),
    )
    .details((!nodes.is_empty()).then(|| format!("Its ready pods are on node {nodes}.")))
    .mend(patch(service, &json!({field: "Cluster"})));
    let other_way = elsewhere.first().filter(|_| via == Via::NodePort).and_then(|node| address_of(e, node));
    Step::broken(
        seen,
        broken.mends(other_way.map(|ip| format!("or connect to {ip}:{}, a node that has one", attempt.way.to.port()))),
    )
}

fn with_client(ranges: &[String], client: IpAddr) -> Vec<String> {
    ranges.iter().cloned().chain([ipnet::IpNet::from(client).to_string()]).collect()
}

fn address_of(e: &Evidence, node: &str) -> Option<IpAddr> {
    let node = e.cluster.nodes.iter().find(|n| name(&n.metadata) == node)?;
    super::super::objects::node_ips(node).first().copied()
}

/// Nobody serves the Service for anybody: why?
pub(super) fn none(e: &Evidence, service: &Service, port: Option<&ServicePort>) -> Step {
    let seen = ["none".to_owned()];
    let Some(wanted) = selector(service) else { return Step::broken(seen, without_selector(e, service, port)) };
    let selected = e.cluster.selected(service);
    if selected.is_empty() {
        return Step::broken(seen, matches_nothing(e, service, wanted));
    }
    let living: Vec<&Pod> =
        selected.iter().copied().filter(|p| !is_over(p) && p.metadata.deletion_timestamp.is_none()).collect();
    if living.is_empty() {
        return Step::broken(seen, all_gone(service, &selected));
    }
    if let Some(broken) = port.and_then(|p| no_named_port(service, p, &living)) {
        return Step::broken(seen, broken);
    }
    if living.iter().all(|p| !is_ready(p)) {
        return Step::broken(seen, pods::none_ready(e, service, &living));
    }
    let ready: Vec<&str> = living.iter().filter(|p| is_ready(p)).map(|p| name(&p.metadata)).collect();
    let broken = Broken::new(
        Place::Endpoints,
        "endpointsBehind",
        format!("pods of {} are ready ({}), but no EndpointSlice has them.", service_words(service), ready.join(", ")),
    )
    .detail("The controllers have not heard of the last change, or somebody else writes the slices.")
    .mend(format!(
        "{} get endpointslices -l {LABEL_SERVICE_NAME}={} -o yaml",
        kubectl_for(service),
        name(&service.metadata)
    ));
    Step::broken(seen, broken)
}

fn matches_nothing(e: &Evidence, service: &Service, wanted: &std::collections::BTreeMap<String, String>) -> Broken {
    let (ns, says) = (namespace(&service.metadata), pairs(wanted));
    let broken = Broken::new(
        Place::Endpoints,
        "selectorMatchesNothing",
        format!("the selector of {} matches no pod: it says {says}.", service_words(service)),
    );
    let living = || e.cluster.pods.iter().filter(|p| !is_over(p));
    let here: Vec<&Pod> = living().filter(|p| namespace(&p.metadata) == ns).collect();
    if let Some(near) = nearest::pods(wanted, &here) {
        return broken
            .detail(format!(
                "{} {} ({}); the selector says {says}.",
                count(near.pods.len(), "pod carries", "pods carry"),
                pairs(&near.carry),
                some(&near.pods)
            ))
            .mend(patch(service, &json!({"selector": near.change})));
    }
    let takes = |p: &&Pod| wanted.iter().all(|(k, v)| p.metadata.labels.as_ref().is_some_and(|l| l.get(k) == Some(v)));
    let elsewhere: Vec<String> = living().filter(takes).map(|p| id(&p.metadata)).collect();
    if !elsewhere.is_empty() {
        let names: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
        return broken
            .detail(format!(
                "Pods of other namespaces match ({}), but a Service selects in its own only.",
                some(&names)
            ))
            .mend("create the Service in the namespace of its pods");
    }
    match here.is_empty() {
        true => broken.detail(format!("There are no pods in namespace {ns}.")),
        false => broken.detail(format!("No pod of namespace {ns} carries a label like it.")),
    }
    .mend(format!("{} get pods --show-labels", kubectl(ns)))
    .mend(patch(service, &json!({"selector": instead(wanted)})) + "    # the label that its pods carry")
}

/// A merge patch keeps the keys that it does not name.
fn instead(wanted: &std::collections::BTreeMap<String, String>) -> serde_json::Value {
    let mut change: serde_json::Map<_, _> = wanted.keys().map(|key| (key.clone(), serde_json::Value::Null)).collect();
    change.insert("app".into(), "NAME".into());
    change.into()
}

fn count(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}

/// The first few names, and how many there are besides.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

fn all_gone(service: &Service, pods: &[&Pod]) -> Broken {
    let lines = pods.iter().map(|p| pods::words(p));
    Broken::new(
        Place::Endpoints,
        "podsEnded",
        format!("every pod that the selector of {} takes has ended or is ending.", service_words(service)),
    )
    .details(lines)
    .mend(format!("{} get deploy,rs,pods    # who should make new ones?", kubectl_for(service)))
}

fn no_named_port(service: &Service, port: &ServicePort, pods: &[&Pod]) -> Option<Broken> {
    let Some(IntOrString::String(wanted)) = &port.target_port else { return None };
    let same_protocol = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        p.protocol.as_deref().unwrap_or("TCP") == protocol(port).to_string()
    };
    let has = |pod: &&&Pod| declared(pod).any(|p| p.name.as_ref() == Some(wanted) && same_protocol(p));
    if pods.iter().any(|p| has(&p)) {
        return None;
    }
    let there: BTreeSet<String> = pods
        .iter()
        .flat_map(|p| declared(p))
        .filter_map(|p| {
            Some(format!("{} ({}/{})", p.name.as_ref()?, p.container_port, p.protocol.as_deref().unwrap_or("TCP")))
        })
        .collect();
    let numbers: BTreeSet<i32> =
        pods.iter().flat_map(|p| declared(p)).filter(|p| same_protocol(p)).map(|p| p.container_port).collect();
    let index = super::super::objects::ports(service).iter().position(|p| p == port).unwrap_or(0);
    let patch = |value: String| {
        format!(
            "{} patch svc {} --type=json -p '[{{\"op\":\"replace\",\"path\":\"/spec/ports/{index}/targetPort\",\"value\":{value}}}]'",
            kubectl_for(service),
            name(&service.metadata)
        )
    };
    let names: Vec<&str> =
        pods.iter().flat_map(|p| declared(p)).filter(|p| same_protocol(p)).filter_map(|p| p.name.as_deref()).collect();
    let best = nearest::names(wanted, names.iter().copied()).first().copied().or(names.first().copied());
    let mend = best.map(|n| patch(format!("\"{n}\""))).or_else(|| numbers.first().map(|n| patch(n.to_string())));
    let detail = match there.is_empty() {
        true => "Their containers name no ports.".to_owned(),
        false => format!("The ports that they name: {}.", there.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Some(
        Broken::new(
            Place::Endpoints,
            "targetPortNotFound",
            format!(
                "no pod of {} has a {} port named {wanted:?}, which port {} leads to.",
                service_words(service),
                protocol(port),
                port_words(port)
            ),
        )
        .detail(detail)
        .mends(mend)
        .mend(format!("or name the container's port {wanted:?} in the pods' template")),
    )
}

fn without_selector(e: &Evidence, service: &Service, port: Option<&ServicePort>) -> Broken {
    let (ns, own) = (namespace(&service.metadata), name(&service.metadata));
    let of_service = |s: &&EndpointSlice| {
        namespace(&s.metadata) == ns
            && s.metadata.labels.as_ref().and_then(|l| l.get(LABEL_SERVICE_NAME)).is_some_and(|n| n == own)
    };
    let slices: Vec<&EndpointSlice> = e.cluster.slices.iter().filter(of_service).collect();
    let show = format!("{} get endpoints,endpointslices", kubectl(ns));
    if slices.iter().all(|s| s.endpoints.as_ref().is_none_or(Vec::is_empty)) {
        return Broken::new(
            Place::Endpoints,
            "noSelector",
            format!("{} has no selector, and nobody has written endpoints for it.", service_words(service)),
        )
        .detail(format!("Without a selector its endpoints are those of an EndpointSlice with the label {LABEL_SERVICE_NAME}={own}, or of an Endpoints object named {own}."))
        .mend(patch(service, &json!({"selector": {"app": "NAME"}})) + "    # or write an EndpointSlice");
    }
    let wanted = port.and_then(|p| p.name.clone()).unwrap_or_default();
    let names: BTreeSet<String> = slices
        .iter()
        .flat_map(|s| s.ports.iter().flatten())
        .map(|p| format!("{:?}", p.name.as_deref().unwrap_or_default()))
        .collect();
    if let Some(port) = port.filter(|_| !names.contains(&format!("{wanted:?}"))) {
        return Broken::new(
            Place::Endpoints,
            "slicePortNotFound",
            format!(
                "the EndpointSlices of {} have no port named {wanted:?}, as port {} is.",
                service_words(service),
                port_words(port)
            ),
        )
        .detail(format!(
            "Ports belong together by their name; the slices' are named {}.",
            names.into_iter().collect::<Vec<_>>().join(", ")
        ))
        .mend(show);
    }
    Broken::new(
        Place::Endpoints,
        "noneReady",
        format!("no endpoint in the EndpointSlices of {} is ready.", service_words(service)),
    )
    .detail(format!(
        "Port {} leads to {}.",
        port.map_or_else(String::new, port_words),
        port.map_or_else(String::new, target_words)
    ))
    .mend(show)
}
