//! Which kinds there are and what a person may call them. The built-in ones are known; others are asked of the server once.

use std::cell::OnceCell;

use serde_json::{Value, json};
use skiff_api::{json, resources};

use super::{
    error::{Error, Result},
    session::{Call, Session, encode},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) kind: String,
    pub(super) namespaced: bool,
    pub(super) short: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) verbs: Vec<String>,
}

impl Kind {
    fn built_in(r: &resources::Resource) -> Kind {
        let texts = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Kind {
            group: r.group.into(),
            version: r.version.into(),
            plural: r.plural.into(),
            singular: r.singular.into(),
            kind: r.kind.into(),
            namespaced: r.namespaced(),
            short: texts(r.short),
            categories: texts(r.categories),
            verbs: texts(r.verbs),
        }
    }

    pub(super) fn api_version(&self) -> String {
        resources::api_version(&self.group, &self.version)
    }

    /// `pod`, `deployment.apps`: what stands before the slash in messages.
    pub(super) fn label(&self) -> String {
        resources::qualified(&self.kind.to_lowercase(), &self.group)
    }

    /// `pods`, `deployments.apps`.
    pub(super) fn qualified(&self) -> String {
        resources::qualified(&self.plural, &self.group)
    }

    pub(super) fn base(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// The path of an object, or of the collection when `name` is empty; across all namespaces when `namespace` is.
    pub(super) fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = self.base();
        if self.namespaced && !namespace.is_empty() {
            path.push_str(&format!("/namespaces/{}", encode(namespace)));
        }
        path.push_str(&format!("/{}", self.plural));
        if !name.is_empty() {
            path.push_str(&format!("/{}", encode(name)));
        }
        path
    }

    pub(super) fn path_of(&self, object: &Value) -> String {
        self.path(json::text(object, "metadata.namespace"), json::text(object, "metadata.name"))
    }

    /// Items of a list come without their type; this puts it first.
    pub(super) fn name_type(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        let mut named = serde_json::Map::new();
        named.insert("apiVersion".into(), json!(self.api_version()));
        named.insert("kind".into(), json!(self.kind));
        named.extend(std::mem::take(map).into_iter().filter(|(k, _)| k != "apiVersion" && k != "kind"));
        *map = named;
    }

    pub(super) fn resource(&self) -> Option<&'static resources::Resource> {
        resources::find(&self.group, &self.version, &self.plural)
    }

    fn called(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let (name, rest) = word.split_once('.').map_or((word.as_str(), None), |(n, r)| (n, Some(r)));
        let group = self.group.as_str();
        let grouped = match rest {
            None => true,
            Some(rest) => {
                rest == group
                    || rest == format!("{}.{group}", self.version)
                    || (group.is_empty() && rest == format!("{}.", self.version))
                    || (!rest.is_empty() && group.split('.').next() == Some(rest))
            }
        };
        let named = name == self.plural || name == self.singular || self.short.iter().any(|s| s == name);
        grouped && (named || name == self.kind.to_lowercase())
    }
}

#[derive(Default)]
pub(super) struct Kinds {
    discovered: OnceCell<Vec<Kind>>,
}

/// Each kind in the newest version of its group.
pub(super) fn built_in() -> impl Iterator<Item = Kind> {
    let newest = |r: &&resources::Resource| r.stored_as.is_none_or(|(group, _)| group != r.group);
    resources::RESOURCES.iter().filter(newest).map(Kind::built_in)
}

/// A built-in kind that this program itself asks for.
pub(super) fn known(group: &str, plural: &str) -> Result<Kind> {
    let found = built_in().find(|k| k.group == group && k.plural == plural);
    found.ok_or_else(|| Error::Plain(format!("the server doesn't have a resource type {plural:?}")))
}

impl Session {
    /// The kinds that a word of the command line stands for: several for a category such as `all`.
    pub(super) async fn kinds_called(&self, word: &str) -> Result<Vec<Kind>> {
        if let Some(kind) = built_in().find(|k| k.called(word)) {
            return Ok(vec![kind]);
        }
        let category: Vec<Kind> = built_in().filter(|k| k.categories.iter().any(|c| c == word)).collect();
        if !category.is_empty() {
            return Ok(category);
        }
        let all = self.discovered().await?;
        if let Some(kind) = all.iter().find(|k| k.called(word)) {
            return Ok(vec![kind.clone()]);
        }
        let category: Vec<Kind> = all.iter().filter(|k| k.categories.iter().any(|c| c == word)).cloned().collect();
        if category.is_empty() { Err(no_such(word)) } else { Ok(category) }
    }

    pub(super) async fn kind_called(&self, word: &str) -> Result<Kind> {
        self.kinds_called(word).await?.into_iter().next().ok_or_else(|| no_such(word))
    }

    /// The kind of an object by its own words.
    pub(super) async fn kind_of(&self, object: &Value) -> Result<Option<Kind>> {
        let (api_version, kind) = (json::text(object, "apiVersion"), json::text(object, "kind"));
        let is = |k: &Kind| k.kind == kind && k.api_version() == api_version;
        if let Some(found) = built_in().find(is) {
            return Ok(Some(found));
        }
        Ok(self.discovered().await?.iter().find(|k| is(k)).cloned())
    }

    /// What the server says it has.
    pub(super) async fn discovered(&self) -> Result<&Vec<Kind>> {
        if let Some(known) = self.kinds.discovered.get() {
            return Ok(known);
        }
        let mut all = Vec::new();
        for root in ["/api", "/apis"] {
            const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            let groups = self.json(&Call::get(root).accept(AGGREGATED)).await?;
            json::list(&groups, "items").iter().for_each(|group| read_group(group, &mut all));
        }
        Ok(self.kinds.discovered.get_or_init(|| all))
    }
}

/// The kinds of one group's preferred versions: a kind that an earlier version has is not repeated.
fn read_group(group: &Value, into: &mut Vec<Kind>) {
    let name = json::text(group, "metadata.name");
    for version in json::list(group, "versions") {
        for resource in json::list(version, "resources") {
            let kind = read_kind(name, json::text(version, "version"), resource);
            if !into.iter().any(|k| k.group == kind.group && k.plural == kind.plural) {
                into.push(kind);
            }
        }
    }
}

fn read_kind(group: &str, version: &str, resource: &Value) -> Kind {
    let texts = |path: &str| json::texts(resource, path).into_iter().map(str::to_owned).collect();
    Kind {
        group: group.into(),
        version: version.into(),
        plural: json::text(resource, "resource").into(),
        singular: json::text(resource, "singularResource").into(),
        kind: json::text(resource, "responseKind.kind").into(),
        namespaced: json::text(resource, "scope") == "Namespaced",
        short: texts("shortNames"),
        categories: texts("categories"),
        verbs: texts("verbs"),
    }
}

fn no_such(word: &str) -> Error {
    let (name, rest) = word.split_once('.').map_or((word, ""), |(n, r)| (n, r));
    match (rest, rest.split_once('.')) {
        ("", _) => Error::Plain(format!("the server doesn't have a resource type {name:?}")),
        (_, Some((version, group))) if version.starts_with('v') && version.len() > 1 => Error::Plain(format!(
            "the server doesn't have a resource type {name:?} in group {group:?} and version {version:?}"
        )),
        (group, _) => Error::Plain(format!("the server doesn't have a resource type {name:?} in group {group:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(word: &str) -> Option<String> {
        built_in().find(|k| k.called(word)).map(|k| k.qualified())
    }

    #[test]
    fn names() {
        for (word, want) in [
            ("po", "pods"),
            ("Deployment", "deployments.apps"),
            ("deploy", "deployments.apps"),
            ("deployments.apps", "deployments.apps"),
            ("deployments.v1.apps", "deployments.apps"),
            ("events", "events"),
            ("events.events.k8s.io", "events.events.k8s.io"),
            ("ep", "endpoints"),
            ("pods.v1.", "pods"),
        ] {
            assert_eq!(called(word).as_deref(), Some(want), "{word}");
        }
        assert_eq!(called("nothing"), None);
        assert_eq!(called("pods.apps"), None);
    }

    #[test]
    fn paths() {
        let pods = known("", "pods").unwrap();
        assert_eq!(pods.path("a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(pods.path("", ""), "/api/v1/pods");
        assert_eq!(known("apps", "deployments").unwrap().path("a", ""), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(known("", "nodes").unwrap().path("a", "n"), "/api/v1/nodes/n");
    }
}
