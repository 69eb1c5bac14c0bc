//! The resource table: everything the API serves, one row per resource. Verbs, discovery, OpenAPI, defaults and validation
//! are driven by it, so that a stored kind costs a row.
//!
//! Names and scopes come from the k8s-openapi type of the row and cannot disagree with it; so does the name of its schema.

mod table;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, SubResourceScope};

pub use table::RESOURCES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// The Rust type behind a kind, as far as schemas need it.
#[derive(Clone, Copy)]
pub struct Type {
    rust_name: fn() -> &'static str,
    /// Makes the embedded schemas; see `examples/schemas.rs`.
    #[cfg(feature = "generate")]
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

#[cfg(not(feature = "generate"))]
pub(crate) trait Described {}
#[cfg(not(feature = "generate"))]
impl<T> Described for T {}
#[cfg(feature = "generate")]
pub(crate) use schemars::JsonSchema as Described;

impl Type {
    pub(crate) const fn of<T: Described>() -> Type {
        Type {
            rust_name: std::any::type_name::<T>,
            #[cfg(feature = "generate")]
            schema: T::json_schema,
        }
    }

    /// The OpenAPI name: `io.k8s.api.core.v1.Pod` for `k8s_openapi::v1_36::api::core::v1::pod::Pod`, a module for each type.
    pub fn name(&self) -> String {
        let mut parts: Vec<&str> = (self.rust_name)().split("::").skip(2).collect();
        parts.remove(parts.len().saturating_sub(2));
        format!("io.k8s.{}", parts.join("."))
    }
}

/// One resource of one group and version.
#[derive(Clone, Copy)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// False for reviews and the like: answered, never stored.
    pub stored: bool,
    /// Group and version in whose form its objects are stored, when it is another view of those.
    pub stored_as: Option<(&'static str, &'static str)>,
    pub schema: Type,
}

/// `pods/log`, `deployments/scale`: served below a resource, sometimes with a kind of its own.
#[derive(Clone, Copy)]
pub struct Subresource {
    pub name: &'static str,
    /// Group and version of its kind; None where they are the parent's.
    pub group_version: Option<(&'static str, &'static str)>,
    /// None where it is the parent's kind (`status`).
    pub kind: Option<&'static str>,
    pub verbs: &'static [&'static str],
    /// The type of its body, where it has one that is not the parent's.
    pub schema: Option<Type>,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The row in whose form its objects are stored: its own, unless it is another view.
    pub fn storage(&self) -> &Resource {
        self.stored_as.and_then(|(group, version)| find(group, version, self.plural)).unwrap_or(self)
    }

    /// `pods`, `deployments.apps`: how messages name it.
    pub fn qualified(&self) -> String {
        qualified(self.plural, self.group)
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Group and plural, the key by which rules for a resource are chosen.
    pub fn id(&self) -> (&'static str, &'static str) {
        (self.group, self.plural)
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.plural)
    }
}

pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits `apps/v1` into group and version; the core group is empty.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// A name with its group: `deployments.apps`, `Deployment.apps`; without one in the core group.
pub fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}

/// The groups in the order in which discovery lists them, each with its versions, the preferred one first.
pub fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for r in RESOURCES {
        match groups.iter_mut().find(|(g, _)| *g == r.group) {
            Some((_, versions)) if versions.contains(&r.version) => {}
            Some((_, versions)) => versions.push(r.version),
            None => groups.push((r.group, vec![r.version])),
        }
    }
    groups
}

pub(crate) trait HasScope {
    const SCOPE: Scope;
}

impl HasScope for ClusterResourceScope {
    const SCOPE: Scope = Scope::Cluster;
}

impl HasScope for NamespaceResourceScope {
    const SCOPE: Scope = Scope::Namespaced;
}

impl HasScope for SubResourceScope {
    const SCOPE: Scope = Scope::Namespaced;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_rows_by_plural_and_by_kind() {
        let deployments = find("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.kind, "Deployment");
        assert_eq!(deployments.api_version(), "apps/v1");
        assert_eq!(deployments.qualified(), "deployments.apps");
        assert!(deployments.namespaced());
        assert_eq!(find_kind("", "v1", "Node").unwrap().scope, Scope::Cluster);
        assert_eq!(find("", "v1", "endpoints").unwrap().singular, "endpoints");
        assert!(find("apps", "v1", "pods").is_none());
        assert!(find("", "v1", "pods").unwrap().subresource("log").is_some());
    }

    #[test]
    fn rows_are_unique_and_versions_stand_together() {
        for (i, a) in RESOURCES.iter().enumerate() {
            for b in &RESOURCES[i + 1..] {
                assert!((a.group, a.version, a.plural) != (b.group, b.version, b.plural), "{a:?} twice");
                let same_short = a.short.iter().any(|s| b.short.contains(s));
                assert!(!same_short || a.plural == b.plural, "{a:?} and {b:?} share a short name");
            }
            assert!(!a.verbs.is_empty() && !a.plural.is_empty() && a.singular == a.kind.to_lowercase());
        }
    }
}
