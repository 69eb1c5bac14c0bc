//! How the lists and maps of the built-in kinds merge: `patchMergeKey` and `patchStrategy` for strategic merge patch,
//! list types and list map keys for server-side apply.
//!
//! A table of types. A field that is not named here is ordinary: an object merges key by key, a list is replaced as one.
//! A type without special fields, in it or below it, is not named at all.

/// The fields of one type that are special or lead to special ones.
pub type Type = &'static [Field];

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub patch: Patch,
    pub apply: Apply,
    /// The patch strategy `retainKeys`: clients send `$retainKeys`, and keys that are not listed there go.
    pub retain_keys: bool,
    /// The type of the field, or of its elements.
    pub of: Type,
}

/// What strategic merge patch does with the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// Objects merge, lists are replaced.
    Plain,
    /// A list of plain values that merges as a set.
    Values,
    /// A list of objects that merges by this key.
    Key(&'static str),
}

/// Who can own what in the field under server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// Objects are owned key by key, lists as one.
    Plain,
    /// The whole value has one set of owners.
    Atomic,
    /// A list of plain values, each with its owners.
    Set,
    /// A list of objects, each found by the values of these keys.
    Keys(&'static [Key]),
}

/// One key of an associative list and what an element without it counts as having.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub default: Option<&'static str>,
}

/// The type of a whole object. Kinds that are not known have only `metadata`.
pub fn root(group: &str, kind: &str) -> Type {
    let known = ROOTS.iter().find(|(g, k, _)| *g == group && *k == kind);
    known.map_or(OBJECT, |(_, _, fields)| fields)
}

/// The special field of that name, if it is one.
pub fn field(of: Type, name: &str) -> Option<&'static Field> {
    of.iter().find(|field| field.name == name)
}

const fn plain(name: &'static str, of: Type) -> Field {
    Field { name, patch: Patch::Plain, apply: Apply::Plain, retain_keys: false, of }
}

const fn atomic(name: &'static str) -> Field {
    Field { name, patch: Patch::Plain, apply: Apply::Atomic, retain_keys: false, of: &[] }
}

const fn set(name: &'static str) -> Field {
    Field { name, patch: Patch::Plain, apply: Apply::Set, retain_keys: false, of: &[] }
}

const fn patched_set(name: &'static str) -> Field {
    Field { name, patch: Patch::Values, apply: Apply::Set, retain_keys: false, of: &[] }
}

/// A list that merges by `patch` and is owned by `keys`.
const fn list(name: &'static str, patch: &'static str, keys: &'static [Key], of: Type) -> Field {
    Field { name, patch: Patch::Key(patch), apply: Apply::Keys(keys), retain_keys: false, of }
}

/// As [`list`], but each element keeps only the keys that the patch retains.
const fn retaining(name: &'static str, patch: &'static str, keys: &'static [Key], of: Type) -> Field {
    Field { name, patch: Patch::Key(patch), apply: Apply::Keys(keys), retain_keys: true, of }
}

/// Merged by key when patched, but owned as one.
const fn patched_only(name: &'static str, patch: &'static str) -> Field {
    Field { name, patch: Patch::Key(patch), apply: Apply::Plain, retain_keys: false, of: &[] }
}

/// Owned element by element, but replaced when patched.
const fn owned_only(name: &'static str, keys: &'static [Key], of: Type) -> Field {
    Field { name, patch: Patch::Plain, apply: Apply::Keys(keys), retain_keys: false, of }
}

const fn key(name: &'static str) -> Key {
    Key { name, default: None }
}

const PROTOCOL: Key = Key { name: "protocol", default: Some("TCP") };
const NAME: &[Key] = &[key("name")];
const TYPE: &[Key] = &[key("type")];
const IP: &[Key] = &[key("ip")];

const META: Type =
    &[patched_set("finalizers"), list("ownerReferences", "uid", &[key("uid")], &[]), atomic("managedFields")];
const METADATA: Field = plain("metadata", META);
const OBJECT: Type = &[METADATA];
const CONDITIONS: Type = &[list("conditions", "type", TYPE, &[])];
const STATUS: Field = plain("status", CONDITIONS);
const WITH_CONDITIONS: Type = &[METADATA, STATUS];

const RESOURCES: Type = &[owned_only("claims", NAME, &[])];
const ENV_SOURCE: Type = &[
    atomic("configMapKeyRef"),
    atomic("secretKeyRef"),
    atomic("fieldRef"),
    atomic("resourceFieldRef"),
    atomic("fileKeyRef"),
];
const CONTAINER: Type = &[
    list("env", "name", NAME, &[plain("valueFrom", ENV_SOURCE)]),
    list("ports", "containerPort", &[key("containerPort"), PROTOCOL], &[]),
    plain("resources", RESOURCES),
    list("volumeDevices", "devicePath", &[key("devicePath")], &[]),
    list("volumeMounts", "mountPath", &[key("mountPath")], &[]),
];
const CLAIM_TEMPLATE: Type = &[METADATA, plain("spec", CLAIM_SPEC)];
const CLAIM_SPEC: Type = &[atomic("selector"), atomic("dataSource")];
const SECRET_REF: Type = &[atomic("secretRef")];
const VOLUME: Type = &[
    plain("ephemeral", &[plain("volumeClaimTemplate", CLAIM_TEMPLATE)]),
    plain("csi", &[atomic("nodePublishSecretRef")]),
    plain("cephfs", SECRET_REF),
    plain("cinder", SECRET_REF),
    plain("flexVolume", SECRET_REF),
    plain("iscsi", SECRET_REF),
    plain("rbd", SECRET_REF),
    plain("scaleIO", SECRET_REF),
    plain("storageos", SECRET_REF),
];
const AFFINITY: Type = &[plain("nodeAffinity", &[atomic("requiredDuringSchedulingIgnoredDuringExecution")])];
const SPREAD: &[Key] = &[key("topologyKey"), key("whenUnsatisfiable")];
const POD_SPEC: Type = &[
    plain("affinity", AFFINITY),
    list("containers", "name", NAME, CONTAINER),
    list("ephemeralContainers", "name", NAME, CONTAINER),
    list("hostAliases", "ip", IP, &[]),
    list("imagePullSecrets", "name", NAME, &[]),
    list("initContainers", "name", NAME, CONTAINER),
    atomic("nodeSelector"),
    retaining("resourceClaims", "name", NAME, &[]),
    plain("resources", RESOURCES),
    list("schedulingGates", "name", NAME, &[]),
    list("topologySpreadConstraints", "topologyKey", SPREAD, &[atomic("labelSelector")]),
    retaining("volumes", "name", NAME, VOLUME),
];
const POD_STATUS: Type = &[
    list("conditions", "type", TYPE, &[]),
    patched_only("hostIPs", "ip"),
    list("podIPs", "ip", IP, &[]),
    retaining("resourceClaimStatuses", "name", NAME, &[]),
];
const POD_TEMPLATE: Type = &[METADATA, plain("spec", POD_SPEC)];
const TEMPLATE: Field = plain("template", POD_TEMPLATE);

const STRATEGY: Field =
    Field { name: "strategy", patch: Patch::Plain, apply: Apply::Plain, retain_keys: true, of: &[] };
const DEPLOYMENT_SPEC: Type = &[atomic("selector"), STRATEGY, TEMPLATE];
const WORKLOAD_SPEC: Type = &[atomic("selector"), TEMPLATE];
const WORKLOAD: Type = &[METADATA, plain("spec", WORKLOAD_SPEC), STATUS];
const JOB_STATUS: Type =
    &[patched_only("conditions", "type"), plain("uncountedTerminatedPods", &[set("failed"), set("succeeded")])];
const CRON_SPEC: Type = &[plain("jobTemplate", &[METADATA, plain("spec", WORKLOAD_SPEC)])];

const SERVICE_SPEC: Type = &[list("ports", "port", &[key("port"), PROTOCOL], &[]), atomic("selector")];
const NODE_STATUS: Type = &[list("addresses", "type", TYPE, &[]), list("conditions", "type", TYPE, &[])];
const WEBHOOK: Type =
    &[list("matchConditions", "name", NAME, &[]), atomic("namespaceSelector"), atomic("objectSelector")];
const WEBHOOKS: Type = &[METADATA, list("webhooks", "name", NAME, WEBHOOK)];
const BACKEND: Type = &[atomic("resource")];
const SCALE_TARGET: Field = atomic("scaleTargetRef");

type Root = (&'static str, &'static str, Type);

const ROOTS: &[Root] = &[
    ("", "Event", &[METADATA, atomic("involvedObject"), atomic("related")]),
    ("", "Namespace", WITH_CONDITIONS),
    ("", "Node", &[METADATA, plain("spec", &[patched_set("podCIDRs")]), plain("status", NODE_STATUS)]),
    ("", "PersistentVolume", &[METADATA, plain("spec", &[plain("nodeAffinity", &[atomic("required")])])]),
    ("", "PersistentVolumeClaim", &[METADATA, plain("spec", CLAIM_SPEC), STATUS]),
    ("", "Pod", &[METADATA, plain("spec", POD_SPEC), plain("status", POD_STATUS)]),
    ("", "PodTemplate", &[METADATA, TEMPLATE]),
    ("", "ReplicationController", &[METADATA, plain("spec", &[atomic("selector"), TEMPLATE]), STATUS]),
    ("", "ResourceQuota", &[METADATA, plain("spec", &[atomic("scopeSelector")])]),
    ("", "Service", &[METADATA, plain("spec", SERVICE_SPEC), STATUS]),
    ("", "ServiceAccount", &[METADATA, list("secrets", "name", NAME, &[])]),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", WEBHOOKS),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", WEBHOOKS),
    ("apps", "DaemonSet", WORKLOAD),
    ("apps", "Deployment", &[METADATA, plain("spec", DEPLOYMENT_SPEC), STATUS]),
    ("apps", "ReplicaSet", WORKLOAD),
    ("apps", "StatefulSet", WORKLOAD),
    ("autoscaling", "HorizontalPodAutoscaler", &[METADATA, plain("spec", &[SCALE_TARGET]), STATUS]),
    ("batch", "CronJob", &[METADATA, plain("spec", CRON_SPEC)]),
    ("batch", "Job", &[METADATA, plain("spec", WORKLOAD_SPEC), plain("status", JOB_STATUS)]),
    (
        "certificates.k8s.io",
        "CertificateSigningRequest",
        &[METADATA, plain("status", &[owned_only("conditions", TYPE, &[])])],
    ),
    ("events.k8s.io", "Event", &[METADATA, atomic("regarding"), atomic("related")]),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", WITH_CONDITIONS),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", WITH_CONDITIONS),
    ("networking.k8s.io", "Ingress", &[METADATA, plain("spec", &[plain("defaultBackend", BACKEND)])]),
    ("networking.k8s.io", "NetworkPolicy", &[METADATA, plain("spec", &[atomic("podSelector")])]),
    ("networking.k8s.io", "ServiceCIDR", WITH_CONDITIONS),
    ("node.k8s.io", "RuntimeClass", &[METADATA, plain("scheduling", &[atomic("nodeSelector")])]),
    ("policy", "PodDisruptionBudget", &[METADATA, plain("spec", &[atomic("selector")]), STATUS]),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", &[METADATA, atomic("roleRef")]),
    ("rbac.authorization.k8s.io", "RoleBinding", &[METADATA, atomic("roleRef")]),
    ("storage.k8s.io", "CSIDriver", &[METADATA, plain("spec", &[set("volumeLifecycleModes")])]),
    ("storage.k8s.io", "CSINode", &[METADATA, plain("spec", &[list("drivers", "name", NAME, &[])])]),
];

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::resources::RESOURCES;

    /// The schema that a reference leads to.
    fn resolve<'a>(schema: &'a Value, definitions: &'a Value) -> &'a Value {
        let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        match reference.and_then(|text| text.rsplit('/').next()) {
            Some(name) => resolve(&definitions[name], definitions),
            None => schema,
        }
    }

    fn check(of: Type, schema: &Value, definitions: &Value, path: &str) -> usize {
        let mut checked = 0;
        for field in of {
            let path = format!("{path}.{}", field.name);
            let below = resolve(&schema["properties"][field.name], definitions);
            assert!(below.is_object(), "{path} is in the schema");
            let is_list = matches!(field.patch, Patch::Values | Patch::Key(_))
                || matches!(field.apply, Apply::Set | Apply::Keys(_));
            assert!(!is_list || below.get("items").is_some(), "{path} is a list");
            let element = if is_list { resolve(&below["items"], definitions) } else { below };
            for key in keys(field) {
                assert!(element["properties"].get(key).is_some(), "{path} has elements with {key}");
            }
            checked += 1 + check(field.of, element, definitions, &path);
        }
        checked
    }

    fn keys(field: &Field) -> Vec<&'static str> {
        let patch = if let Patch::Key(key) = field.patch { vec![key] } else { vec![] };
        let apply = if let Apply::Keys(keys) = field.apply { keys } else { &[] };
        patch.into_iter().chain(apply.iter().map(|key| key.name)).collect()
    }

    #[test]
    fn every_named_field_is_in_the_schema() {
        let definitions = Value::Object(crate::schema::embedded::definitions());
        let mut checked = 0;
        // A view of another version of its own group has fewer fields.
        let older = |r: &&crate::resources::Resource| r.stored_as.is_some_and(|(group, _)| group == r.group);
        for resource in RESOURCES.iter().filter(|r| r.stored && !older(r)) {
            let schema = &definitions[resource.schema.name().as_str()];
            checked += check(root(resource.group, resource.kind), schema, &definitions, resource.kind);
        }
        assert!(checked > 500, "{checked}");
    }
}
