//! From method and path to what is asked of which resource.

use http::Method;
use skiff_api::resources::{self, Resource, Scope};

use crate::query::percent_decode;

/// What a path means.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Resource(Target),
    /// A path outside the resources: health, discovery, OpenAPI, version.
    Path(String),
    /// A resource path of a group, version or plural that is not served.
    Unknown,
}

/// One resource, or one object of it, or one subresource of that.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub resource: &'static Resource,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    /// The old `/watch/` form of the path.
    pub watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// None when the method means nothing here.
    pub(crate) fn of(method: &Method, target: &Target, watch: bool) -> Option<Verb> {
        let named = target.name.is_some();
        let watch = (watch || target.watch) && target.subresource.is_none();
        match *method {
            Method::GET | Method::HEAD if watch => Some(Verb::Watch),
            Method::GET | Method::HEAD if named => Some(Verb::Get),
            Method::GET | Method::HEAD => Some(Verb::List),
            Method::POST => Some(Verb::Create),
            Method::PUT if named => Some(Verb::Update),
            Method::PATCH if named => Some(Verb::Patch),
            Method::DELETE if named => Some(Verb::Delete),
            Method::DELETE => Some(Verb::DeleteCollection),
            // Asks what may be asked: what is proxied answers itself.
            Method::OPTIONS if target.subresource.as_deref() == Some("proxy") => Some(Verb::Get),
            _ => None,
        }
    }
}

pub(crate) fn parse(path: &str) -> Route {
    let parts: Vec<String> = path.trim_matches('/').split('/').map(percent_decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => resource("", version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => resource(group, version, rest),
        _ => Route::Path(path.to_string()),
    }
}

fn resource(group: &str, version: &str, parts: &[&str]) -> Route {
    let (watch, parts) = match parts {
        ["watch", rest @ ..] => (true, rest),
        all => (false, all),
    };
    let (namespace, parts) = match parts {
        // Subresources of namespaces look like resources in a namespace.
        ["namespaces", _, "status" | "finalize"] | ["namespaces", _] | ["namespaces"] => (None, parts),
        ["namespaces", ns, rest @ ..] => (Some(ns.to_string()), rest),
        all => (None, all),
    };
    let Some((plural, parts)) = parts.split_first() else { return Route::Unknown };
    let Some(resource) = resources::find(group, version, plural) else { return Route::Unknown };
    let fits = match resource.scope {
        Scope::Cluster => namespace.is_none(),
        Scope::Namespaced => namespace.as_deref().is_none_or(|ns| !ns.is_empty()),
    };
    if !fits || (matches!(resource.scope, Scope::Namespaced) && namespace.is_none() && !parts.is_empty()) {
        return Route::Unknown;
    }
    let text = |i: usize| parts.get(i).filter(|p| !p.is_empty()).map(|p| p.to_string());
    let subresource = text(1);
    if parts.len() > 2 && subresource.as_deref() != Some("proxy") {
        return Route::Unknown;
    }
    Route::Resource(Target { resource, namespace, name: text(0), subresource, watch })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(path: &str) -> String {
        match parse(path) {
            Route::Path(p) => format!("path {p}"),
            Route::Unknown => "unknown".into(),
            Route::Resource(t) => format!(
                "{} {} {} {}",
                t.resource.plural,
                t.namespace.as_deref().unwrap_or("-"),
                t.name.as_deref().unwrap_or("-"),
                t.subresource.as_deref().unwrap_or("-")
            ),
        }
    }

    #[test]
    fn paths() {
        let cases = [
            ("/api/v1/pods", "pods - - -"),
            ("/api/v1/namespaces", "namespaces - - -"),
            ("/api/v1/namespaces/x", "namespaces - x -"),
            ("/api/v1/namespaces/x/finalize", "namespaces - x finalize"),
            ("/api/v1/namespaces/x/pods", "pods x - -"),
            ("/api/v1/namespaces/x/pods/p", "pods x p -"),
            ("/api/v1/namespaces/x/pods/p/log", "pods x p log"),
            ("/api/v1/namespaces/x/services/s/proxy/a/b", "services x s proxy"),
            ("/apis/apps/v1/namespaces/x/deployments/d/scale", "deployments x d scale"),
            ("/api/v1/nodes/n/status", "nodes - n status"),
            ("/api/v1/pods/p", "unknown"),
            ("/api/v1/namespaces/x/nodes", "unknown"),
            ("/api/v1/nothing", "unknown"),
            ("/apis/nope/v1/pods", "unknown"),
            ("/apis/apps/v1", "path /apis/apps/v1"),
            ("/api/v1", "path /api/v1"),
            ("/healthz", "path /healthz"),
        ];
        for (path, want) in cases {
            assert_eq!(show(path), want, "{path}");
        }
    }

    #[test]
    fn verbs() {
        let Route::Resource(t) = parse("/api/v1/namespaces/x/pods") else { panic!() };
        assert_eq!(Verb::of(&Method::GET, &t, false), Some(Verb::List));
        assert_eq!(Verb::of(&Method::GET, &t, true), Some(Verb::Watch));
        assert_eq!(Verb::of(&Method::PUT, &t, false), None);
        assert_eq!(Verb::of(&Method::DELETE, &t, false), Some(Verb::DeleteCollection));
    }
}
