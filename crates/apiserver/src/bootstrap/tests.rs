use std::collections::BTreeSet;

use skiff_api::identity::Identity;

use super::*;
use crate::authz::{Attributes, Authorizer};

fn find(kind: &str, name: &str) -> Value {
    let found = objects().into_iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Each resource with its group (as `events.events.k8s.io`) and verbs, as `kubectl describe clusterrole` shows them.
fn described(name: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for rule in find("ClusterRole", name)["rules"].as_array().expect("rules") {
        let words = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
        let verbs: Vec<Value> = words("verbs");
        let verbs: Vec<&str> = verbs.iter().filter_map(Value::as_str).collect();
        for group in words("apiGroups") {
            for resource in words("resources") {
                let dot = if group == "" { "" } else { "." };
                let (resource, group) = (resource.as_str().expect("text"), group.as_str().expect("text"));
                lines.insert(format!("{resource}{dot}{group} [{}]", verbs.join(" ")));
            }
        }
    }
    lines
}

#[test]
fn the_controllers_of_services_have_the_rules_that_are_documented() {
    let service = [
        "events [create patch update]",
        "events.events.k8s.io [create patch update]",
        "services [get list watch]",
        "nodes [list watch]",
        "services/status [patch update]",
    ];
    assert_eq!(described("system:controller:service-controller"), service.map(String::from).into());
    let endpoint = [
        "endpoints [create delete get list update]",
        "events [create patch update]",
        "events.events.k8s.io [create patch update]",
        "endpoints/restricted [create]",
        "pods [get list watch]",
        "services [get list watch]",
    ];
    assert_eq!(described("system:controller:endpoint-controller"), endpoint.map(String::from).into());
    let binding = find("ClusterRoleBinding", "system:controller:endpoint-controller");
    let account = json!([{ "kind": "ServiceAccount", "name": "endpoint-controller", "namespace": "kube-system" }]);
    assert_eq!(binding["subjects"], account);
    assert_eq!(binding["roleRef"]["name"], "system:controller:endpoint-controller");
}

#[test]
fn every_object_is_its_own_and_every_binding_has_its_role() {
    let objects = objects();
    let id = |object: &Value| {
        let metadata = &object["metadata"];
        format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"])
    };
    let ids: BTreeSet<String> = objects.iter().map(id).collect();
    assert_eq!(ids.len(), objects.len());
    for binding in objects.iter().filter(|object| object["roleRef"].is_object()) {
        let role = json!({ "kind": binding["roleRef"]["kind"], "metadata": {
            "namespace": if binding["roleRef"]["kind"] == "Role" { binding["metadata"]["namespace"].clone() } else { Value::Null },
            "name": binding["roleRef"]["name"],
        } });
        assert!(ids.contains(&id(&role)), "{}", id(binding));
    }
}

fn may(user: &Identity, verb: &str, group: &str, resource: &str) -> bool {
    let authorizer = Authorizer::new(Policy::of(&objects()).expect("readable"));
    authorizer.put_pod(&json!({"metadata": {"namespace": "default", "name": "p"},
        "spec": {"nodeName": "n1", "serviceAccountName": "p"}}));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let name = "p";
    let wish = Attributes { group, resource, subresource, namespace: "default", name, ..Attributes::of(user, verb) };
    authorizer.authorize(&wish).is_allowed()
}

#[test]
fn identities_can_do_their_work_and_no_more() {
    let controller = |name| Identity::service_account("kube-system", name);
    let cases = [
        (controller("replicaset-controller"), "create", "", "pods", true),
        (controller("replicaset-controller"), "create", "", "secrets", false),
        (controller("service-controller"), "patch", "", "services/status", true),
        (controller("service-controller"), "update", "", "services", false),
        (controller("generic-garbage-collector"), "delete", "apps", "replicasets", true),
        (Identity::component("system:kube-controller-manager"), "watch", "discovery.k8s.io", "endpointslices", true),
        (Identity::component("system:kube-scheduler"), "create", "", "pods/binding", true),
        (Identity::component("system:kube-proxy"), "watch", "discovery.k8s.io", "endpointslices", true),
        (Identity::component("system:kube-proxy"), "update", "", "services", false),
        (Identity::component("system:kube-dns"), "list", "", "namespaces", true),
        (Identity::node("n1"), "patch", "", "pods/status", true),
        (Identity::node("n1"), "create", "", "serviceaccounts/token", true),
        (Identity::node("n1"), "watch", "discovery.k8s.io", "endpointslices", true),
        (Identity::node("n1"), "list", "", "namespaces", true),
        (Identity::node("n1"), "delete", "apps", "deployments", false),
        (Identity::service_account("default", "default"), "list", "", "pods", false),
        (
            Identity::service_account("default", "default"),
            "create",
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            true,
        ),
        (Identity::anonymous(), "list", "", "pods", false),
        (Identity::admin(), "delete", "", "nodes", true),
    ];
    for (user, verb, group, resource, allowed) in cases {
        assert_eq!(may(&user, verb, group, resource), allowed, "{} {verb} {resource}.{group}", user.name);
    }
}

#[test]
fn people_s_roles_show_the_rules_of_their_parts() {
    let (view, edit, admin) = (described("view"), described("edit"), described("admin"));
    assert!(view.contains("pods [get list watch]") && !view.iter().any(|line| line.starts_with("secrets")));
    assert!(edit.is_superset(&view) && admin.is_superset(&edit));
    assert!(admin.iter().any(|line| line.starts_with("roles.rbac.authorization.k8s.io")));
}

#[test]
fn a_start_adds_what_is_missing_and_takes_nothing() {
    let wanted = find("ClusterRole", "system:controller:service-controller");
    assert_eq!(reconcile(&wanted, &wanted), None);
    let mut changed = wanted.clone();
    let added = json!({ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] });
    changed["rules"] = json!([added]);
    let merged = reconcile(&changed, &wanted).expect("something to write");
    let rules = merged["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), wanted["rules"].as_array().expect("rules").len() + 1);
    assert!(rules.contains(&added));
    changed["metadata"]["annotations"][AUTOUPDATE] = "false".into();
    assert_eq!(reconcile(&changed, &wanted), None);
}
