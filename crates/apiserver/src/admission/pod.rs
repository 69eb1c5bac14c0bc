//! Pods stay for a while on a node that is not ready or not reachable, unless they say otherwise.

use serde_json::{Value, json};

use crate::{Config, object};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub(super) fn tolerate_node_trouble(pod: &mut Value, config: &Config) {
    tolerate(pod, &[(NOT_READY, config.not_ready_toleration), (UNREACHABLE, config.unreachable_toleration)]);
}

fn tolerate(pod: &mut Value, taints: &[(&str, i64)]) {
    let spec = object::child(pod, "spec");
    let given = spec.entry("tolerations").or_insert_with(|| json!([]));
    if !given.is_array() {
        *given = json!([]);
    }
    let Some(given) = given.as_array_mut() else { return };
    for (taint, seconds) in taints {
        if !given.iter().any(|t| tolerates(t, taint)) {
            given
                .push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}));
        }
    }
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let is = |field: &str, wanted: &str| toleration[field].as_str().is_none_or(|v| v.is_empty() || v == wanted);
    is("key", taint) && is("effect", "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [(&str, i64); 2] = [(NOT_READY, 300), (UNREACHABLE, 30)];

    #[test]
    fn own_tolerations_win() {
        let mut pod =
            json!({"spec": {"tolerations": [{"key": NOT_READY, "operator": "Exists", "tolerationSeconds": 2}]}});
        tolerate(&mut pod, &BOTH);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((&list[0]["tolerationSeconds"], &list[1]["key"]), (&json!(2), &json!(UNREACHABLE)));
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate(&mut all, &BOTH);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
