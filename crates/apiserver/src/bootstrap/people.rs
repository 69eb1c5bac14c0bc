//! The roles to give to people: `view`, `edit` (which also views) and `admin` (which also edits). Each is made of the roles
//! that carry its label, so that an extension adds its kinds to all three by a labelled role of its own.

use serde_json::{Value, json};

use super::{
    metadata, role,
    row::{ALL, READ, Row, WRITE, rules},
};

const VIEW: &[Row] = &[
    (
        "core",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
         replicationcontrollers/scale serviceaccounts services services/status",
        READ,
    ),
    (
        "core",
        "bindings events limitranges namespaces namespaces/status pods/log pods/status replicationcontrollers/status \
         resourcequotas resourcequotas/status",
        READ,
    ),
    ("discovery.k8s.io", "endpointslices", READ),
    (
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
        READ,
    ),
    ("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", READ),
    ("batch", "cronjobs cronjobs/status jobs jobs/status", READ),
    ("policy", "poddisruptionbudgets poddisruptionbudgets/status", READ),
    ("networking.k8s.io", "ingresses ingresses/status networkpolicies", READ),
];

const EDIT: &[Row] = &[
    ("core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", READ),
    ("core", "serviceaccounts", "impersonate"),
    ("core", "pods pods/attach pods/exec pods/portforward pods/proxy", WRITE),
    ("core", "pods/eviction serviceaccounts/token", "create"),
    (
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
        WRITE,
    ),
    (
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
        WRITE,
    ),
    ("autoscaling", "horizontalpodautoscalers", WRITE),
    ("batch", "cronjobs jobs", WRITE),
    ("policy", "poddisruptionbudgets", WRITE),
    ("networking.k8s.io", "ingresses networkpolicies", WRITE),
    ("coordination.k8s.io", "leases", ALL),
];

const ADMIN: &[Row] = &[
    ("authorization.k8s.io", "localsubjectaccessreviews", "create"),
    ("rbac.authorization.k8s.io", "rolebindings roles", ALL),
];

pub(super) fn roles() -> Vec<Value> {
    vec![
        part("admin", ADMIN),
        part("edit", EDIT),
        part("view", VIEW),
        whole("admin", None),
        whole("edit", Some("admin")),
        whole("view", Some("edit")),
    ]
}

fn label(to: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{to}")
}

fn part(to: &str, rows: &[Row]) -> Value {
    let mut part = role("ClusterRole", metadata("", &format!("system:aggregate-to-{to}")), rules(rows));
    part["metadata"]["labels"][label(to)] = "true".into();
    part
}

fn whole(name: &str, into: Option<&str>) -> Value {
    let mut whole = role("ClusterRole", metadata("", name), Vec::new());
    if let Some(to) = into {
        whole["metadata"]["labels"][label(to)] = "true".into();
    }
    whole["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label(name): "true" } }] });
    whole
}
