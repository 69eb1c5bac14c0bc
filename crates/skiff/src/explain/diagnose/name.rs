//! From a name to an address.

use super::{
    super::{
        evidence::{Answered, Evidence, Kind, Lookup},
        nearest,
        objects::{id, is_external_name, is_headless, name, namespace},
        question::{Host, Target},
        report::{Broken, Place},
    },
    Step, kubectl, kubectl_for, meant, meant_name, service_words,
};

/// None where no name is asked for.
pub(super) fn hop(e: &Evidence) -> Option<Step> {
    let as_object = match &e.question.target {
        Target::Service { .. } => true,
        Target::Peer { host: Host::Name(_), .. } => false,
        Target::Peer { host: Host::Ip(_), .. } => return None,
    };
    if as_object && meant(e).is_none() {
        return Some(Step::broken(vec![], no_such_service(e)));
    }
    let Some(lookup) = &e.lookup else { return Some(not_asked(e)) };
    let Some((asked, answered)) = lookup.asked.last() else { return Some(not_asked(e)) };
    let seen = words(lookup);
    let step = match answered {
        // Nobody outside could be asked, but every name of the cluster was answered.
        Answered::Failed(_) if lookup.zone.is_none() && cluster_answered(lookup) => nothing(e, lookup, seen),
        Answered::Failed(why) => Step::broken(seen, failed(e, lookup, asked, why)),
        _ if lookup.zone.as_ref().is_some_and(|zone| differs(zone, answered)) => {
            Step::broken(seen, behind(lookup, asked, answered))
        }
        Answered::Found { addresses, .. } if !addresses.is_empty() => Step::good(Place::Name, seen),
        _ => nothing(e, lookup, seen),
    };
    Some(step)
}

fn cluster_answered(lookup: &Lookup) -> bool {
    lookup.asked.iter().any(|(_, answered)| !matches!(answered, Answered::Failed(_)))
}

fn words(lookup: &Lookup) -> Vec<String> {
    let line = |(name, answered): &(String, Answered)| match answered {
        Answered::NoSuchName => format!("{name}: no such name"),
        Answered::Failed(why) => format!("{name}: {why}"),
        Answered::Found { aliases, addresses } => {
            let way: String = aliases.iter().map(|a| format!(" → {a}")).collect();
            format!("{name}{way} → {}", list(addresses))
        }
    };
    let mut lines: Vec<String> = lookup.asked.iter().map(line).collect();
    let compared = if lookup.zone.is_some() { ", compared with the Services" } else { "" };
    if let Some(last) = lines.last_mut() {
        last.push_str(&format!(" (asked of {}{compared})", lookup.server));
    }
    lines
}

fn list(addresses: &[std::net::IpAddr]) -> String {
    match addresses {
        [] => "no address".into(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// An alias's target is not the zone's: only its name is compared.
fn differs(zone: &Answered, answered: &Answered) -> bool {
    match (zone, answered) {
        (Answered::Found { aliases: a, addresses: x }, Answered::Found { aliases: b, addresses: y }) => {
            let (mut x, mut y) = (x.clone(), y.clone());
            x.sort();
            y.sort();
            a.first() != b.first() || (a.is_empty() && x != y)
        }
        (Answered::NoSuchName, Answered::NoSuchName) => false,
        _ => true,
    }
}

fn not_asked(e: &Evidence) -> Step {
    let text = e.question.target.to_string();
    let mut broken = Broken::new(
        Place::Name,
        "namesAreForPods",
        "names of Services are known to pods only: a node and the world outside ask other name servers.",
    )
    .mend(format!("skiff explain POD {text}    # as a pod sees it"));
    if let Some(ip) = meant(e).and_then(|s| s.spec.as_ref()?.cluster_ip.clone()).filter(|ip| ip != "None") {
        let by_address = text.replacen(&host(e), &ip, 1);
        broken = broken.mend(format!("skiff explain {} {by_address}    # by its ClusterIP", from_word(e)));
    }
    Step::broken([format!("{} is not asked of the cluster's DNS", host(e))], broken)
}

fn from_word(e: &Evidence) -> String {
    match e.client.kind {
        Kind::Pod => format!("pod/{}", e.client.name),
        Kind::Node => format!("node/{}", e.client.name),
        Kind::Outside => "outside".into(),
    }
}

fn host(e: &Evidence) -> String {
    match &e.question.target {
        Target::Service { name, .. } => name.clone(),
        Target::Peer { host, .. } => host.to_string(),
    }
}

fn failed(e: &Evidence, lookup: &Lookup, asked: &str, why: &str) -> Broken {
    if let Some(service) = meant(e).filter(|s| is_external_name(s)) {
        return external_name(service, &format!("asking for it failed: {why}"));
    }
    Broken::new(
        Place::Name,
        "dnsSilent",
        format!("the name server {} does not answer for {asked}: {why}.", lookup.server),
    )
    .mend(format!("skiff shell --node {} -- dig @{} {asked}", e.client.node, lookup.server))
    .mend("skiff status    # each node has a DNS server of its own; the cluster's log says why it ended")
}

fn behind(lookup: &Lookup, asked: &str, answered: &Answered) -> Broken {
    let plain = |a: &Answered| match a {
        Answered::Found { aliases, addresses } if aliases.is_empty() => list(addresses),
        Answered::Found { aliases, .. } => aliases.join(", "),
        Answered::NoSuchName => "no such name".into(),
        Answered::Failed(why) => why.clone(),
    };
    let wanted = lookup.zone.as_ref().map_or_else(String::new, plain);
    Broken::new(
        Place::Name,
        "dnsBehind",
        format!("{asked} is answered with {}, but the Services say {wanted}.", plain(answered)),
    )
    .detail(format!("The DNS server {} has not heard of the last change.", lookup.server))
    .mend("skiff status    # does the cluster run? its log says whether the DNS server reaches the API")
}

/// The name servers answered, and there is no address.
fn nothing(e: &Evidence, lookup: &Lookup, seen: Vec<String>) -> Step {
    match meant(e) {
        Some(service) if is_external_name(service) => {
            Step::broken(seen, external_name(service, "no name server knows an address of it"))
        }
        // It has a name as soon as it has endpoints: why it has none is the next hop's question.
        Some(service) if is_headless(service) => Step::good(Place::Name, seen),
        Some(service) if lookup.server != e.dns.to_string() => Step::broken(seen, other_server(e, lookup, service)),
        Some(service) => Step::broken(seen, wrong_name(e, service)),
        None => Step::broken(seen, no_such_service(e)),
    }
}

fn external_name(service: &k8s_openapi::api::core::v1::Service, why: &str) -> Broken {
    let target = service.spec.as_ref().and_then(|s| s.external_name.clone()).unwrap_or_default();
    let (kubectl, own) = (kubectl_for(service), name(&service.metadata));
    Broken::new(
        Place::Name,
        "externalNameUnresolved",
        format!("{} is another name for {target}, and {why}.", service_words(service)),
    )
    .mend(format!("{kubectl} patch svc {own} --type=merge -p '{{\"spec\":{{\"externalName\":\"RIGHT.NAME\"}}}}'"))
    .mend(format!(
        "dig {target}    # on the host: whether its own name servers know it (skiff up --dns-upstream names others)"
    ))
}

fn other_server(e: &Evidence, lookup: &Lookup, service: &k8s_openapi::api::core::v1::Service) -> Broken {
    let pod = &e.client.name;
    Broken::new(
        Place::Name,
        "podAsksElsewhere",
        format!(
            "pod {pod} asks {} and not the cluster's DNS at {}, so it finds no Service by name.",
            lookup.server, e.dns
        ),
    )
    .detail(format!("Its dnsPolicy is {}; {} exists.", e.client.dns_policy, service_words(service)))
    .mend("set dnsPolicy: ClusterFirst in the pod's template (ClusterFirstWithHostNet for a pod with hostNetwork)")
}

/// The Service exists, but not by this name: a namespace is missing, or a word is too many.
fn wrong_name(e: &Evidence, service: &k8s_openapi::api::core::v1::Service) -> Broken {
    let (own, ns) = (name(&service.metadata), namespace(&service.metadata));
    Broken::new(Place::Name, "wrongName", format!("{} is not a name of Service {}.", host(e), service_words(service)))
        .mend(format!("use {own}.{ns} or {own}.{ns}.svc.{}", e.domain))
}

fn no_such_service(e: &Evidence) -> Broken {
    let (wanted, ns) = meant_name(e).unwrap_or_default();
    let broken = Broken::new(
        Place::Name,
        "noSuchService",
        format!("there is no Service {wanted:?} in namespace {ns}, and no other name {:?}.", host(e)),
    );
    let elsewhere: Vec<_> = e.cluster.services.iter().filter(|s| name(&s.metadata) == wanted).collect();
    if !elsewhere.is_empty() {
        let found = elsewhere.iter().map(|s| id(&s.metadata)).collect::<Vec<_>>().join(", ");
        let ways = elsewhere.iter().map(|s| format!("use {wanted}.{}", namespace(&s.metadata)));
        return broken.detail(format!("A Service of that name is elsewhere: {found}.")).mends(ways);
    }
    let here = || e.cluster.services.iter().filter(|s| namespace(&s.metadata) == ns).map(|s| name(&s.metadata));
    let near = nearest::names(&wanted, here());
    if !near.is_empty() {
        return broken
            .detail(format!("Nearly so are called: {}.", near.join(", ")))
            .mends(near.iter().take(1).map(|n| format!("use {}", host(e).replacen(&wanted, n, 1))));
    }
    let workloads = e.cluster.pods.iter().filter(|p| namespace(&p.metadata) == ns);
    let like = workloads.filter(|p| name(&p.metadata).starts_with(&wanted)).count();
    let broken = match here().collect::<Vec<_>>() {
        there if there.is_empty() => broken.detail(format!("Namespace {ns} has no Services.")),
        there => broken.detail(format!("Namespace {ns} has: {}.", there.join(", "))),
    };
    match like {
        0 => broken.mend(format!("{} get svc -A", kubectl("default"))),
        n => broken
            .detail(format!("{n} pods are called like it, but pods have no name in DNS without a Service."))
            .mend(format!("{} expose deployment {wanted} --port=PORT", kubectl(&ns))),
    }
}
