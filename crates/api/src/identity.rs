//! Who asks. A transport authenticates and puts an [`Identity`] into the request's extensions; nobody else may.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A user as Kubernetes knows one (authentication.k8s.io/v1 UserInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    fn new(name: String, groups: &[&str]) -> Self {
        Identity { name, groups: groups.iter().map(|g| g.to_string()).collect(), ..Default::default() }
    }

    /// The cluster's administrator: may do everything.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin".into(), &["system:masters", "system:authenticated"])
    }

    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
        Self::new(format!("system:serviceaccount:{namespace}:{name}"), &groups)
    }

    pub fn node(name: &str) -> Self {
        Self::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"])
    }

    pub fn anonymous() -> Self {
        Self::new("system:anonymous".into(), &["system:unauthenticated"])
    }

    /// A component with an identity of its own, such as `system:kube-scheduler` or `system:kube-proxy`.
    pub fn component(name: &str) -> Self {
        Self::new(name.into(), &["system:authenticated"])
    }
}
