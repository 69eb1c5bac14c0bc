//! Decides from the evidence where a connection's way is broken, and why. Pure: each hop reads what was seen and says
//! whether the way goes on. The first broken hop ends the walk, since what lies behind it is only its consequence.

mod endpoints;
mod listener;
mod name;
mod pods;
mod rules;
mod service;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};

pub(super) use self::endpoints::pod_at;
use super::{
    evidence::{Attempt, Client, Connected, Evidence, Kind, Way},
    objects::{Via, id, name, namespace},
    question::Target,
    report::{Broken, Hop, Place, Report, State, Walk},
};

/// One hop, and what is broken at it.
struct Step {
    hop: Hop,
    broken: Option<Broken>,
}

impl Step {
    fn good(hop: Place, seen: impl IntoIterator<Item = String>) -> Self {
        Step { hop: Hop { hop, state: State::Good, seen: seen.into_iter().collect() }, broken: None }
    }

    fn unknown(hop: Place, seen: impl IntoIterator<Item = String>) -> Self {
        Step { hop: Hop { hop, state: State::Unknown, seen: seen.into_iter().collect() }, broken: None }
    }

    fn broken(seen: impl IntoIterator<Item = String>, broken: Broken) -> Self {
        let hop = Hop { hop: broken.hop, state: State::Broken, seen: seen.into_iter().collect() };
        Step { hop, broken: Some(broken) }
    }
}

/// What stands at an address and a port.
enum Subject<'a> {
    Service(&'a Service, &'a ServicePort, Via),
    /// The pod itself, perhaps by the name of a headless Service.
    Pod(&'a Pod),
    /// Something that no rule concerns: a node's own port, an address that another proxy serves, one outside the cluster.
    Other,
}

pub(crate) fn diagnose(e: &Evidence) -> Report {
    let mut report = Report {
        from: client_words(&e.client),
        to: e.question.target.to_string(),
        works: true,
        hops: vec![],
        ways: vec![],
        broken: None,
    };
    for step in [name::hop(e), service::of_all_ways(e)].into_iter().flatten() {
        report.hops.push(step.hop);
        report.broken = report.broken.or(step.broken);
        if report.broken.is_some() {
            break;
        }
    }
    if report.broken.is_none() {
        report.ways = e.attempts.iter().map(|a| walk(e, a)).collect();
        report.broken = report.ways.iter().find_map(|w| w.broken.clone());
    }
    report.works = report.broken.is_none();
    report
}

fn walk(e: &Evidence, attempt: &Attempt) -> Walk {
    let mut walk = Walk {
        from: client_words(&attempt.way.from),
        to: way_words(&attempt.way),
        works: true,
        hops: vec![],
        broken: None,
    };
    let (first, subject) = service::hop(e, &attempt.way);
    let rest: [&dyn Fn() -> Option<Step>; 4] = [
        &|| rules::hop(attempt, &subject),
        &|| endpoints::hop(e, attempt, &subject),
        &|| listener::hop(e, attempt, &subject),
        &|| Some(answer(attempt)),
    ];
    let mut next = Some(first);
    let mut rest = rest.into_iter();
    loop {
        if let Some(step) = next {
            walk.hops.push(step.hop);
            walk.broken = step.broken;
        }
        match rest.next().filter(|_| walk.broken.is_none()) {
            Some(hop) => next = hop(),
            None => break,
        }
    }
    walk.works = walk.broken.is_none();
    walk
}

/// The proof: everything before may look right and a connection fail all the same.
fn answer(attempt: &Attempt) -> Step {
    let place = Place::Answer;
    match &attempt.connected {
        Ok(Connected::After(time)) => {
            Step::good(place, [format!("connected in {:.1} ms", time.as_secs_f64() * 1000.0)])
        }
        Ok(failed) => {
            let what = match failed {
                Connected::Refused => "the connection was refused".to_owned(),
                Connected::TimedOut => "the connection got no answer".into(),
                Connected::Failed(why) => format!("the connection failed: {why}"),
                Connected::After(_) => String::new(),
            };
            let broken = Broken::new(place, "noAnswer", format!("{what}, although every hop before looks right."))
                .detail("The way may just have changed: ask again. If it stays, a packet filter of the node or of the program may be in the way.")
                .mend(format!("skiff shell --node {} -- nft list ruleset", attempt.way.from.node));
            Step::broken([what], broken)
        }
        Err(why) => Step::unknown(place, [why.clone()]),
    }
}

fn client_words(client: &Client) -> String {
    match client.kind {
        Kind::Pod => format!("pod {}/{} ({}, node {})", client.namespace, client.name, client.ip, client.node),
        Kind::Node => format!("node {} ({})", client.name, client.ip),
        Kind::Outside => format!("outside ({})", client.ip),
    }
}

fn way_words(way: &Way) -> String {
    format!("{}/{}", way.to, way.protocol)
}

/// `kubectl`, with the namespace where it is not the usual one.
fn kubectl(namespace: &str) -> String {
    if namespace == "default" { "kubectl".into() } else { format!("kubectl -n {namespace}") }
}

fn kubectl_for(service: &Service) -> String {
    kubectl(namespace(&service.metadata))
}

/// The command that writes these fields into the Service's spec. Every kubectl has it, also the built-in one.
fn patch(service: &Service, spec: &serde_json::Value) -> String {
    let change = serde_json::json!({ "spec": spec });
    format!("{} patch svc {} --type=merge -p '{change}'", kubectl_for(service), name(&service.metadata))
}

/// The Service that the question means by its name; None when it means an address or there is no such Service.
fn meant(e: &Evidence) -> Option<&Service> {
    let (name, namespace) = meant_name(e)?;
    e.cluster.service(&namespace, &name)
}

/// Name and namespace of the Service that the question's words mean.
fn meant_name(e: &Evidence) -> Option<(String, String)> {
    let host = match &e.question.target {
        Target::Service { name, .. } => return Some((name.clone(), e.question.namespace.clone())),
        Target::Peer { host: super::question::Host::Ip(_), .. } => return None,
        Target::Peer { host: super::question::Host::Name(host), .. } => host,
    };
    let answered = e.lookup.as_ref().filter(|l| l.zone.is_some() && !l.addresses().is_empty());
    let full = answered.and_then(|l| l.asked.last()).map_or(host, |(name, _)| name);
    Some(service_of_name(full, &e.domain, &e.client.namespace))
}

/// `web`, `web.shop`, `web.shop.svc`, `web.shop.svc.cluster.local`, and names below them.
pub(super) fn service_of_name(text: &str, domain: &str, namespace: &str) -> (String, String) {
    let text = text.trim_end_matches('.');
    let zone = format!(".svc.{domain}");
    let inner = text.strip_suffix(&zone).or_else(|| text.strip_suffix(".svc"));
    let labels: Vec<&str> = inner.unwrap_or(text).split('.').collect();
    match (labels.as_slice(), inner.is_some()) {
        ([service], _) => ((*service).into(), namespace.into()),
        ([.., service, namespace], true) | ([service, namespace, ..], false) => {
            ((*service).into(), (*namespace).into())
        }
        _ => (text.into(), namespace.into()),
    }
}

fn service_words(service: &Service) -> String {
    id(&service.metadata)
}
