//! The paths of a resource: for each verb the kind it is about, its parameters, bodies and answers. kubectl looks here to learn
//! which kind a resource has, which patches it takes and whether the server validates fields and knows dry runs.

use serde_json::{Map, Value, json};

use super::definitions::{Dialect, list_name};
use super::{gvk, root};
use crate::resources::{Resource, Subresource};

const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

pub(super) fn v2(r: &Resource) -> Vec<(String, Value)> {
    of(r, Dialect::V2)
}

pub(super) fn v3(r: &Resource) -> Vec<(String, Value)> {
    of(r, Dialect::V3)
}

/// One operation, before it is put into a dialect.
struct Operation {
    method: &'static str,
    /// As `x-kubernetes-action` says it.
    action: &'static str,
    id: String,
    kind: Value,
    /// The definition of the body, if there is one.
    body: Option<String>,
    answer: String,
}

fn of(r: &Resource, dialect: Dialect) -> Vec<(String, Value)> {
    let base = format!("/{}", root(r.group, r.version));
    let collection = match r.namespaced() {
        true => format!("{base}/namespaces/{{namespace}}/{}", r.plural),
        false => format!("{base}/{}", r.plural),
    };
    let item = format!("{collection}/{{name}}");
    let mut paths = vec![(collection, operations(r, &["list", "create", "deletecollection"]))];
    if r.stored {
        paths.push((item.clone(), operations(r, &["get", "update", "patch", "delete"])));
        if r.namespaced() {
            paths.push((format!("{base}/{}", r.plural), operations(r, &["list"])));
        }
    }
    for sub in r.subresources {
        paths.push((format!("{item}/{}", sub.name), subresource(r, sub)));
    }
    let filled = paths.into_iter().filter(|(_, ops)| !ops.is_empty());
    filled
        .map(|(path, ops)| {
            let item = render(&path, &ops, dialect);
            (path, item)
        })
        .collect()
}

fn operations(r: &Resource, verbs: &[&'static str]) -> Vec<Operation> {
    verbs.iter().filter(|v| r.allows(v)).map(|v| operation(r, v)).collect()
}

fn operation(r: &Resource, verb: &'static str) -> Operation {
    let own = r.schema.name();
    let kind = gvk(r.group, r.version, r.kind);
    let (method, action, body, answer) = match verb {
        "list" => ("get", "list", None, list_name(r)),
        "create" => ("post", "post", Some(own.clone()), own),
        "update" => ("put", "put", Some(own.clone()), own),
        "patch" => ("patch", "patch", Some(own.clone()), own),
        "delete" => ("delete", "delete", Some(DELETE_OPTIONS.to_owned()), STATUS.to_owned()),
        "deletecollection" => ("delete", "deletecollection", Some(DELETE_OPTIONS.to_owned()), STATUS.to_owned()),
        _ => ("get", "get", None, own),
    };
    Operation { method, action, id: format!("{verb}{}", id(r)), kind, body, answer }
}

fn subresource(r: &Resource, sub: &Subresource) -> Vec<Operation> {
    let (group, version) = sub.group_version.unwrap_or((r.group, r.version));
    let kind = gvk(group, version, sub.kind.unwrap_or(r.kind));
    let schema = sub.schema.as_ref().unwrap_or(&r.schema);
    let connection = sub.schema.is_none() && sub.kind.is_some();
    let own = if connection { STATUS.to_owned() } else { schema.name() };
    let one = |verb: &&'static str| {
        let (method, action) = match *verb {
            "create" => ("post", "post"),
            "update" => ("put", "put"),
            "patch" => ("patch", "patch"),
            "delete" => ("delete", "delete"),
            _ => ("get", "get"),
        };
        let body = (!connection && method != "get").then(|| own.clone());
        let action = if connection { "connect" } else { action };
        let id = format!("{verb}{}{}", id(r), capital(sub.name));
        Operation { method, action, id, kind: kind.clone(), body, answer: own.clone() }
    };
    sub.verbs.iter().map(one).collect()
}

/// `AppsV1Deployment`.
fn id(r: &Resource) -> String {
    let group = r.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
    format!("{}{}{}", capital(group), capital(r.version), r.kind)
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

fn render(path: &str, operations: &[Operation], dialect: Dialect) -> Value {
    let mut item = Map::new();
    for operation in operations {
        let rendered = match dialect {
            Dialect::V2 => render_v2(operation),
            Dialect::V3 => render_v3(operation),
        };
        item.insert(operation.method.into(), rendered);
    }
    let in_path = ["namespace", "name"].into_iter().filter(|p| path.contains(&format!("{{{p}}}")));
    let parameters: Vec<Value> = in_path.map(|p| parameter(p, "path", dialect)).collect();
    if !parameters.is_empty() {
        item.insert("parameters".into(), parameters.into());
    }
    item.into()
}

fn parameter(name: &str, place: &str, dialect: Dialect) -> Value {
    let kind = match name {
        "watch" | "force" | "allowWatchBookmarks" | "sendInitialEvents" => "boolean",
        "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    let mut parameter = json!({"name": name, "in": place});
    match dialect {
        Dialect::V2 => parameter["type"] = kind.into(),
        Dialect::V3 => parameter["schema"] = json!({"type": kind}),
    }
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

fn query(operation: &Operation) -> &'static [&'static str] {
    match operation.action {
        "list" => &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "timeoutSeconds",
            "watch",
        ],
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        "deletecollection" => &["continue", "dryRun", "fieldSelector", "labelSelector", "limit", "propagationPolicy"],
        _ => &[],
    }
}

fn common(operation: &Operation, dialect: Dialect) -> Value {
    let parameters: Vec<Value> = query(operation).iter().map(|p| parameter(p, "query", dialect)).collect();
    json!({
        "operationId": operation.id,
        "parameters": parameters,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.kind,
    })
}

fn render_v2(operation: &Operation) -> Value {
    let mut out = common(operation, Dialect::V2);
    out["responses"] = json!({"200": {"description": "OK", "schema": Dialect::V2.reference(&operation.answer)}});
    if operation.method == "patch" {
        out["consumes"] = json!(PATCHES);
    }
    if let (Some(body), Some(list)) = (&operation.body, out["parameters"].as_array_mut()) {
        list.push(json!({"name": "body", "in": "body", "schema": Dialect::V2.reference(body)}));
    }
    out
}

fn render_v3(operation: &Operation) -> Value {
    let mut out = common(operation, Dialect::V3);
    let answer = json!({"schema": Dialect::V3.reference(&operation.answer)});
    out["responses"] = json!({"200": {"description": "OK", "content": {"application/json": answer}}});
    if let Some(body) = &operation.body {
        let body = json!({"schema": Dialect::V3.reference(body)});
        let kinds: &[&str] = if operation.method == "patch" { &PATCHES } else { &["application/json"] };
        let content: Map<String, Value> = kinds.iter().map(|k| (k.to_string(), body.clone())).collect();
        out["requestBody"] = json!({"content": content});
    }
    out
}
