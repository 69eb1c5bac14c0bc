//! Volumes, claims and storage classes.

use serde_json::Value;

use super::Row;
use super::format::texts;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// `RWO,ROX`, each once and in this order.
pub(super) fn access_modes(modes: &Value) -> Value {
    let given = texts(modes);
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let short = known.iter().filter(|(long, _)| given.contains(long)).map(|(_, short)| *short);
    short.collect::<Vec<_>>().join(",").into()
}

pub(super) fn phase(row: &Row<'_>) -> Value {
    if row.has("metadata.deletionTimestamp") { "Terminating".into() } else { row.text("status.phase").into() }
}

pub(super) fn claim(row: &Row<'_>) -> Value {
    match row.has("spec.claimRef") {
        true => format!("{}/{}", row.text("spec.claimRef.namespace"), row.text("spec.claimRef.name")).into(),
        false => "".into(),
    }
}

pub(super) fn class(row: &Row<'_>) -> Value {
    let annotated = row.at("metadata.annotations")[CLASS_ANNOTATION].as_str();
    annotated.unwrap_or(row.text("spec.storageClassName")).into()
}

/// What a claim has only once it has a volume.
pub(super) fn when_bound(row: &Row<'_>, value: Value) -> Value {
    if row.text("spec.volumeName").is_empty() || value.is_null() { "".into() } else { value }
}

pub(super) fn class_name(row: &Row<'_>) -> Value {
    let annotations = row.at("metadata.annotations");
    let default = DEFAULT_CLASS.iter().any(|key| annotations[key] == "true");
    format!("{}{}", row.text("metadata.name"), if default { " (default)" } else { "" }).into()
}
