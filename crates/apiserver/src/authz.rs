//! Who may do what: role based access control, decided over the roles and bindings in memory.
//!
//! [`Policy`] is a value and decides; [`Authorizer`] holds the current one and is told of every change to a role or a
//! binding before the change is answered, so that a right given is a right that works. What a node may read follows from
//! its pods ([`Nodes`]).

mod node;
mod policy;
mod rule;
#[cfg(test)]
mod tests;

use std::sync::{PoisonError, RwLock};

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;
use skiff_api::identity::Identity;

pub use node::{Nodes, node_name};
pub use policy::{Error, Kind, Policy};

/// The role whose rules hold for nodes, as far as their pods need what they ask for. Nobody is bound to it.
const NODE_ROLE: &str = "system:node";

/// What a request wants to do. Text that does not apply is empty.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a Identity,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `bind`, `escalate`,
    /// `impersonate`; for a path the HTTP method in lower case.
    pub verb: &'a str,
    pub group: &'a str,
    /// The plural.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
    /// Of a list or watch: the node whose pods alone it asks for.
    pub on_node: &'a str,
    /// Set for requests that are for no resource, such as `/healthz`.
    pub path: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    /// A wish for nothing, to be filled in.
    pub fn of(user: &'a Identity, verb: &'a str) -> Self {
        Attributes {
            user,
            verb,
            group: "",
            resource: "",
            subresource: "",
            name: "",
            namespace: "",
            on_node: "",
            path: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Because of this binding and role.
    Allow { reason: String },
    /// No rule allows it. `reason` is empty unless a role is missing that a binding names.
    Deny { reason: String },
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }
}

#[derive(Default)]
pub struct Authorizer {
    policy: RwLock<Policy>,
    nodes: RwLock<Nodes>,
}

impl Authorizer {
    pub fn new(policy: Policy) -> Self {
        Authorizer { policy: RwLock::new(policy), nodes: RwLock::default() }
    }

    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let node = node_name(attributes.user);
        let refused = node.and_then(|node| self.nodes(|nodes| nodes.refuses(node, attributes)));
        self.read(|policy| match policy.decide(attributes) {
            Decision::Deny { .. } if node.is_some() && refused.is_none() && policy.allows(NODE_ROLE, attributes) => {
                Decision::Allow { reason: String::new() }
            }
            Decision::Deny { reason } if reason.is_empty() => Decision::Deny { reason: refused.unwrap_or_default() },
            decided => decided,
        })
    }

    /// Tells of a pod that was written (or is there at the start).
    pub fn put_pod(&self, pod: &Value) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).put(pod);
    }

    /// Tells of a pod that is gone.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(namespace, name);
    }

    pub fn nodes<T>(&self, look: impl FnOnce(&Nodes) -> T) -> T {
        look(&self.nodes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells of a role or binding that was written (or is there at the start).
    pub fn put(&self, kind: Kind, object: &Value) -> Result<(), Error> {
        self.policy.write().unwrap_or_else(PoisonError::into_inner).put(kind, object)
    }

    /// Tells of a role or binding that is gone. `namespace` is empty for the cluster's.
    pub fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        self.policy.write().unwrap_or_else(PoisonError::into_inner).remove(kind, namespace, name);
    }

    /// Everything that the user may do in a namespace (empty: in the cluster), for a SelfSubjectRulesReview.
    pub fn rules(&self, user: &Identity, namespace: &str) -> Vec<PolicyRule> {
        self.read(|policy| policy.rules(user, namespace))
    }

    /// The rules of a ClusterRole: its own, or, if it aggregates others, theirs.
    pub fn cluster_role_rules(&self, name: &str) -> Vec<PolicyRule> {
        self.read(|policy| policy.cluster_role_rules(name))
    }

    /// The ClusterRoles made of others that do not show the rules of those as they are now.
    pub fn outdated(&self) -> Vec<String> {
        self.read(Policy::outdated)
    }

    /// Which of the rules the user may not grant, having less himself: the check on writes of roles. Empty: none.
    pub fn escalates(&self, user: &Identity, namespace: &str, rules: &[PolicyRule]) -> Vec<PolicyRule> {
        self.read(|policy| policy.escalates(user, namespace, rules))
    }

    /// The rules that a binding would give, by its `roleRef`; for the same check on writes of bindings.
    pub fn bound_rules(&self, namespace: &str, role_kind: &str, role_name: &str) -> Vec<PolicyRule> {
        self.read(|policy| policy.bound_rules(namespace, role_kind, role_name))
    }

    fn read<T>(&self, look: impl FnOnce(&Policy) -> T) -> T {
        look(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }
}
