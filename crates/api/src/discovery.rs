//! What the server tells of itself: the legacy documents (`/api`, `/apis`, `/apis/G`, `/apis/G/V`) and the aggregated one
//! (`apidiscovery.k8s.io/v2`). All follow from the resource table.

use serde_json::{Map, Value, json};

use crate::resources::{RESOURCES, Resource, Scope, Subresource, api_version, groups};

/// The Kubernetes release whose API this is; what `/version` reports as `gitVersion`.
pub const VERSION: &str = "v1.36.0";

/// `/api`. `address` is where clients reach the server, `host:port`.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub fn api_groups() -> Value {
    let list: Vec<Value> = groups().into_iter().filter(|(g, _)| !g.is_empty()).map(|(g, v)| describe(g, &v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `/apis/GROUP`.
pub fn group(name: &str) -> Option<Value> {
    let (group, versions) = groups().into_iter().find(|(g, _)| *g == name && !g.is_empty())?;
    let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(document), Value::Object(rest)) = (document.as_object_mut(), describe(group, &versions)) {
        document.extend(rest);
    }
    Some(document)
}

fn describe(group: &str, versions: &[&str]) -> Value {
    let list: Vec<Value> = versions.iter().map(|v| group_version(group, v)).collect();
    json!({"name": group, "versions": list, "preferredVersion": list.first()})
}

fn group_version(group: &str, version: &str) -> Value {
    json!({"groupVersion": api_version(group, version), "version": version})
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let rows: Vec<&Resource> = of(group, version).collect();
    if rows.is_empty() {
        return None;
    }
    let list: Vec<Value> = rows.iter().flat_map(|r| legacy(r)).collect();
    let group_version = api_version(group, version);
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

fn of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Resource> + 'a {
    RESOURCES.iter().filter(move |r| r.group == group && r.version == version)
}

fn legacy(r: &Resource) -> Vec<Value> {
    let mut row = json!({
        "name": r.plural,
        "singularName": r.singular,
        "namespaced": r.namespaced(),
        "kind": r.kind,
        "verbs": r.verbs,
    });
    if !r.short.is_empty() {
        row["shortNames"] = json!(r.short);
    }
    if !r.categories.is_empty() {
        row["categories"] = json!(r.categories);
    }
    let mut rows = vec![row];
    rows.extend(r.subresources.iter().map(|s| legacy_subresource(r, s)));
    rows
}

fn legacy_subresource(r: &Resource, s: &Subresource) -> Value {
    let mut row = Map::new();
    row.insert("name".into(), format!("{}/{}", r.plural, s.name).into());
    row.insert("singularName".into(), "".into());
    row.insert("namespaced".into(), r.namespaced().into());
    if let Some((group, version)) = s.group_version.filter(|gv| *gv != (r.group, r.version)) {
        row.insert("group".into(), group.into());
        row.insert("version".into(), version.into());
    }
    row.insert("kind".into(), s.kind.unwrap_or(r.kind).into());
    row.insert("verbs".into(), json!(s.verbs));
    row.into()
}

/// Which half of the API an aggregated document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `/api`: the core group.
    Api,
    /// `/apis`: all named groups.
    Apis,
}

/// `/api` and `/apis` for `Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`.
pub fn aggregated(root: Root) -> Value {
    let wanted = |group: &str| group.is_empty() == (root == Root::Api);
    let items: Vec<Value> =
        groups().into_iter().filter(|(g, _)| wanted(g)).map(|(g, v)| aggregated_group(g, &v)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| {
            let resources: Vec<Value> = of(group, v).map(aggregated_resource).collect();
            json!({"version": v, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(r: &'static Resource) -> Value {
    let mut row = json!({
        "resource": r.plural,
        "responseKind": kind(r.group, r.version, r.kind),
        "scope": match r.scope { Scope::Cluster => "Cluster", Scope::Namespaced => "Namespaced" },
        "singularResource": r.singular,
        "verbs": r.verbs,
    });
    if !r.short.is_empty() {
        row["shortNames"] = json!(r.short);
    }
    if !r.categories.is_empty() {
        row["categories"] = json!(r.categories);
    }
    if !r.subresources.is_empty() {
        row["subresources"] = r.subresources.iter().map(|s| aggregated_subresource(r, s)).collect();
    }
    row
}

fn aggregated_subresource(r: &Resource, s: &Subresource) -> Value {
    let (group, version) = s.group_version.unwrap_or((r.group, r.version));
    json!({
        "subresource": s.name,
        "responseKind": kind(group, version, s.kind.unwrap_or(r.kind)),
        "verbs": s.verbs,
    })
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(list: &'a Value, name: &str) -> &'a Value {
        list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap()
    }

    #[test]
    fn legacy_documents() {
        let core = resource_list("", "v1").unwrap();
        assert_eq!(row(&core, "services")["shortNames"], json!(["svc"]));
        assert_eq!(row(&core, "pods/eviction")["group"], "policy");
        assert_eq!(row(&core, "pods/status")["kind"], "Pod");
        assert_eq!(row(&core, "namespaces")["namespaced"], false);
        assert_eq!(group("apps").unwrap()["preferredVersion"]["groupVersion"], "apps/v1");
        assert!(group("nope").is_none() && group("").is_none() && resource_list("apps", "v2").is_none());
        assert!(api_groups()["groups"].as_array().unwrap().iter().all(|g| g["name"] != ""));
    }

    #[test]
    fn aggregated_documents_hold_every_row_once() {
        let count = |root| -> usize {
            let document = aggregated(root);
            let groups = document["items"].as_array().unwrap().clone();
            let versions = groups.iter().flat_map(|g| g["versions"].as_array().unwrap());
            versions.map(|v| v["resources"].as_array().unwrap().len()).sum()
        };
        assert_eq!(count(Root::Api) + count(Root::Apis), RESOURCES.len());
        let document = aggregated(Root::Apis);
        let apps = document["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
        let scale = &apps["versions"][0]["resources"][2]["subresources"][0];
        assert_eq!(scale["responseKind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    }
}
