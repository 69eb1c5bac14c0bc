//! A Job's pod.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
};

use crate::object::{self, annotation, controller_ref, name, phase};

/// Holds a pod until its end is counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const VARIABLE: &str = "JOB_COMPLETION_INDEX";

pub(crate) fn make(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = object::pod_from(&template, &job.metadata, controller_ref(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let Some(index) = index else { return pod };
    let own_name = format!("{}-{index}", name(&job.metadata));
    pod.metadata.generate_name = Some(format!("{own_name}-"));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.get_or_insert(own_name);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|v| v.name == VARIABLE) {
            env.push(variable());
        }
    }
    pod
}

fn variable() -> EnvVar {
    let path = format!("metadata.annotations['{INDEX}']");
    let field = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path };
    let source = EnvVarSource { field_ref: Some(field), ..Default::default() };
    EnvVar { name: VARIABLE.into(), value: None, value_from: Some(source) }
}

pub(crate) fn index(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

pub(crate) fn is_held(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    Failed,
}

/// A pod that somebody deleted before its end has failed.
pub(crate) fn end(pod: &Pod) -> Option<End> {
    match phase(pod) {
        "Succeeded" => Some(End::Succeeded),
        "Failed" => Some(End::Failed),
        _ if object::is_deleted(&pod.metadata) => Some(End::Failed),
        _ => None,
    }
}
