//! What the pods that are there mean for where a pod may go: (anti-)affinity between pods, and even spreading over
//! topology domains.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Affinity, Node, Pod, PodAffinityTerm, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use skiff_api::selector::Labels;

use super::affinity;
use crate::object::{is_deleted, labels, name, namespace, selector};

/// Labels of each namespace.
pub(crate) type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// The cluster as the pod to place meets it.
pub(crate) struct World<'a> {
    pub nodes: BTreeMap<&'a str, &'a Node>,
    /// Pods with their nodes' names.
    pub placed: &'a [(&'a str, &'a Pod)],
    pub namespaces: &'a Namespaces,
}

impl<'a> World<'a> {
    fn domain(&self, node: &str, key: &str) -> Option<&'a str> {
        labels(&self.nodes.get(node)?.metadata).get(key).map(String::as_str)
    }

    /// Whether a term of `owner` means `other`.
    fn means(&self, term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
        let home = namespace(&other.metadata);
        let listed = term.namespaces.as_deref().unwrap_or_default();
        let by_labels = term.namespace_selector.as_ref().is_some_and(|wanted| {
            let none = BTreeMap::new();
            selector(wanted).matches(self.namespaces.get(home).unwrap_or(&none))
        });
        let own = listed.is_empty() && term.namespace_selector.is_none() && home == namespace(&owner.metadata);
        let there = own || by_labels || listed.iter().any(|n| n == home);
        let keys = term.match_label_keys.as_deref().unwrap_or_default();
        there && chosen(term.label_selector.as_ref(), keys, owner).is_some_and(|l| l.matches(labels(&other.metadata)))
    }

    /// The domains that hold a pod which the term means.
    fn domains_of(&self, term: &PodAffinityTerm, owner: &Pod) -> BTreeSet<&'a str> {
        let meant = self.placed.iter().filter(|(_, other)| self.means(term, owner, other));
        meant.filter_map(|(node, _)| self.domain(node, &term.topology_key)).collect()
    }
}

/// None: a selector that is absent chooses nothing.
fn chosen(wanted: Option<&LabelSelector>, keys: &[String], owner: &Pod) -> Option<Labels> {
    let mut wanted = wanted?.clone();
    let own = labels(&owner.metadata);
    let exact = wanted.match_labels.get_or_insert_default();
    exact.extend(keys.iter().filter_map(|k| Some((k.clone(), own.get(k)?.clone()))));
    Some(selector(&wanted))
}

/// Everything that is decided once for a pod, before nodes are looked at.
pub(crate) struct Neighbours<'a> {
    world: &'a World<'a>,
    near: Vec<Wish<'a>>,
    apart: Vec<Wish<'a>>,
    /// Domains (key, value) that pods which are there keep this one out of.
    forbidden: BTreeSet<(&'a str, &'a str)>,
    spread: Vec<Spread<'a>>,
    likes: Vec<(i32, Wish<'a>)>,
}

struct Wish<'a> {
    key: &'a str,
    domains: BTreeSet<&'a str>,
    /// Nobody is meant yet, and the pod itself would be.
    first: bool,
}

struct Spread<'a> {
    key: &'a str,
    strict: bool,
    max_skew: i64,
    /// The pod counts itself.
    own: i64,
    counts: BTreeMap<&'a str, i64>,
    /// Fewer domains than wanted count as if one were empty.
    least: i64,
}

impl<'a> Neighbours<'a> {
    pub(crate) fn new(pod: &'a Pod, world: &'a World<'a>) -> Self {
        let wish = |term: &'a PodAffinityTerm| {
            let domains = world.domains_of(term, pod);
            let first = domains.is_empty() && world.means(term, pod, pod);
            Wish { key: &term.topology_key, domains, first }
        };
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let (near, apart) = (required_near(affinity), required_apart(affinity));
        let spread = pod.spec.iter().flat_map(|s| s.topology_spread_constraints.iter().flatten());
        Neighbours {
            near: near.iter().map(wish).collect(),
            apart: apart.iter().map(wish).collect(),
            forbidden: forbidden(pod, world),
            spread: spread.map(|c| Spread::new(c, pod, world)).collect(),
            likes: likes(affinity).into_iter().map(|(weight, term)| (weight, wish(term))).collect(),
            world,
        }
    }

    /// Why the pod cannot go to the node.
    pub(crate) fn obstacle(&self, node: &Node) -> Option<&'static str> {
        let at = |key: &str| self.world.domain(name(&node.metadata), key);
        let beside = |w: &Wish| at(w.key).is_some_and(|d| w.first || w.domains.contains(d));
        if !self.near.iter().all(beside) {
            return Some("node(s) didn't match pod affinity rules");
        }
        if self.apart.iter().any(|w| at(w.key).is_some_and(|d| w.domains.contains(d))) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        if self.forbidden.iter().any(|(key, domain)| at(key) == Some(domain)) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        self.spread.iter().filter(|s| s.strict).find_map(|s| match at(s.key) {
            None => Some("node(s) didn't match pod topology spread constraints (missing required label)"),
            Some(domain) if s.skew(domain) > s.max_skew => Some("node(s) didn't match pod topology spread constraints"),
            Some(_) => None,
        })
    }

    /// Larger is better.
    pub(crate) fn preference(&self, node: &Node) -> i64 {
        let at = |key: &str| self.world.domain(name(&node.metadata), key);
        let liked = self.likes.iter().filter(|(_, w)| at(w.key).is_some_and(|d| w.domains.contains(d)));
        liked.map(|(weight, _)| i64::from(*weight)).sum()
    }

    /// How uneven it would be; smaller is better.
    pub(crate) fn crowd(&self, node: &Node) -> i64 {
        let at = |key: &str| self.world.domain(name(&node.metadata), key);
        self.spread.iter().map(|s| at(s.key).map_or(i64::from(i32::MAX), |d| s.skew(d))).sum()
    }
}

fn required_near(affinity: Option<&Affinity>) -> &[PodAffinityTerm] {
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn required_apart(affinity: Option<&Affinity>) -> &[PodAffinityTerm] {
    let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// Preferred terms with their weights, those to keep apart with negative ones.
fn likes(affinity: Option<&Affinity>) -> Vec<(i32, &PodAffinityTerm)> {
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    let near = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let apart = apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let near = near.into_iter().flatten().map(|t| (t.weight, &t.pod_affinity_term));
    near.chain(apart.into_iter().flatten().map(|t| (-t.weight, &t.pod_affinity_term))).collect()
}

fn forbidden<'a>(pod: &Pod, world: &'a World<'a>) -> BTreeSet<(&'a str, &'a str)> {
    let mut all = BTreeSet::new();
    for (node, other) in world.placed {
        let affinity = other.spec.as_ref().and_then(|s| s.affinity.as_ref());
        for term in required_apart(affinity).iter().filter(|t| world.means(t, other, pod)) {
            all.extend(world.domain(node, &term.topology_key).map(|d| (term.topology_key.as_str(), d)));
        }
    }
    all
}

impl<'a> Spread<'a> {
    fn new(constraint: &'a TopologySpreadConstraint, pod: &Pod, world: &'a World<'a>) -> Self {
        let key = constraint.topology_key.as_str();
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        let wanted = chosen(constraint.label_selector.as_ref(), keys, pod);
        let counts_pod = |p: &Pod| {
            namespace(&p.metadata) == namespace(&pod.metadata)
                && !is_deleted(&p.metadata)
                && wanted.as_ref().is_some_and(|w| w.matches(labels(&p.metadata)))
        };
        let everywhere = constraint.node_affinity_policy.as_deref() == Some("Ignore");
        let eligible = world.nodes.values().filter(|n| everywhere || affinity::allows(pod, n));
        let domains = eligible.filter_map(|n| world.domain(name(&n.metadata), key));
        let mut counts: BTreeMap<&str, i64> = domains.map(|d| (d, 0)).collect();
        for (node, _) in world.placed.iter().filter(|(_, p)| counts_pod(p)) {
            if let Some(count) = world.domain(node, key).and_then(|d| counts.get_mut(d)) {
                *count += 1;
            }
        }
        let enough = constraint.min_domains.is_none_or(|n| counts.len() >= usize::try_from(n).unwrap_or(0));
        let least = if enough { counts.values().min().copied().unwrap_or(0) } else { 0 };
        Spread {
            key,
            strict: constraint.when_unsatisfiable == "DoNotSchedule",
            max_skew: constraint.max_skew.into(),
            own: i64::from(counts_pod(pod)),
            counts,
            least,
        }
    }

    fn skew(&self, domain: &str) -> i64 {
        self.counts.get(domain).copied().unwrap_or(0) + self.own - self.least
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::plan::choose, *};
    use crate::fixture::{changed, object, ready_node};

    /// "a1" is in zone a.
    fn node(name: &str) -> std::sync::Arc<Node> {
        changed(&ready_node(name), |n| {
            n.metadata.labels.get_or_insert_default().insert("zone".into(), name[..1].into());
        })
    }

    fn pod(app: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        object(json!({"metadata": {"name": app, "namespace": "ns", "labels": {"app": app}}, "spec": spec}))
    }

    fn term(app: &str, key: &str) -> Value {
        json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}])
    }

    fn near(app: &str) -> Value {
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app, "zone")}}})
    }

    fn apart(app: &str) -> Value {
        let terms = term(app, "kubernetes.io/hostname");
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    }

    /// Where it goes when these ("web@a1") are there; or the reason.
    fn check(pod: &Pod, placed: &[(&str, &Pod)], expect: &str) {
        let nodes = ["a1", "a2", "b1"].map(node);
        match choose(pod, &nodes, placed, &Namespaces::new()) {
            Ok(found) => assert_eq!(found, expect),
            Err(unfit) => assert!(unfit.message.contains(expect), "{}, not {expect}", unfit.message),
        }
    }

    #[test]
    fn affinity_and_anti_affinity() {
        let (web, db) = (pod("web", json!({})), pod("db", near("web")));
        check(&db, &[("b1", &web)], "b1");
        check(&db, &[], "3 node(s) didn't match pod affinity rules");
        check(&pod("web", near("web")), &[], "a1");
        let lonely = pod("web", apart("web"));
        check(&lonely, &[("a1", &web), ("a2", &web)], "b1");
        check(&lonely, &[("a1", &web), ("a2", &web), ("b1", &web)], "3 node(s) didn't match pod anti-affinity rules");
        let shy = pod("db", apart("web"));
        check(&web, &[("a1", &shy), ("a2", &shy)], "b1");
        check(&web, &[("a1", &shy), ("a2", &shy), ("b1", &shy)], "existing pods anti-affinity");
        let preferred = json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 5, "podAffinityTerm": term("web", "zone")[0]}]}}});
        check(&pod("db", preferred), &[("b1", &web)], "b1");
    }

    #[test]
    fn other_namespaces_count_when_they_are_named() {
        let web = changed(&pod("web", json!({})), |p| p.metadata.namespace = Some("other".into()));
        check(&pod("db", near("web")), &[("b1", &web)], "pod affinity rules");
        let mut named = near("web");
        named["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["namespaces"] =
            json!(["other"]);
        check(&pod("db", named), &[("b1", &web)], "b1");
        let mut all = near("web");
        all["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["namespaceSelector"] =
            json!({});
        check(&pod("db", all), &[("b1", &web)], "b1");
    }

    #[test]
    fn pods_are_spread_over_zones() {
        let spread = |when: &str| {
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
                "labelSelector": {"matchLabels": {"app": "web"}}}]})
        };
        let web = pod("web", spread("DoNotSchedule"));
        check(&web, &[("a1", &web)], "b1");
        check(&web, &[("a1", &web), ("b1", &web)], "a2");
        let mut only_a = spread("DoNotSchedule");
        only_a["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
        only_a["nodeSelector"] = json!({"zone": "a"});
        check(&pod("web", only_a), &[("a1", &web)], "2 node(s) didn't match pod topology spread constraints");
        check(&pod("web", spread("ScheduleAnyway")), &[("a1", &web)], "b1");
    }
}
