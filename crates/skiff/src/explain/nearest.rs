//! What a person may have meant: names and labels that are nearly the ones they wrote. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::objects::name;

/// How many letters must be changed, put in, left out or swapped with their neighbour (Levenshtein, with Damerau's swaps).
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            let swap = if swapped { rows[i - 2][j - 2] + 1 } else { usize::MAX };
            row.push(change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1).min(swap));
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A third of the letters may be wrong.
fn is_near(a: &str, b: &str) -> bool {
    distance(a, b) <= (a.len().max(b.len()) / 3).max(1) || (a.len() > 2 && (b.starts_with(a) || a.starts_with(b)))
}

/// At most three names that are near, the nearest first.
pub(super) fn names<'a>(wanted: &str, there: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<&str> = there.into_iter().filter(|n| is_near(wanted, n)).collect();
    near.sort_by_key(|n| (distance(wanted, n), *n));
    near.dedup();
    near.truncate(3);
    near
}

/// Pods that a selector nearly takes.
#[derive(Debug, PartialEq)]
pub(super) struct NearPods<'a> {
    pub(super) pods: Vec<&'a str>,
    /// What they carry in place of what the selector says.
    pub(super) carry: BTreeMap<String, String>,
    /// The selector that would take them, as a change: null takes a key away.
    pub(super) change: BTreeMap<String, Option<String>>,
}

/// The group of pods with the fewest and smallest differences; None where there is nothing alike.
pub(super) fn pods<'a>(selector: &BTreeMap<String, String>, pods: &[&'a Pod]) -> Option<NearPods<'a>> {
    let mut groups: BTreeMap<(usize, Pairs, Vec<Change>), Vec<&'a str>> = BTreeMap::new();
    for pod in pods {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        if let Some((cost, carry, change)) = compare(selector, &labels) {
            groups.entry((cost, carry, change)).or_default().push(name(&pod.metadata));
        }
    }
    let ((_, carry, change), pods) =
        groups.into_iter().min_by_key(|((cost, ..), pods)| (*cost, usize::MAX - pods.len()))?;
    Some(NearPods { pods, carry: carry.into_iter().collect(), change: change.into_iter().collect() })
}

type Pairs = BTreeSet<(String, String)>;
type Change = (String, Option<String>);

/// What it costs to make the selector take these labels.
fn compare(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> Option<(usize, Pairs, Vec<Change>)> {
    let (mut cost, mut carry, mut change) = (0, Pairs::new(), vec![]);
    for (key, value) in selector.iter().filter(|(k, v)| labels.get(*k) != Some(*v)) {
        let other_value = labels.get(key).map(|have| (distance(value, have), key, have));
        let other_key = labels
            .iter()
            .filter(|(k, v)| {
                !selector.contains_key(*k) && (*v == value || is_near(v, value)) && (is_near(k, key) || *v == value)
            })
            .map(|(k, v)| (distance(key, k) + distance(value, v) + 1, k, v));
        let (step, have_key, have_value) = other_value.into_iter().chain(other_key).min()?;
        cost += step;
        carry.insert((have_key.clone(), have_value.clone()));
        if have_key != key {
            change.push((key.clone(), None));
        }
        change.push((have_key.clone(), Some(have_value.clone())));
    }
    Some((cost, carry, change))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in
            [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("svc", "svcs", 1), ("wbe", "web", 1)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (want, want), "{a} {b}");
        }
    }

    #[test]
    fn near_names() {
        let there = ["ms-hello-svc", "ms-bye-svc", "kubernetes", "web"];
        assert_eq!(names("ms-helo-svc", there), ["ms-hello-svc"]);
        assert_eq!(names("kubernets", there), ["kubernetes"]);
        assert!(names("database", there).is_empty());
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    fn pod(name: &str, labels: &[(&str, &str)]) -> Pod {
        from_value(json!({"metadata": {"name": name, "labels": map(labels)}})).unwrap()
    }

    #[test]
    fn near_labels() {
        let all = [
            pod("a", &[("app", "ms-hello-pod"), ("hash", "1")]),
            pod("b", &[("app", "ms-hello-pod"), ("hash", "1")]),
            pod("c", &[("app", "other")]),
            pod("d", &[("apps", "far-away-from-all")]),
        ];
        let all: Vec<&Pod> = all.iter().collect();
        let near = pods(&map(&[("app", "ms-hello-pods")]), &all).unwrap();
        assert_eq!((near.pods, near.carry), (vec!["a", "b"], map(&[("app", "ms-hello-pod")])));
        assert_eq!(near.change, [("app".to_owned(), Some("ms-hello-pod".to_owned()))].into());
        let near = pods(&map(&[("ap", "other")]), &all).unwrap();
        assert_eq!(near.pods, ["c"]);
        assert_eq!(near.change.len(), 2, "the wrong key goes, the right one comes");
        assert_eq!(pods(&map(&[("tier", "db")]), &all), None);
    }
}
