//! `autoscaling/v1` knows one metric, the use of CPU. The rest of `v2`, in which autoscalers are stored, stands in annotations.

use serde_json::{Map, Value, json};

use crate::json::{below, get, get_mut, list, remove, set};

/// Fields of `v2` that `v1` lacks, and the annotations that carry them.
const SHELVED: &[(&str, &str, &str)] = &[
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
];

/// `v1` to `v2`.
pub(super) fn store(object: &mut Value) {
    for (half, field, annotation) in SHELVED {
        let text = take_annotation(object, annotation);
        let value = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if let Some(value) = value
            && let Some(half) = below(object, half)
        {
            set(half, field, value);
        }
    }
    let target = |n: &Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": n}}});
    let current =
        |n: &Value| json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": n}}});
    put_first(object, "spec", "targetCPUUtilizationPercentage", "metrics", target);
    put_first(object, "status", "currentCPUUtilizationPercentage", "currentMetrics", current);
}

/// `v2` to `v1`.
pub(super) fn show(object: &mut Value) {
    take_first(object, "spec", "metrics", "targetCPUUtilizationPercentage", "resource.target.averageUtilization");
    take_first(
        object,
        "status",
        "currentMetrics",
        "currentCPUUtilizationPercentage",
        "resource.current.averageUtilization",
    );
    for (half, field, annotation) in SHELVED {
        let value = get_mut(object, half).and_then(|half| remove(half, field));
        let said = value.filter(|v| !v.is_null() && v.as_array().is_none_or(|list| !list.is_empty()));
        if let Some(value) = said
            && let Some(annotations) = below(object, "metadata").and_then(|m| below(m, "annotations"))
        {
            set(annotations, annotation, value.to_string());
        }
    }
}

fn put_first(object: &mut Value, half: &str, field: &str, list: &str, metric: impl Fn(&Value) -> Value) {
    let Some(half) = get_mut(object, half) else { return };
    let Some(percent) = remove(half, field) else { return };
    let mut metrics = vec![metric(&percent)];
    if let Some(Value::Array(others)) = remove(half, list) {
        metrics.extend(others);
    }
    set(half, list, metrics);
}

/// Takes the use of CPU out of the metrics, if it stands first: in any other place its order would be lost.
fn take_first(object: &mut Value, half: &str, field: &str, name: &str, percent: &str) {
    let Some(half) = get_mut(object, half) else { return };
    let first = list(half, field).first();
    let is_cpu = first.is_some_and(|m| get(m, "resource.name") == Some(&json!("cpu")));
    let percent = first.filter(|_| is_cpu).and_then(|m| get(m, percent)).cloned();
    if let (Some(percent), Some(metrics)) = (percent, half.get_mut(field).and_then(Value::as_array_mut)) {
        metrics.remove(0);
        set(half, name, percent);
    }
}

fn take_annotation(object: &mut Value, key: &str) -> Option<String> {
    let metadata = get_mut(object, "metadata")?;
    let annotations = metadata.get_mut("annotations")?;
    let text = remove(annotations, key)?;
    if annotations.as_object().is_some_and(Map::is_empty) {
        remove(metadata, "annotations");
    }
    text.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_the_versions() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 60}}});
        let cases = [
            json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [cpu]}}),
            json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [cpu, memory], "behavior": {"scaleUp": {}}}}),
            json!({"metadata": {"name": "a"}, "spec": {"metrics": [memory, cpu]}, "status": {"conditions": [{"type": "x"}]}}),
            json!({"metadata": {"name": "a", "annotations": {"b": "c"}}, "spec": {"metrics": [memory]}}),
        ];
        for stored in cases {
            let mut object = stored.clone();
            show(&mut object);
            assert!(object["spec"].get("metrics").is_none());
            store(&mut object);
            assert_eq!(object, stored);
        }
        let mut one = json!({"metadata": {"name": "a"}, "spec": {"metrics": [cpu]}});
        show(&mut one);
        assert_eq!(one, json!({"metadata": {"name": "a"}, "spec": {"targetCPUUtilizationPercentage": 50}}));
    }
}
