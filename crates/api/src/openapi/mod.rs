//! OpenAPI v2 and v3 documents, good for `kubectl apply`, `explain` and field validation.
//!
//! They are built when asked for and kept by nobody here: with their descriptions they are megabytes.

mod binary;
mod definitions;
mod merge;
mod paths;

use serde_json::{Map, Value, json};

use crate::discovery::VERSION;
use crate::resources::{RESOURCES, Resource, groups};
use definitions::Dialect;

/// `/openapi/v2`.
pub fn v2() -> Value {
    let rows: Vec<&Resource> = RESOURCES.iter().collect();
    let paths: Map<String, Value> = rows.iter().flat_map(|r| paths::v2(r)).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": definitions::of(&rows, Dialect::V2),
    })
}

/// What a client accepts that wants `/openapi/v2` as protobuf; a substring, because its spelling varies.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";

/// `/openapi/v2` as protobuf, which kubectl before 1.29 cannot do without.
pub fn v2_protobuf() -> Vec<u8> {
    binary::encode(&v2())
}

/// `/openapi/v3`: where the document of each group and version is. The hash changes when the document may have changed.
pub fn v3_index() -> Value {
    let mut index = Map::new();
    for (group, versions) in groups() {
        for version in versions {
            let path = root(group, version);
            let url = format!("/openapi/v3/{path}?hash={:016X}", fingerprint(group, version));
            index.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": index})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`.
pub fn v3(group: &str, version: &str) -> Option<Value> {
    let rows: Vec<&Resource> = RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect();
    if rows.is_empty() {
        return None;
    }
    let paths: Map<String, Value> = rows.iter().flat_map(|r| paths::v3(r)).collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {"schemas": definitions::of(&rows, Dialect::V3)},
    }))
}

/// `api/v1`, `apis/apps/v1`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// FNV-1a over everything a document is made from: the server's version, this crate's version, the rows.
fn fingerprint(group: &str, version: &str) -> u64 {
    let rows = RESOURCES.iter().filter(|r| r.group == group && r.version == version);
    let names = rows.flat_map(|r| std::iter::once(r.plural).chain(r.subresources.iter().map(|s| s.name)));
    let words = [VERSION, env!("CARGO_PKG_VERSION"), group, version].into_iter().chain(names);
    words
        .flat_map(|w| w.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference in a document leads somewhere.
    fn check_references(document: &Value) {
        let mut open = vec![document];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                        let pointer = target.trim_start_matches('#');
                        assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
                    }
                    open.extend(map.values());
                }
                Value::Array(list) => open.extend(list),
                _ => {}
            }
        }
    }

    #[test]
    fn documents_are_closed() {
        check_references(&v2());
        for (group, versions) in groups() {
            for version in versions {
                check_references(&v3(group, version).unwrap());
            }
        }
        assert!(v3("apps", "v9").is_none());
    }

    #[test]
    fn pods_are_described_as_kubectl_looks_for_them() {
        let document = v3("", "v1").unwrap();
        let pod = gvk("", "v1", "Pod");
        let item = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
        assert_eq!(item["patch"]["x-kubernetes-group-version-kind"], pod);
        assert!(item["patch"]["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
        let validates = |p: &Value| p["name"] == "fieldValidation" && p["in"] == "query";
        assert!(item["patch"]["parameters"].as_array().unwrap().iter().any(validates));
        let schema = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(schema["x-kubernetes-group-version-kind"], json!([pod]));
        let spec = &schema["properties"]["spec"];
        assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
        assert!(spec["description"].as_str().unwrap().contains("desired behavior"));
        let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    }
}
