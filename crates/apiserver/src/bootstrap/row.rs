//! One rule as one line of a table.

use k8s_openapi::api::rbac::v1::PolicyRule;

/// API groups, resources and verbs, each a list of words. The group `core` has no name; the group [`URL`] makes the
/// resources paths; `resource[name]` limits the rule to that name.
pub(super) type Row = (&'static str, &'static str, &'static str);

pub(super) const URL: &str = "url";
pub(super) const READ: &str = "get list watch";
pub(super) const WRITE: &str = "create delete deletecollection patch update";
pub(super) const ALL: &str = "create delete deletecollection get list patch update watch";
pub(super) const EVENTS: Row = ("core events.k8s.io", "events", "create patch update");

pub(super) fn rules(rows: &[Row]) -> Vec<PolicyRule> {
    rows.iter().map(rule).collect()
}

fn rule((groups, resources, verbs): &Row) -> PolicyRule {
    let verbs = sorted(words(verbs));
    if *groups == URL {
        return PolicyRule { non_resource_urls: Some(words(resources)), verbs, ..PolicyRule::default() };
    }
    let (resources, names): (Vec<_>, Vec<_>) = words(resources).into_iter().map(resource_and_name).unzip();
    let names: Vec<String> = names.into_iter().flatten().collect();
    let mut resources = sorted(resources);
    resources.dedup();
    let groups = words(groups).into_iter().map(|group| if group == "core" { String::new() } else { group });
    PolicyRule {
        api_groups: Some(groups.collect()),
        resources: Some(resources),
        resource_names: (!names.is_empty()).then_some(names),
        verbs,
        ..PolicyRule::default()
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words
}

fn resource_and_name(word: String) -> (String, Option<String>) {
    match word.strip_suffix(']').and_then(|word| word.split_once('[')) {
        Some((resource, name)) => (resource.to_string(), Some(name.to_string())),
        None => (word, None),
    }
}
