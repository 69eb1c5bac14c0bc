//! All roles and bindings, found by whom they concern.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::{
    api::rbac::v1::{
        AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use skiff_api::{identity::Identity, selector::Labels};

use super::{Attributes, Decision, rule};

/// The group that may do everything, whatever the roles say.
const MASTERS: &str = "system:masters";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

impl Kind {
    /// By plural, for resources of the group rbac.authorization.k8s.io.
    pub fn of_resource(plural: &str) -> Option<Self> {
        match plural {
            "roles" => Some(Kind::Role),
            "clusterroles" => Some(Kind::ClusterRole),
            "rolebindings" => Some(Kind::RoleBinding),
            "clusterrolebindings" => Some(Kind::ClusterRoleBinding),
            _ => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A stored object that is not what its kind says. It has no effect until it is written anew.
    #[error("{kind:?} cannot be read: {reason}")]
    Unreadable { kind: Kind, reason: String },
}

/// A namespace, empty for the cluster, and a name.
type Id = (String, String);

/// Whom a binding is for, as identities name them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

#[derive(Clone, Debug)]
struct Binding {
    role: RoleRef,
    subjects: Vec<Who>,
}

#[derive(Clone, Debug, Default)]
struct ClusterRights {
    rules: Vec<PolicyRule>,
    labels: BTreeMap<String, String>,
    /// Selectors of the roles that this one is made of.
    aggregates: Option<Vec<Labels>>,
}

#[derive(Clone, Debug, Default)]
pub struct Policy {
    roles: HashMap<Id, Vec<PolicyRule>>,
    cluster_roles: BTreeMap<String, ClusterRights>,
    bindings: HashMap<Id, Binding>,
    by_subject: HashMap<Who, BTreeSet<Id>>,
}

impl Policy {
    /// A policy of these objects; those of other kinds are passed over.
    pub fn of<'a>(objects: impl IntoIterator<Item = &'a Value>) -> Result<Self, Error> {
        let mut policy = Policy::default();
        for object in objects {
            let kind = match object["kind"].as_str() {
                Some("Role") => Kind::Role,
                Some("ClusterRole") => Kind::ClusterRole,
                Some("RoleBinding") => Kind::RoleBinding,
                Some("ClusterRoleBinding") => Kind::ClusterRoleBinding,
                _ => continue,
            };
            policy.put(kind, object)?;
        }
        Ok(policy)
    }

    pub fn put(&mut self, kind: Kind, object: &Value) -> Result<(), Error> {
        match kind {
            Kind::Role => {
                let role: Role = read(kind, object)?;
                self.roles.insert(id(&role.metadata), role.rules.unwrap_or_default());
            }
            Kind::ClusterRole => {
                let role: ClusterRole = read(kind, object)?;
                let (_, name) = id(&role.metadata);
                self.cluster_roles.insert(name, rights(kind, role)?);
            }
            Kind::RoleBinding => {
                let binding: RoleBinding = read(kind, object)?;
                self.bind(id(&binding.metadata), binding.role_ref, binding.subjects);
            }
            Kind::ClusterRoleBinding => {
                let binding: ClusterRoleBinding = read(kind, object)?;
                self.bind(id(&binding.metadata), binding.role_ref, binding.subjects);
            }
        }
        Ok(())
    }

    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        let id = (namespace.to_string(), name.to_string());
        match kind {
            Kind::Role => drop(self.roles.remove(&id)),
            Kind::ClusterRole => drop(self.cluster_roles.remove(name)),
            Kind::RoleBinding | Kind::ClusterRoleBinding => self.unbind(&id),
        }
    }

    fn bind(&mut self, id: Id, role: RoleRef, subjects: Option<Vec<Subject>>) {
        self.unbind(&id);
        let subjects: Vec<_> = subjects.unwrap_or_default().iter().filter_map(|subject| who(subject, &id.0)).collect();
        for subject in &subjects {
            self.by_subject.entry(subject.clone()).or_default().insert(id.clone());
        }
        self.bindings.insert(id, Binding { role, subjects });
    }

    fn unbind(&mut self, id: &Id) {
        let Some(binding) = self.bindings.remove(id) else { return };
        for subject in binding.subjects {
            if let Some(ids) = self.by_subject.get_mut(&subject) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
    }

    pub fn decide(&self, wish: &Attributes<'_>) -> Decision {
        if wish.user.groups.iter().any(|group| group == MASTERS) {
            return Decision::Allow { reason: format!("the group {MASTERS} may do everything") };
        }
        let mut missing = Vec::new();
        for (id, binding) in self.bindings_of(wish.user, wish.namespace) {
            match self.rules_of(&binding.role, &id.0) {
                None => missing.push(format!("{} {:?} not found", binding.role.kind, binding.role.name)),
                Some(rules) if rules.iter().any(|rule| rule::allows(rule, wish)) => {
                    return Decision::Allow { reason: because(id, binding) };
                }
                Some(_) => {}
            }
        }
        Decision::Deny { reason: missing.join(", ") }
    }

    /// Whether a ClusterRole's rules allow it, whoever has them.
    pub fn allows(&self, cluster_role: &str, wish: &Attributes<'_>) -> bool {
        let rights = self.cluster_roles.get(cluster_role);
        rights.is_some_and(|rights| self.effective(rights).iter().any(|rule| rule::allows(rule, wish)))
    }

    /// The bindings that concern the user: the cluster's and, unless `namespace` is empty, the namespace's.
    fn bindings_of<'a>(&'a self, user: &Identity, namespace: &'a str) -> impl Iterator<Item = (&'a Id, &'a Binding)> {
        let groups = user.groups.iter().map(|group| Who::Group(group.clone()));
        let subjects: Vec<Who> = groups.chain([Who::User(user.name.clone())]).collect();
        let ids: BTreeSet<&Id> = subjects.iter().filter_map(|who| self.by_subject.get(who)).flatten().collect();
        let here = ids.into_iter().filter(move |(of, _)| of.is_empty() || of == namespace);
        here.filter_map(|id| Some((id, self.bindings.get(id)?)))
    }

    fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<Vec<&PolicyRule>> {
        match role.kind.as_str() {
            "ClusterRole" => {
                let rights = self.cluster_roles.get(&role.name)?;
                Some(self.effective(rights))
            }
            _ => {
                let rules = self.roles.get(&(namespace.to_string(), role.name.clone()))?;
                Some(rules.iter().collect())
            }
        }
    }

    /// A role's own rules, or those of the roles it is made of; those may again be made of others.
    fn effective<'a>(&'a self, rights: &'a ClusterRights) -> Vec<&'a PolicyRule> {
        let mut seen = BTreeSet::new();
        let mut rules: Vec<&PolicyRule> = Vec::new();
        let mut open = vec![rights];
        while let Some(rights) = open.pop() {
            let Some(selectors) = &rights.aggregates else {
                let new = rights.rules.iter().filter(|rule| !rules.contains(rule)).collect::<Vec<_>>();
                rules.extend(new);
                continue;
            };
            for (name, role) in self.cluster_roles.iter().rev() {
                if selectors.iter().any(|selector| selector.matches(&role.labels)) && seen.insert(name) {
                    open.push(role);
                }
            }
        }
        rules
    }

    pub fn rules(&self, user: &Identity, namespace: &str) -> Vec<PolicyRule> {
        if user.groups.iter().any(|group| group == MASTERS) {
            return everything();
        }
        let bindings = self.bindings_of(user, namespace);
        bindings.filter_map(|(id, binding)| self.rules_of(&binding.role, &id.0)).flatten().cloned().collect()
    }

    pub fn cluster_role_rules(&self, name: &str) -> Vec<PolicyRule> {
        let rights = self.cluster_roles.get(name);
        rights.map_or_else(Vec::new, |rights| self.effective(rights).into_iter().cloned().collect())
    }

    pub fn outdated(&self) -> Vec<String> {
        let made = self.cluster_roles.iter().filter(|(_, rights)| rights.aggregates.is_some());
        let outdated = made.filter(|(_, rights)| !self.effective(rights).into_iter().eq(&rights.rules));
        outdated.map(|(name, _)| name.clone()).collect()
    }

    pub fn bound_rules(&self, namespace: &str, role_kind: &str, role_name: &str) -> Vec<PolicyRule> {
        let role = RoleRef { kind: role_kind.into(), name: role_name.into(), ..RoleRef::default() };
        self.rules_of(&role, namespace).into_iter().flatten().cloned().collect()
    }

    pub fn escalates(&self, user: &Identity, namespace: &str, rules: &[PolicyRule]) -> Vec<PolicyRule> {
        let owned = self.rules(user, namespace);
        rules.iter().flat_map(|wanted| rule::uncovered(&owned, wanted)).collect()
    }
}

fn everything() -> Vec<PolicyRule> {
    let all = || vec!["*".to_string()];
    let resources =
        PolicyRule { api_groups: Some(all()), resources: Some(all()), verbs: all(), ..PolicyRule::default() };
    let urls = PolicyRule { non_resource_urls: Some(all()), verbs: all(), ..PolicyRule::default() };
    vec![resources, urls]
}

fn read<T: DeserializeOwned>(kind: Kind, object: &Value) -> Result<T, Error> {
    T::deserialize(object).map_err(|error| Error::Unreadable { kind, reason: error.to_string() })
}

fn id(metadata: &ObjectMeta) -> Id {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn rights(kind: Kind, role: ClusterRole) -> Result<ClusterRights, Error> {
    let aggregates = role.aggregation_rule.map(|rule| selectors(kind, rule)).transpose()?;
    let labels = role.metadata.labels.unwrap_or_default();
    Ok(ClusterRights { rules: role.rules.unwrap_or_default(), labels, aggregates })
}

fn selectors(kind: Kind, rule: AggregationRule) -> Result<Vec<Labels>, Error> {
    let selectors = rule.cluster_role_selectors.unwrap_or_default();
    let labels = selectors.iter().map(Labels::from_label_selector).collect::<Result<_, _>>();
    labels.map_err(|error| Error::Unreadable { kind, reason: error.to_string() })
}

fn who(subject: &Subject, binding_namespace: &str) -> Option<Who> {
    match subject.kind.as_str() {
        "User" => Some(Who::User(subject.name.clone())),
        "Group" => Some(Who::Group(subject.name.clone())),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().filter(|of| !of.is_empty()).unwrap_or(binding_namespace);
            Some(Who::User(format!("system:serviceaccount:{namespace}:{}", subject.name)))
        }
        _ => None,
    }
}

/// In the words of the reference: `RBAC: allowed by ClusterRoleBinding "a" of ClusterRole "b" to Group "c"`.
fn because((namespace, name): &Id, binding: &Binding) -> String {
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let place = if namespace.is_empty() { name.clone() } else { format!("{name}/{namespace}") };
    format!("RBAC: allowed by {kind} {place:?} of {} {:?}", binding.role.kind, binding.role.name)
}
