//! Whether one rule allows one wish, and whether rules cover a rule.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::Attributes;

type Words = Option<Vec<String>>;

fn words(words: &Words) -> &[String] {
    words.as_deref().unwrap_or_default()
}

fn has(list: &Words, word: &str) -> bool {
    words(list).iter().any(|have| have == word)
}

fn has_or_all(list: &Words, word: &str) -> bool {
    words(list).iter().any(|have| have == word || have == "*")
}

pub(super) fn allows(rule: &PolicyRule, wish: &Attributes<'_>) -> bool {
    let verb = words(&Some(rule.verbs.clone())).iter().any(|verb| verb == wish.verb || verb == "*");
    verb && match wish.path {
        Some(path) => words(&rule.non_resource_urls).iter().any(|url| url_matches(url, path)),
        None => {
            has_or_all(&rule.api_groups, wish.group)
                && resource_matches(&rule.resources, wish.resource, wish.subresource)
                && (words(&rule.resource_names).is_empty() || has(&rule.resource_names, wish.name))
        }
    }
}

/// `*` is every path, a trailing `*` every path that begins so.
fn url_matches(url: &str, path: &str) -> bool {
    match url.strip_suffix('*') {
        Some(begin) => path.starts_with(begin),
        None => url == path,
    }
}

/// `*` is everything with every subresource, `*/scale` one subresource of everything.
fn resource_matches(resources: &Words, resource: &str, subresource: &str) -> bool {
    words(resources).iter().any(|have| match have.split_once('/') {
        _ if have == "*" => true,
        None => subresource.is_empty() && have == resource,
        Some((of, sub)) => sub == subresource && (of == "*" || of == resource),
    })
}

/// The parts of `rule` that none of `owned` covers, each with one verb on one thing.
pub(super) fn uncovered(owned: &[PolicyRule], rule: &PolicyRule) -> Vec<PolicyRule> {
    single_rules(rule).into_iter().filter(|single| !owned.iter().any(|own| covers(own, single))).collect()
}

/// A rule taken apart into rules of one group, one resource, one name and one verb, or one path and one verb.
fn single_rules(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut singles = Vec::new();
    for verb in &rule.verbs {
        let one = |word: &String| Some(vec![word.clone()]);
        let blank = PolicyRule { verbs: vec![verb.clone()], ..PolicyRule::default() };
        for url in words(&rule.non_resource_urls) {
            singles.push(PolicyRule { non_resource_urls: one(url), ..blank.clone() });
        }
        for group in words(&rule.api_groups) {
            for resource in words(&rule.resources) {
                let single = PolicyRule { api_groups: one(group), resources: one(resource), ..blank.clone() };
                match words(&rule.resource_names) {
                    [] => singles.push(single),
                    names => singles
                        .extend(names.iter().map(|name| PolicyRule { resource_names: one(name), ..single.clone() })),
                }
            }
        }
    }
    singles
}

fn covers(own: &PolicyRule, single: &PolicyRule) -> bool {
    let verbs = single.verbs.iter().all(|verb| own.verbs.iter().any(|have| have == verb || have == "*"));
    let urls = words(&single.non_resource_urls).iter();
    let groups = words(&single.api_groups).iter();
    let resources = words(&single.resources).iter();
    let names = words(&single.resource_names);
    verbs
        && urls.clone().all(|url| words(&own.non_resource_urls).iter().any(|have| url_matches(have, url)))
        && groups.clone().all(|group| has_or_all(&own.api_groups, group))
        && resources.clone().all(|resource| covers_resource(&own.resources, resource))
        && (words(&own.resource_names).is_empty()
            || !names.is_empty() && names.iter().all(|name| has(&own.resource_names, name)))
}

fn covers_resource(own: &Words, resource: &str) -> bool {
    let (of, sub) = resource.split_once('/').unwrap_or((resource, ""));
    has(own, resource) || has(own, "*") || resource != "*" && resource_matches(own, of, sub)
}
