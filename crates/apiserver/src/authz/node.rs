//! What a node may read: only what its own pods use. The reference's node authorizer, over an index of pods by node.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use skiff_api::identity::Identity;

use super::Attributes;

const PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";

/// The node that an identity is, if it is one.
pub fn node_name(user: &Identity) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    user.groups.iter().any(|group| group == GROUP).then_some(name)
}

/// A namespace and a name.
type Id = (String, String);

/// What a pod on a node uses, by name, all of it in the pod's namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Uses {
    secrets: BTreeSet<String>,
    configmaps: BTreeSet<String>,
    claims: BTreeSet<String>,
    account: String,
}

/// The pods of each node, and what they use.
#[derive(Debug, Default)]
pub struct Nodes {
    /// On which node a pod is.
    places: HashMap<Id, String>,
    pods: HashMap<String, HashMap<Id, Uses>>,
}

impl Nodes {
    /// A pod was written.
    pub fn put(&mut self, pod: &Value) {
        let id = id(pod);
        self.remove(&id.0, &id.1);
        let node = text(pod, "/spec/nodeName");
        if !node.is_empty() {
            self.places.insert(id.clone(), node.into());
            self.pods.entry(node.into()).or_default().insert(id, uses(pod));
        }
    }

    /// A pod is gone.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        let id = (namespace.to_owned(), name.to_owned());
        let Some(node) = self.places.remove(&id) else { return };
        if let Some(pods) = self.pods.get_mut(&node) {
            pods.remove(&id);
            if pods.is_empty() {
                self.pods.remove(&node);
            }
        }
    }

    /// Why the node may not have what depends on its pods; None where it may, or where that is not what decides.
    pub fn refuses(&self, node: &str, wish: &Attributes<'_>) -> Option<String> {
        let reads = matches!(wish.verb, "get" | "list" | "watch");
        let related = match (wish.group, wish.resource, wish.subresource) {
            ("", "secrets" | "configmaps", _) if !reads => return Some("can only read resources of this type".into()),
            ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "serviceaccounts", _)
                if wish.name.is_empty() =>
            {
                return Some("No Object name found".into());
            }
            ("", "secrets", "") => self.any(node, wish, |uses| uses.secrets.contains(wish.name)),
            ("", "configmaps", "") => self.any(node, wish, |uses| uses.configmaps.contains(wish.name)),
            ("", "persistentvolumeclaims", _) => self.any(node, wish, |uses| uses.claims.contains(wish.name)),
            ("", "serviceaccounts", _) => self.any(node, wish, |uses| uses.account == wish.name),
            ("", "pods", "") if reads => return self.refuses_pods(node, wish),
            ("coordination.k8s.io", "leases", _) => return refuses_lease(node, wish),
            ("storage.k8s.io", "csinodes", _) if wish.verb != "create" => wish.name == node,
            _ => return None,
        };
        (!related).then(|| format!("no relationship found between node {node:?} and this object"))
    }

    fn any(&self, node: &str, wish: &Attributes<'_>, used: impl Fn(&Uses) -> bool) -> bool {
        let pods = self.pods.get(node).into_iter().flatten();
        pods.filter(|((namespace, _), _)| namespace == wish.namespace).any(|(_, uses)| used(uses))
    }

    fn refuses_pods(&self, node: &str, wish: &Attributes<'_>) -> Option<String> {
        let own = match wish.name {
            "" => wish.on_node == node,
            name => self.places.get(&(wish.namespace.into(), name.into())).is_some_and(|place| place == node),
        };
        let why = "can only list/watch pods with spec.nodeName field selector, and get pods on itself";
        (!own && wish.on_node != node).then(|| format!("node {node:?} {why}"))
    }

    /// Whether the node has this pod, with this account.
    pub fn runs(&self, node: &str, namespace: &str, pod: &str, account: &str) -> bool {
        let pods = self.pods.get(node);
        let uses = pods.and_then(|pods| pods.get(&(namespace.to_owned(), pod.to_owned())));
        uses.is_some_and(|uses| uses.account == account)
    }
}

/// A node's heartbeat is its own.
fn refuses_lease(node: &str, wish: &Attributes<'_>) -> Option<String> {
    if wish.namespace != "kube-node-lease" {
        return Some(r#"can only access leases in the "kube-node-lease" system namespace"#.into());
    }
    let named = wish.verb == "create" || wish.name == node;
    (!named).then(|| "can only access node lease with the same name as the requesting node".into())
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn id(pod: &Value) -> Id {
    (text(pod, "/metadata/namespace").into(), text(pod, "/metadata/name").into())
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn uses(pod: &Value) -> Uses {
    let spec = &pod["spec"];
    let mut uses = Uses { account: text(spec, "/serviceAccountName").into(), ..Uses::default() };
    let add = |to: &mut BTreeSet<String>, name: &str| {
        if !name.is_empty() {
            to.insert(name.into());
        }
    };
    items(spec, "imagePullSecrets").for_each(|secret| add(&mut uses.secrets, text(secret, "/name")));
    for container in ["containers", "initContainers", "ephemeralContainers"].iter().flat_map(|list| items(spec, list)) {
        for from in items(container, "envFrom") {
            add(&mut uses.configmaps, text(from, "/configMapRef/name"));
            add(&mut uses.secrets, text(from, "/secretRef/name"));
        }
        for variable in items(container, "env") {
            add(&mut uses.configmaps, text(variable, "/valueFrom/configMapKeyRef/name"));
            add(&mut uses.secrets, text(variable, "/valueFrom/secretKeyRef/name"));
        }
    }
    for volume in items(spec, "volumes") {
        add(&mut uses.configmaps, text(volume, "/configMap/name"));
        add(&mut uses.secrets, text(volume, "/secret/secretName"));
        add(&mut uses.claims, text(volume, "/persistentVolumeClaim/claimName"));
        for source in items(&volume["projected"], "sources") {
            add(&mut uses.configmaps, text(source, "/configMap/name"));
            add(&mut uses.secrets, text(source, "/secret/name"));
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, secret: &str) -> Value {
        json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"nodeName": node, "serviceAccountName": "web",
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": secret}}}],
                "envFrom": [{"configMapRef": {"name": "settings"}}]}],
            "volumes": [{"persistentVolumeClaim": {"claimName": "data"}},
                {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "more"}}]}}]}})
    }

    #[test]
    fn a_node_has_what_its_pods_use_and_no_more() {
        let mut nodes = Nodes::default();
        nodes.put(&pod("one", "a", "mine"));
        nodes.put(&pod("two", "b", "theirs"));
        let user = Identity::node("a");
        let ask = |nodes: &Nodes, verb, resource, namespace, name| {
            let wish = Attributes { resource, namespace, name, ..Attributes::of(&user, verb) };
            nodes.refuses(node_name(&user).unwrap(), &wish).is_none()
        };
        for (verb, resource, name, may) in [
            ("get", "secrets", "mine", true),
            ("watch", "secrets", "mine", true),
            ("get", "secrets", "more", true),
            ("get", "secrets", "theirs", false),
            ("list", "secrets", "", false),
            ("update", "secrets", "mine", false),
            ("get", "configmaps", "settings", true),
            ("get", "configmaps", "kube-root-ca.crt", true),
            ("get", "configmaps", "other", false),
            ("get", "persistentvolumeclaims", "data", true),
            ("get", "serviceaccounts", "web", true),
            ("get", "serviceaccounts", "default", false),
            ("get", "pods", "one", true),
            ("get", "pods", "two", false),
            ("list", "pods", "", false),
        ] {
            assert_eq!(ask(&nodes, verb, resource, "shop", name), may, "{verb} {resource} {name}");
        }
        assert!(!ask(&nodes, "get", "secrets", "elsewhere", "mine"), "another namespace's secret of that name");
        let own = Attributes { resource: "pods", on_node: "a", ..Attributes::of(&user, "watch") };
        assert_eq!(nodes.refuses("a", &own), None);
        assert!(nodes.runs("a", "shop", "one", "web") && !nodes.runs("a", "shop", "two", "web"));

        nodes.put(&pod("one", "b", "mine"));
        assert!(!ask(&nodes, "get", "secrets", "shop", "mine"), "its pod is on another node");
        nodes.put(&pod("one", "a", "mine"));
        nodes.remove("shop", "one");
        assert!(!ask(&nodes, "get", "secrets", "shop", "mine"), "its pod is gone");
    }

    #[test]
    fn leases_and_strangers() {
        let nodes = Nodes::default();
        let user = Identity::node("a");
        let lease = |namespace, name, verb| {
            let group = "coordination.k8s.io";
            let wish = Attributes { group, resource: "leases", namespace, name, ..Attributes::of(&user, verb) };
            nodes.refuses("a", &wish).is_none()
        };
        assert!(lease("kube-node-lease", "a", "update") && lease("kube-node-lease", "", "create"));
        assert!(!lease("kube-node-lease", "b", "update") && !lease("kube-system", "a", "get"));
        assert_eq!(node_name(&Identity::component("system:node:a")), None, "not of the group");
        assert_eq!(node_name(&Identity::admin()), None);
    }
}
