//! What every cluster has from its first second: namespaces, the roles and bindings of the reference, the accounts of the
//! controllers, priority classes. Tables, and what they become.

mod components;
mod controllers;
mod people;
mod row;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Map, Value, json};

use crate::authz::Policy;
use row::{Row, rules};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const CONTROLLER_PREFIX: &str = "system:controller:";

/// A ClusterRole and to whom it is bound.
struct ClusterRole {
    name: &'static str,
    rules: &'static [Row],
    subjects: &'static [Subject],
}

/// Users, groups and ServiceAccounts of kube-system.
enum Subject {
    User(&'static str),
    Group(&'static str),
    Account(&'static str),
}

/// A Role with its RoleBinding of the same name.
struct Role {
    namespace: &'static str,
    name: &'static str,
    rules: &'static [Row],
    subjects: &'static [Subject],
}

/// All objects, in an order in which each can be created.
pub fn objects() -> Vec<Value> {
    let mut objects = namespaces();
    let mut roles: Vec<Value> = components::CLUSTER_ROLES.iter().map(cluster_role).collect();
    roles.extend(controllers::ROLES.iter().map(controller_role));
    roles.extend(people::roles());
    fill_aggregated(&mut roles);
    objects.extend(roles);
    objects.extend(components::CLUSTER_ROLES.iter().filter(|role| !role.subjects.is_empty()).map(cluster_binding));
    objects.extend(controllers::ROLES.iter().map(|(name, _)| controller_binding(name)));
    objects.extend(components::ROLES.iter().flat_map(|role| [namespaced_role(role), role_binding(role)]));
    objects.extend(controllers::ROLES.iter().map(|(name, _)| account(name)));
    objects.extend(priority_classes());
    objects
}

/// What a start has to write over an object of the table that is there: whatever the table has and it has not. None if
/// it has everything or its owner has said that it is to be left alone.
pub fn reconcile(existing: &Value, wanted: &Value) -> Option<Value> {
    let list = match existing["kind"].as_str()? {
        "ClusterRole" | "Role" => "rules",
        "ClusterRoleBinding" | "RoleBinding" => "subjects",
        _ => return None,
    };
    if existing["metadata"]["annotations"][AUTOUPDATE].as_str() == Some("false") {
        return None;
    }
    let mut merged = existing.clone();
    add_missing_items(&mut merged, wanted, list);
    for map in ["labels", "annotations"] {
        add_missing_keys(&mut merged["metadata"], &wanted["metadata"], map);
    }
    (merged != *existing).then_some(merged)
}

fn add_missing_items(merged: &mut Value, wanted: &Value, list: &str) {
    let have = merged[list].as_array().cloned().unwrap_or_default();
    let missing = wanted[list].as_array().into_iter().flatten().filter(|item| !have.contains(item));
    let all: Vec<Value> = have.iter().chain(missing).cloned().collect();
    if all.len() > have.len() {
        merged[list] = all.into();
    }
}

fn add_missing_keys(merged: &mut Value, wanted: &Value, map: &str) {
    let Some(wanted) = wanted[map].as_object() else { return };
    let mut all = merged[map].as_object().cloned().unwrap_or_default();
    for (key, value) in wanted {
        all.entry(key.clone()).or_insert_with(|| value.clone());
    }
    merged[map] = all.into();
}

fn namespaces() -> Vec<Value> {
    let namespace = |name| {
        let labels = json!({ "kubernetes.io/metadata.name": name });
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
    };
    ["default", "kube-system", "kube-public", "kube-node-lease"].map(namespace).into()
}

fn priority_classes() -> Vec<Value> {
    let class = |name, value, description| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    vec![
        class("system-node-critical", 2_000_001_000, "For pods that their node cannot do without."),
        class("system-cluster-critical", 2_000_000_000, "For pods that the cluster cannot do without."),
    ]
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), name.into());
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("labels".into(), json!({ "kubernetes.io/bootstrapping": "rbac-defaults" }));
    metadata.insert("annotations".into(), json!({ AUTOUPDATE: "true" }));
    metadata.into()
}

fn role(kind: &str, metadata: Value, rules: Vec<PolicyRule>) -> Value {
    json!({ "apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": rules })
}

fn binding(kind: &str, metadata: Value, role_kind: &str, subjects: Vec<Value>) -> Value {
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": metadata["name"] });
    json!({ "apiVersion": RBAC, "kind": kind, "metadata": metadata, "roleRef": role, "subjects": subjects })
}

fn cluster_role(of: &ClusterRole) -> Value {
    role("ClusterRole", metadata("", of.name), rules(of.rules))
}

fn cluster_binding(of: &ClusterRole) -> Value {
    binding("ClusterRoleBinding", metadata("", of.name), "ClusterRole", of.subjects.iter().map(subject).collect())
}

fn controller_role((name, rows): &(&str, &[Row])) -> Value {
    role("ClusterRole", metadata("", &format!("{CONTROLLER_PREFIX}{name}")), rules(rows))
}

fn controller_binding(name: &'static str) -> Value {
    let metadata = metadata("", &format!("{CONTROLLER_PREFIX}{name}"));
    binding("ClusterRoleBinding", metadata, "ClusterRole", vec![subject(&Subject::Account(name))])
}

fn namespaced_role(of: &Role) -> Value {
    role("Role", metadata(of.namespace, of.name), rules(of.rules))
}

fn role_binding(of: &Role) -> Value {
    let subjects = of.subjects.iter().map(subject).collect();
    binding("RoleBinding", metadata(of.namespace, of.name), "Role", subjects)
}

fn subject(subject: &Subject) -> Value {
    let group = "rbac.authorization.k8s.io";
    match subject {
        Subject::User(name) => json!({ "apiGroup": group, "kind": "User", "name": name }),
        Subject::Group(name) => json!({ "apiGroup": group, "kind": "Group", "name": name }),
        Subject::Account(name) => json!({ "kind": "ServiceAccount", "name": name, "namespace": "kube-system" }),
    }
}

fn account(name: &str) -> Value {
    let metadata = json!({ "name": name, "namespace": "kube-system" });
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })
}

/// A role that aggregates others also shows their rules.
fn fill_aggregated(roles: &mut [Value]) {
    let policy = Policy::of(&*roles).expect("the tables are roles");
    for role in roles.iter_mut().filter(|role| role["aggregationRule"].is_object()) {
        let rules = policy.cluster_role_rules(role["metadata"]["name"].as_str().unwrap_or_default());
        role["rules"] = json!(rules);
    }
}

#[cfg(test)]
mod tests;
