use serde_json::{Value, json};
use skiff_api::identity::Identity;

use super::*;

fn role(kind: &str, namespace: &str, name: &str, rules: Value) -> Value {
    json!({ "kind": kind, "metadata": { "namespace": namespace, "name": name }, "rules": rules })
}

fn binding(namespace: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1 });
    json!({ "kind": kind, "metadata": { "namespace": namespace, "name": name }, "roleRef": role, "subjects": [subject] })
}

fn user(name: &str) -> Identity {
    Identity { name: name.into(), groups: vec!["system:authenticated".into()], ..Identity::default() }
}

/// `verb group resource[/subresource] namespace[/name]` or `verb /path`, `-` for nothing.
fn may(policy: &Policy, user: &Identity, wish: &str) -> bool {
    let words: Vec<&str> = wish.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
    let mut attributes = Attributes::of(user, words[0]);
    if let [_, path] = words[..] {
        attributes.path = Some(path);
    } else {
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        let (namespace, name) = words[3].split_once('/').unwrap_or((words[3], ""));
        attributes = Attributes { group: words[1], resource, subresource, namespace, name, ..attributes };
    }
    policy.decide(&attributes).is_allowed()
}

fn check(policy: &Policy, user: &Identity, expect: &[(&str, bool)]) {
    for (wish, allowed) in expect {
        assert_eq!(may(policy, user, wish), *allowed, "{} {wish}", user.name);
    }
}

fn cluster_policy(rules: Value) -> Policy {
    let subject = json!({ "kind": "User", "name": "ann" });
    let objects = [role("ClusterRole", "", "r", rules), binding("", "b", ("ClusterRole", "r"), subject)];
    Policy::of(&objects).expect("readable")
}

#[test]
fn rules_match_groups_resources_and_subresources() {
    let policy = cluster_policy(json!([
        { "apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"] },
        { "apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"] },
        { "apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["update"] },
    ]));
    check(
        &policy,
        &user("ann"),
        &[
            ("get - pods default/a", true),
            ("get - pods/log default/a", true),
            ("get - pods/exec default/a", false),
            ("delete - pods default/a", false),
            ("list - services default", false),
            ("get extensions pods default/a", false),
            ("delete apps deployments default/a", true),
            ("update apps deployments/status default/a", true),
            ("update batch jobs/scale default/a", true),
            ("update batch jobs default/a", false),
            ("get /healthz", false),
        ],
    );
    check(&policy, &user("bob"), &[("get - pods default/a", false)]);
}

#[test]
fn resource_names_limit_a_rule() {
    let rule =
        json!([{ "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get", "list"] }]);
    check(
        &cluster_policy(rule),
        &user("ann"),
        &[
            ("get - configmaps x/a", true),
            ("get - configmaps x/b", false),
            ("list - configmaps x", false),
            ("list - configmaps x/a", true),
        ],
    );
}

#[test]
fn paths_match_exactly_or_by_their_beginning() {
    let rule = json!([{ "nonResourceURLs": ["/healthz", "/apis/*"], "verbs": ["get"] }]);
    check(
        &cluster_policy(rule),
        &user("ann"),
        &[
            ("get /healthz", true),
            ("get /healthz/ping", false),
            ("get /apis/apps", true),
            ("get /apis", false),
            ("post /apis/apps", false),
            ("get - pods default", false),
        ],
    );
    check(&cluster_policy(json!([{ "nonResourceURLs": ["*"], "verbs": ["*"] }])), &user("ann"), &[("put /x/y", true)]);
}

#[test]
fn a_role_binding_counts_in_its_namespace_only() {
    let rules = json!([{ "apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["list"] }]);
    let ann = json!({ "kind": "User", "name": "ann" });
    let objects = [
        role("ClusterRole", "", "shared", rules.clone()),
        role("Role", "red", "own", rules),
        binding("red", "a", ("Role", "own"), json!({ "kind": "ServiceAccount", "name": "sa" })),
        binding("blue", "b", ("ClusterRole", "shared"), ann.clone()),
        binding("blue", "c", ("Role", "own"), ann),
    ];
    let policy = Policy::of(&objects).expect("readable");
    check(&policy, &user("ann"), &[("list - pods blue", true), ("list - pods red", false), ("list - pods -", false)]);
    let account = Identity::service_account("red", "sa");
    check(&policy, &account, &[("list - pods red", true), ("list - pods blue", false), ("list - nodes -", false)]);
    check(&policy, &Identity::service_account("blue", "sa"), &[("list - pods red", false)]);
}

#[test]
fn groups_and_masters() {
    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    let group = json!({ "kind": "Group", "name": "system:authenticated" });
    let objects = [role("ClusterRole", "", "r", rules), binding("", "b", ("ClusterRole", "r"), group)];
    let policy = Policy::of(&objects).expect("readable");
    check(&policy, &user("anyone"), &[("get - pods x/y", true), ("list - pods x", false)]);
    check(&policy, &Identity::anonymous(), &[("get - pods x/y", false)]);
    check(&policy, &Identity::admin(), &[("anything some where x/y", true), ("get /any", true)]);
}

#[test]
fn aggregated_roles_have_the_rules_of_their_parts() {
    let part = |name: &str, label: &str, resource: &str| {
        let mut part =
            role("ClusterRole", "", name, json!([{ "apiGroups": [""], "resources": [resource], "verbs": ["get"] }]));
        part["metadata"]["labels"] = json!({ "to": label });
        part
    };
    let whole = |name: &str, label: &str, of: &str| {
        let mut whole = role("ClusterRole", "", name, json!([]));
        whole["metadata"]["labels"] = json!({ "to": label });
        whole["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { "to": of } }] });
        whole
    };
    let ann = json!({ "kind": "User", "name": "ann" });
    let objects = [
        part("p", "view", "pods"),
        part("s", "edit", "services"),
        whole("view", "edit", "view"),
        // Made of itself too: must end.
        whole("edit", "edit", "edit"),
        binding("", "b", ("ClusterRole", "edit"), ann),
    ];
    let mut policy = Policy::of(&objects).expect("readable");
    check(&policy, &user("ann"), &[("get - pods x/y", true), ("get - services x/y", true), ("get - nodes -/y", false)]);
    assert_eq!(policy.cluster_role_rules("view").len(), 1);
    policy.put(Kind::ClusterRole, &part("n", "view", "nodes")).expect("readable");
    check(&policy, &user("ann"), &[("get - nodes -/y", true)]);
    policy.remove(Kind::ClusterRole, "", "n");
    check(&policy, &user("ann"), &[("get - nodes -/y", false)]);
}

#[test]
fn changes_count_at_once() {
    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    let mut policy = cluster_policy(rules);
    let bob = json!({ "kind": "User", "name": "bob" });
    policy.put(Kind::ClusterRoleBinding, &binding("", "b", ("ClusterRole", "r"), bob)).expect("readable");
    check(&policy, &user("ann"), &[("get - pods x/y", false)]);
    check(&policy, &user("bob"), &[("get - pods x/y", true)]);
    policy.remove(Kind::ClusterRole, "", "r");
    let bob = user("bob");
    let wish = Attributes { resource: "pods", ..Attributes::of(&bob, "get") };
    let Decision::Deny { reason } = policy.decide(&wish) else { panic!("allowed by a role that is gone") };
    assert_eq!(reason, "ClusterRole \"r\" not found");
}

#[test]
fn nobody_gives_what_he_has_not() {
    let policy = cluster_policy(json!([
        { "apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get", "list"] },
        { "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["*"] },
        { "nonResourceURLs": ["/metrics/*"], "verbs": ["get"] },
    ]));
    let escalates = |user: &Identity, rule: Value| {
        policy.escalates(user, "", &[serde_json::from_value(rule).expect("a rule")]).len()
    };
    let ann = user("ann");
    let cases = [
        (json!({ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }), 0),
        (json!({ "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"], "verbs": ["list"] }), 0),
        (json!({ "apiGroups": [""], "resources": ["deployments/scale"], "verbs": ["get"] }), 0),
        (json!({ "apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "delete"] }), 3),
        (json!({ "apiGroups": [""], "resources": ["*"], "verbs": ["get"] }), 1),
        (json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }), 1),
        (json!({ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"] }), 0),
        (json!({ "nonResourceURLs": ["/metrics/x"], "verbs": ["get"] }), 0),
        (json!({ "nonResourceURLs": ["*"], "verbs": ["get"] }), 1),
    ];
    for (rule, expect) in cases {
        assert_eq!(escalates(&ann, rule.clone()), expect, "{rule}");
        assert_eq!(escalates(&Identity::admin(), rule), 0);
    }
}
