//! The small formats that columns share: ages, labels, selectors, shortened lists.

use jiff::Timestamp;
use serde_json::Value;

/// A duration as kubectl shows ages: at most two units, fewer the longer it is.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two_units(seconds, (MINUTE, "m"), (1, "s")),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two_units(seconds, (HOUR, "h"), (MINUTE, "m")),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two_units(seconds, (DAY, "d"), (HOUR, "h")),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two_units(seconds, (YEAR, "y"), (DAY, "d")),
        _ => format!("{}y", seconds / YEAR),
    }
}

fn two_units(seconds: i64, (large, large_sign): (i64, &str), (small, small_sign): (i64, &str)) -> String {
    let rest = seconds % large / small;
    let whole = seconds / large;
    if rest == 0 { format!("{whole}{large_sign}") } else { format!("{whole}{large_sign}{rest}{small_sign}") }
}

pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// How long a time lies before now.
pub(super) fn since(time: Option<Timestamp>, now: Timestamp) -> String {
    time.map_or_else(|| "<unknown>".into(), |time| human_duration(seconds_between(time, now)))
}

/// Whole seconds; a fraction never counts, whatever its sign.
pub(super) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

/// The text, or these words where it is empty.
pub(super) fn or<'a>(text: &'a str, absent: &'static str) -> &'a str {
    if text.is_empty() { absent } else { text }
}

/// `a=b,c=d` in the order of keys.
pub(super) fn labels(map: &Value) -> String {
    let mut pairs = label_pairs(map);
    pairs.sort();
    or(&pairs.join(","), "<none>").to_string()
}

fn label_pairs(map: &Value) -> Vec<String> {
    let entries = map.as_object().into_iter().flatten();
    entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect()
}

/// A LabelSelector in the text form of selectors.
pub(super) fn selector(selector: &Value) -> String {
    let mut parts = label_pairs(&selector["matchLabels"]);
    parts.extend(selector["matchExpressions"].as_array().into_iter().flatten().map(expression));
    parts.sort_by(|a, b| selector_key(a).cmp(selector_key(b)));
    or(&parts.join(","), "<none>").to_string()
}

fn selector_key(part: &str) -> &str {
    part.trim_start_matches('!').split([' ', '=']).next().unwrap_or_default()
}

fn expression(expression: &Value) -> String {
    let key = expression["key"].as_str().unwrap_or_default();
    let mut values = texts(&expression["values"]);
    values.sort_unstable();
    let values = values.join(",");
    match expression["operator"].as_str().unwrap_or_default() {
        "Exists" => key.to_string(),
        "DoesNotExist" => format!("!{key}"),
        "NotIn" => format!("{key} notin ({values})"),
        _ => format!("{key} in ({values})"),
    }
}

/// The strings of a list.
pub(super) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The first few, and how many are left.
pub(super) fn shortened(list: Vec<String>, most: usize, separator: &str) -> String {
    let more = list.len().saturating_sub(most);
    let shown = list.into_iter().take(most).collect::<Vec<_>>().join(separator);
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

/// A condition's status, by its type.
pub(super) fn condition<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a str> {
    conditions.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str())
}
