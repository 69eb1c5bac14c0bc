//! Pods stay five minutes on a node that is not ready or not reachable, unless they say otherwise.

use serde_json::{Value, json};

use crate::object;

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) fn tolerate_node_trouble(pod: &mut Value) {
    let spec = object::child(pod, "spec");
    let given = spec.entry("tolerations").or_insert_with(|| json!([]));
    if !given.is_array() {
        *given = json!([]);
    }
    let Some(given) = given.as_array_mut() else { return };
    for taint in TAINTS {
        if !given.iter().any(|t| tolerates(t, taint)) {
            given.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
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

    #[test]
    fn own_tolerations_win() {
        let mut pod =
            json!({"spec": {"tolerations": [{"key": TAINTS[0], "operator": "Exists", "tolerationSeconds": 2}]}});
        tolerate_node_trouble(&mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((&list[0]["tolerationSeconds"], &list[1]["key"]), (&json!(2), &json!(TAINTS[1])));
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate_node_trouble(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
