//! What the kernel does with the first packet, by its own copy of the rules, beside what it ought to do.

use skiff_nft::trace::{Fate, Outcome};

use super::{
    super::{
        evidence::Attempt,
        report::{Broken, Place},
    },
    Step, Subject,
};

pub(super) fn hop(attempt: &Attempt, subject: &Subject<'_>) -> Option<Step> {
    let node = &attempt.way.from.node;
    if matches!(subject, Subject::Other) {
        return None;
    }
    let kernel = match &attempt.kernel {
        Err(why) => {
            return Some(Step::unknown(Place::Rules, [format!("the kernel of node {node} was not asked: {why}")]));
        }
        Ok(None) => return Some(Step::broken([format!("node {node} has no Service rules")], none(node))),
        Ok(Some(outcome)) => outcome,
    };
    let seen = [words(attempt, kernel)];
    match same(kernel, &attempt.wanted) {
        true => Some(Step::good(Place::Rules, seen)),
        false => Some(Step::broken(seen, behind(attempt, kernel))),
    }
}

fn words(attempt: &Attempt, outcome: &Outcome) -> String {
    let node = &attempt.way.from.node;
    let does = summary(outcome);
    match &attempt.element {
        Some(element) => format!("kernel of node {node}: {element}; {does}"),
        None => format!("kernel of node {node}: no element for {}; {does}", super::way_words(&attempt.way)),
    }
}

/// What happens to a packet, in a few words.
pub(super) fn summary(outcome: &Outcome) -> String {
    let endpoints = outcome.endpoints().len();
    let own_address = outcome.fates.keys().any(|f| matches!(f, Fate::To { masqueraded: true, .. }));
    let hidden = if own_address { ", the client's address becomes the node's" } else { "" };
    match (endpoints, outcome.fates.keys().next()) {
        (0, Some(Fate::Reset | Fate::Unreachable)) => "refused".into(),
        (0, Some(Fate::Drop)) => "dropped".into(),
        (0, _) => "sent on as it is".into(),
        (1, _) => format!("sent to 1 endpoint{hidden}"),
        (n, _) => format!("sent to one of {n} endpoints{hidden}"),
    }
}

fn same(a: &Outcome, b: &Outcome) -> bool {
    let near = |(x, y): (&f64, &f64)| (x - y).abs() < 1e-6;
    a.fates.keys().eq(b.fates.keys()) && a.fates.values().zip(b.fates.values()).all(near)
}

fn none(node: &str) -> Broken {
    Broken::new(Place::Rules, "noRules", format!("the proxy of node {node} has made no rules: no Service works there."))
        .mend(health(node))
        .mend("skiff status    # does the cluster run? its log says why the proxy does not")
}

fn health(node: &str) -> String {
    format!("skiff shell --node {node} -- curl -s http://127.0.0.1:10256/healthz")
}

fn behind(attempt: &Attempt, kernel: &Outcome) -> Broken {
    let node = &attempt.way.from.node;
    let list = |outcome: &Outcome| {
        let endpoints: Vec<String> = outcome.endpoints().iter().map(ToString::to_string).collect();
        if endpoints.is_empty() { summary(outcome) } else { endpoints.join(", ") }
    };
    Broken::new(
        Place::Rules,
        "rulesBehind",
        format!("the rules of node {node} are older than the Service and its endpoints."),
    )
    .detail(format!("The kernel has: {}.", list(kernel)))
    .detail(format!("The objects say: {}.", list(&attempt.wanted)))
    .mend(health(node))
    .mend("skiff status    # does the cluster run? its log says whether the proxy reaches the API and the kernel")
}
