//! The pod of one ordinal.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, PodTemplateSpec},
};

use crate::{
    history::LABEL as REVISION,
    object::{self, controller_ref, name},
};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal that a pod's name carries, if it is a name of the set.
pub(crate) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = name(&pod.metadata).strip_prefix(name(&set.metadata))?.strip_prefix('-')?;
    let number: i32 = rest.parse().ok()?;
    (rest == number.to_string()).then_some(number)
}

pub(crate) fn make(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = object::pod_from(template, &set.metadata, controller_ref(set));
    let own_name = format!("{}-{ordinal}", name(&set.metadata));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(own_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), own_name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(REVISION.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(own_name);
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|n| !n.is_empty());
    pod
}
