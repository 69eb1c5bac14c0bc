//! Volumes of pods.

use serde_json::Value;
use skiff_api::json;

use super::{Writer, fields::scalar};

/// `level` is 1 within a template.
pub(super) fn volumes(w: &mut Writer, all: &[Value], level: usize) {
    if all.is_empty() {
        return w.field(level, "Volumes", "<none>");
    }
    w.line(level, "Volumes:");
    for volume in all {
        w.line(1, format!("{}{}:", if level > 0 { " " } else { "" }, json::text(volume, "name")));
        one(w, volume);
    }
}

fn one(w: &mut Writer, volume: &Value) {
    let text = |path: &str| json::get(volume, path).map(scalar).unwrap_or_default();
    let truth = |path: &str| json::truth(volume, path);
    let has = |field: &str| volume.get(field).is_some_and(Value::is_object);
    if has("hostPath") {
        w.field(2, "Type", "HostPath (bare host directory volume)");
        w.field(2, "Path", text("hostPath.path"));
        w.field(2, "HostPathType", text("hostPath.type"));
    } else if has("emptyDir") {
        w.field(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
        w.field(2, "Medium", text("emptyDir.medium"));
        let limit = text("emptyDir.sizeLimit");
        w.field(2, "SizeLimit", if limit.is_empty() { "<unset>" } else { &limit });
    } else if has("configMap") {
        w.field(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
        w.field(2, "Name", text("configMap.name"));
        w.field(2, "Optional", truth("configMap.optional"));
    } else if has("secret") {
        w.field(2, "Type", "Secret (a volume populated by a Secret)");
        w.field(2, "SecretName", text("secret.secretName"));
        w.field(2, "Optional", truth("secret.optional"));
    } else if has("projected") {
        w.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
        json::list(volume, "projected.sources").iter().for_each(|s| source(w, s));
    } else if has("downwardAPI") {
        w.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
        w.line(2, "Items:");
        for item in json::list(volume, "downwardAPI.items") {
            w.line(3, format!("{} -> {}", json::text(item, "fieldRef.fieldPath"), json::text(item, "path")));
        }
    } else if has("persistentVolumeClaim") {
        w.field(2, "Type", "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)");
        w.field(2, "ClaimName", text("persistentVolumeClaim.claimName"));
        w.field(2, "ReadOnly", truth("persistentVolumeClaim.readOnly"));
    } else {
        w.line(2, "<unknown>");
    }
}

fn source(w: &mut Writer, source: &Value) {
    let text = |path: &str| json::get(source, path).map_or_else(|| "<nil>".to_owned(), scalar);
    if source.get("secret").is_some() {
        w.field(2, "SecretName", text("secret.name"));
        w.field(2, "SecretOptionalName", text("secret.optional"));
    } else if source.get("downwardAPI").is_some() {
        w.field(2, "DownwardAPI", "true");
    } else if source.get("configMap").is_some() {
        w.field(2, "ConfigMapName", text("configMap.name"));
        w.field(2, "ConfigMapOptional", text("configMap.optional"));
    } else if source.get("serviceAccountToken").is_some() {
        w.field(2, "TokenExpirationSeconds", text("serviceAccountToken.expirationSeconds"));
    }
}
