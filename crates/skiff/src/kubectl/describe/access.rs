//! Namespaces, ConfigMaps, Secrets, ServiceAccounts, roles and their bindings.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use skiff_api::{json, resources};

use super::{Writer, fields::go_list};

pub(super) fn namespace(w: &mut Writer, object: &Value) -> bool {
    w.head(object);
    w.field(0, "Status", json::text(object, "status.phase"));
    w.line(0, "\nNo resource quota.");
    w.line(0, "\nNo LimitRange resource.");
    false
}

pub(super) fn config_map(w: &mut Writer, object: &Value) -> bool {
    w.head(object);
    w.line(0, "\nData\n====");
    for (key, value) in pairs(object, "data") {
        w.line(0, format!("{key}:\n----\n{}\n", value.as_str().unwrap_or_default()));
    }
    w.line(0, "\nBinaryData\n====");
    for (key, value) in pairs(object, "binaryData") {
        w.line(0, format!("{key}: {} bytes", length(value)));
    }
    w.line(0, "");
    true
}

fn pairs<'a>(object: &'a Value, field: &str) -> Vec<(&'a String, &'a Value)> {
    let mut all: Vec<_> = json::map(object, field).into_iter().flatten().collect();
    all.sort_by_key(|(key, _)| *key);
    all
}

fn length(value: &Value) -> usize {
    STANDARD.decode(value.as_str().unwrap_or_default()).map_or(0, |bytes| bytes.len())
}

pub(super) fn secret(w: &mut Writer, object: &Value) -> bool {
    let type_ = json::text(object, "type");
    w.head(object);
    w.line(0, format!("\nType:\t{type_}\n\nData\n===="));
    for (key, value) in pairs(object, "data") {
        if key == "token" && type_ == "kubernetes.io/service-account-token" {
            let token = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
            w.field(0, key, String::from_utf8_lossy(&token));
        } else {
            w.field(0, key, format!("{} bytes", length(value)));
        }
    }
    false
}

pub(super) fn service_account(w: &mut Writer, object: &Value) -> bool {
    w.head(object);
    for (title, field) in [("Image pull secrets", "imagePullSecrets"), ("Mountable secrets", "secrets")] {
        let names: Vec<String> = json::list(object, field).iter().map(|s| json::text(s, "name").to_owned()).collect();
        w.several(0, title, &names);
    }
    w.field(0, "Tokens", "<none>");
    true
}

/// One line of a role: a resource (or a path), the names it is limited to, the verbs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    group: Option<String>,
    resource: Option<String>,
    path: Option<String>,
    name: Option<String>,
    verbs: Vec<String>,
}

impl Rule {
    /// The text that kubectl orders rules by.
    fn key(&self) -> String {
        let list = |text: &Option<String>| text.clone().unwrap_or_default();
        format!(
            "Verbs:[{}],APIGroups:[{}],Resources:[{}],ResourceNames:[{}],NonResourceURLs:[{}],",
            self.verbs.join(" "),
            list(&self.group),
            list(&self.resource),
            list(&self.name),
            list(&self.path)
        )
    }

    /// `deployments.apps/scale`
    fn qualified(&self) -> String {
        let (resource, group) =
            (self.resource.as_deref().unwrap_or_default(), self.group.as_deref().unwrap_or_default());
        match resource.split_once('/') {
            Some((resource, below)) => format!("{}/{below}", resources::qualified(resource, group)),
            None => resources::qualified(resource, group),
        }
    }
}

/// Every rule broken down to one resource, and those for the same resource put together again.
fn rules(role: &Value) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    for rule in json::list(role, "rules") {
        let texts = |field: &str| json::texts(rule, field).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let verbs = texts("verbs");
        let names: Vec<Option<String>> = match texts("resourceNames") {
            none if none.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        };
        for group in texts("apiGroups") {
            for resource in texts("resources") {
                for name in &names {
                    let (group, resource) = (Some(group.clone()), Some(resource.clone()));
                    add(&mut all, Rule { group, resource, name: name.clone(), path: None, verbs: verbs.clone() });
                }
            }
        }
        for path in texts("nonResourceURLs") {
            add(&mut all, Rule { path: Some(path), verbs: verbs.clone(), ..Rule::default() });
        }
    }
    all.sort_by_key(Rule::key);
    all
}

fn add(all: &mut Vec<Rule>, rule: Rule) {
    let same = |r: &&mut Rule| {
        (&r.group, &r.resource, &r.path, &r.name) == (&rule.group, &rule.resource, &rule.path, &rule.name)
    };
    match all.iter_mut().find(same) {
        Some(have) => have.verbs.extend(rule.verbs),
        None => all.push(rule),
    }
}

pub(super) fn role(w: &mut Writer, object: &Value) -> bool {
    w.field(0, "Name", json::text(object, "metadata.name"));
    w.marks(object);
    w.line(0, "PolicyRule:");
    w.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    w.line(1, "---------\t-----------------\t--------------\t-----");
    for rule in rules(object) {
        let list = |text: &Option<String>| go_list(&text.iter().map(String::as_str).collect::<Vec<_>>());
        let verbs: Vec<&str> = rule.verbs.iter().map(String::as_str).collect();
        let (path, name) = (list(&rule.path), list(&rule.name));
        w.line(1, format!("{}\t{path}\t{name}\t{}", rule.qualified(), go_list(&verbs)));
    }
    false
}

pub(super) fn binding(w: &mut Writer, object: &Value) -> bool {
    w.field(0, "Name", json::text(object, "metadata.name"));
    w.marks(object);
    w.line(0, "Role:");
    w.field(1, "Kind", json::text(object, "roleRef.kind"));
    w.field(1, "Name", json::text(object, "roleRef.name"));
    w.line(0, "Subjects:");
    w.line(1, "Kind\tName\tNamespace");
    w.line(1, "----\t----\t---------");
    for subject in json::list(object, "subjects") {
        let text = |field: &str| json::text(subject, field);
        w.line(1, format!("{}\t{}\t{}", text("kind"), text("name"), text("namespace")));
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_one_per_resource_in_order() {
        let object = json!({"metadata": {"name": "r"}, "rules": [
            {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch", "update"]},
            {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
            {"apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["a"], "verbs": ["*"]},
        ]});
        let mut w = Writer::default();
        role(&mut w, &object);
        let want = "\
Name:         r
Labels:       <none>
Annotations:  <none>
PolicyRule:
  Resources               Non-Resource URLs  Resource Names  Verbs
  ---------               -----------------  --------------  -----
  deployments.apps/scale  []                 [a]             [*]
  events                  []                 []              [create]
  events.events.k8s.io    []                 []              [create]
  services                []                 []              [get list watch]
  services/status         []                 []              [patch update]
";
        assert_eq!(w.finish(), want);
    }
}
