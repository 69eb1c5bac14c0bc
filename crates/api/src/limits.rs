//! LimitRanges: what containers get that do not say how much they want, and what nobody may have.

use serde_json::{Map, Value};

use crate::json::{below, each_mut, get, list, map, set, text};
use crate::quota::amount;
use crate::resources::Resource;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Fills in requests and limits of the containers of a new pod, and says so in an annotation.
pub fn defaults(ranges: &[Value], pod: &mut Value) {
    let (limits, requests) = (merged(ranges, "default"), merged(ranges, "defaultRequest"));
    let mut said = Vec::new();
    for path in ["spec.containers", "spec.initContainers"] {
        for container in each_mut(pod, path) {
            let name = text(container, "name").to_owned();
            for (kind, defaults, word) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let filled = fill(container, kind, defaults);
                if !filled.is_empty() {
                    said.push(format!("{} {word} for container {name}", filled.join(", ")));
                }
            }
        }
    }
    if !said.is_empty()
        && let Some(annotations) = below(pod, "metadata").and_then(|m| below(m, "annotations"))
    {
        set(annotations, ANNOTATION, format!("LimitRanger plugin set: {}", said.join("; ")));
    }
}

/// The last range that says something has the last word.
fn merged(ranges: &[Value], key: &str) -> Map<String, Value> {
    let items = ranges.iter().flat_map(|r| list(r, "spec.limits")).filter(|i| text(i, "type") == "Container");
    items.flat_map(|i| map(i, key).cloned().unwrap_or_default()).collect()
}

fn fill(container: &mut Value, kind: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut filled = Vec::new();
    if defaults.is_empty() {
        return filled;
    }
    let Some(amounts) = below(container, "resources").and_then(|r| below(r, kind)) else { return filled };
    for (name, value) in defaults.iter().filter(|(name, _)| amounts.get(*name).is_none()).collect::<Vec<_>>() {
        set(amounts, name, value.clone());
        filled.push(name.clone());
    }
    filled.sort();
    filled
}

/// What of a new object is outside the ranges.
pub fn violations(ranges: &[Value], res: &Resource, object: &Value) -> Vec<String> {
    let items = ranges.iter().flat_map(|r| list(r, "spec.limits"));
    items.flat_map(|item| of_item(item, res, object)).collect()
}

fn of_item(item: &Value, res: &Resource, object: &Value) -> Vec<String> {
    let resources = |path: &'static str| list(object, path).iter().map(|c| get(c, "resources").unwrap_or(&Value::Null));
    match (res.id(), text(item, "type")) {
        (("", "pods"), "Container") => {
            let all = resources("spec.containers").chain(resources("spec.initContainers"));
            all.flat_map(|of| check(item, of, false)).collect()
        }
        (("", "pods"), "Pod") => check(item, &sum(resources("spec.containers")), false),
        (("", "persistentvolumeclaims"), "PersistentVolumeClaim") => {
            check(item, get(object, "spec.resources").unwrap_or(&Value::Null), true)
        }
        _ => Vec::new(),
    }
}

/// The resources of several containers as those of one; what one leaves open is open for all.
fn sum<'a>(all: impl Iterator<Item = &'a Value> + Clone) -> Value {
    let mut total = serde_json::json!({"requests": {}, "limits": {}});
    for kind in ["requests", "limits"] {
        let names: std::collections::BTreeSet<String> =
            all.clone().flat_map(|of| map(of, kind).into_iter().flatten().map(|(name, _)| name.clone())).collect();
        for name in names {
            let amounts: Option<Vec<i128>> = all.clone().map(|of| map(of, kind)?.get(&name).and_then(amount)).collect();
            if let Some(amounts) = amounts {
                let binary = name != "cpu";
                total[kind][&name] = crate::quantity::show(amounts.iter().sum(), binary).into();
            }
        }
    }
    total
}

fn check(item: &Value, of: &Value, requests_only: bool) -> Vec<String> {
    let what = text(item, "type");
    let given = |kind: &str, name: &str| map(of, kind).and_then(|m| m.get(name));
    let mut wrong = Vec::new();
    for (name, least) in map(item, "min").into_iter().flatten() {
        let words = format!("minimum {name} usage per {what} is {}", shown(least));
        wrong.extend(below_least(&words, least, given("requests", name), given("limits", name)));
    }
    for (name, most) in map(item, "max").into_iter().flatten() {
        let words = format!("maximum {name} usage per {what} is {}", shown(most));
        let limit = if requests_only { given("requests", name) } else { given("limits", name) };
        wrong.extend(above_most(&words, most, given("requests", name), limit, requests_only));
    }
    for (name, ratio) in map(item, "maxLimitRequestRatio").into_iter().flatten() {
        let words = format!("{name} max limit to request ratio per {what} is {}", shown(ratio));
        wrong.extend(beyond_ratio(&words, ratio, given("requests", name), given("limits", name)));
    }
    wrong
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn below_least(words: &str, least: &Value, request: Option<&Value>, limit: Option<&Value>) -> Option<String> {
    let under = |value: Option<&Value>| value.filter(|v| amount(v) < amount(least)).map(shown);
    match request {
        None => Some(format!("{words}.  No request is specified")),
        request => under(request)
            .map(|v| format!("{words}, but request is {v}"))
            .or_else(|| under(limit).map(|v| format!("{words}, but limit is {v}"))),
    }
}

fn above_most(
    words: &str,
    most: &Value,
    request: Option<&Value>,
    limit: Option<&Value>,
    requests_only: bool,
) -> Option<String> {
    let over = |value: Option<&Value>| value.filter(|v| amount(v) > amount(most)).map(shown);
    let word = if requests_only { "request" } else { "limit" };
    match limit {
        None => Some(format!("{words}.  No {word} is specified")),
        limit => over(limit)
            .map(|v| format!("{words}, but {word} is {v}"))
            .or_else(|| over(request).map(|v| format!("{words}, but request is {v}"))),
    }
}

fn beyond_ratio(words: &str, ratio: &Value, request: Option<&Value>, limit: Option<&Value>) -> Option<String> {
    let number = |value: Option<&Value>| value.and_then(amount).filter(|n| *n > 0);
    let Some(request) = number(request) else {
        return Some(format!("{words}, but no request is specified or request is 0"));
    };
    let Some(limit) = number(limit) else { return Some(format!("{words}, but no limit is specified or limit is 0")) };
    let most = amount(ratio)?;
    (limit * 1000 > request * most)
        .then(|| format!("{words}, but provided ratio is {:.6}", limit as f64 / request as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::find;
    use serde_json::json;

    fn range(item: Value) -> Vec<Value> {
        vec![json!({"spec": {"limits": [item]}})]
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn containers_get_what_they_leave_open() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut one = pod(json!({"limits": {"cpu": "2"}}));
        defaults(&range, &mut one);
        let got = &one["spec"]["containers"][0]["resources"];
        assert_eq!(got, &json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}}));
        assert_eq!(
            one["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
        let mut none = pod(json!({}));
        defaults(&[], &mut none);
        assert_eq!(none, pod(json!({})));
    }

    #[test]
    fn the_words_of_the_reference() {
        let pods = find("", "v1", "pods").unwrap();
        let check = |item: Value, resources: Value, expect: &[&str]| {
            assert_eq!(violations(&range(item), pods, &pod(resources)), expect);
        };
        let container = |key: &str, amount: &str| json!({"type": "Container", key: {"cpu": amount}});
        check(
            container("min", "100m"),
            json!({}),
            &["minimum cpu usage per Container is 100m.  No request is specified"],
        );
        check(
            container("min", "100m"),
            json!({"requests": {"cpu": "50m"}}),
            &["minimum cpu usage per Container is 100m, but request is 50m"],
        );
        check(container("max", "1"), json!({}), &["maximum cpu usage per Container is 1.  No limit is specified"]);
        check(
            container("max", "1"),
            json!({"limits": {"cpu": "1500m"}}),
            &["maximum cpu usage per Container is 1, but limit is 1500m"],
        );
        check(container("max", "1"), json!({"limits": {"cpu": "1"}}), &[]);
        check(
            container("maxLimitRequestRatio", "2"),
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}),
            &["cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000"],
        );
        check(
            json!({"type": "Pod", "max": {"memory": "1Gi"}}),
            json!({"limits": {"memory": "2Gi"}}),
            &["maximum memory usage per Pod is 1Gi, but limit is 2Gi"],
        );
        let claims = find("", "v1", "persistentvolumeclaims").unwrap();
        let claim = json!({"spec": {"resources": {"requests": {"storage": "20Gi"}}}});
        let item = json!({"type": "PersistentVolumeClaim", "max": {"storage": "10Gi"}});
        assert_eq!(
            violations(&range(item), claims, &claim),
            ["maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 20Gi"]
        );
    }
}
