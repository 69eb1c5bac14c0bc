//! Revisions: which ReplicaSet is which version of the Deployment, and what its annotations say of it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use super::hash;
use crate::object::{annotation, controller_ref, name};

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that speak of itself and are not handed on.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

pub(crate) fn of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn age(set: &ReplicaSet) -> impl Ord + use<> {
    (set.metadata.creation_timestamp.clone(), set.metadata.name.clone())
}

/// The set that has the Deployment's present template, and all others, both oldest first.
pub(crate) fn split(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    let mut sorted = sets.to_vec();
    sorted.sort_by_key(|s| age(s));
    let template = deployment.spec.as_ref().map(|s| hash::without_hash(&s.template));
    let same = |set: &Arc<ReplicaSet>| {
        let of_set = set.spec.as_ref().and_then(|s| s.template.as_ref()).map(hash::without_hash);
        of_set == template
    };
    let new = sorted.iter().position(same).map(|at| sorted.remove(at));
    (new, sorted)
}

/// What the newest set's annotations should be. Its revision is one more than the others' unless it is already newest.
pub(crate) fn annotations(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[Arc<ReplicaSet>],
) -> BTreeMap<String, String> {
    let have = new.and_then(|s| s.metadata.annotations.clone()).unwrap_or_default();
    let mut want = have.clone();
    let handed_on = deployment.metadata.annotations.iter().flatten().filter(|(k, _)| !OWN.contains(&k.as_str()));
    want.extend(handed_on.map(|(k, v)| (k.clone(), v.clone())));
    let before = new.map_or(0, |s| of(&s.metadata));
    let next = old.iter().map(|s| of(&s.metadata)).max().unwrap_or(0) + 1;
    if before < next {
        want.insert(REVISION.into(), next.to_string());
        if before > 0 {
            let history = have.get(HISTORY).filter(|h| !h.is_empty()).map(|h| format!("{h},{before}"));
            want.insert(HISTORY.into(), history.unwrap_or_else(|| before.to_string()));
        }
    }
    want
}

/// A ReplicaSet for the present template, still without size.
pub(crate) fn new_set(deployment: &Deployment) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = hash::of(&spec.template, collisions);
    let template = labelled(spec.template, &hash);
    let mut selector: LabelSelector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(hash::LABEL.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(0),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

fn labelled(mut template: PodTemplateSpec, hash: &str) -> PodTemplateSpec {
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(hash::LABEL.into(), hash.into());
    template
}

/// Old sets that the history no longer needs, the oldest revisions first.
pub(crate) fn outdated(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let mut idle: Vec<Arc<ReplicaSet>> = old.iter().filter(|s| is_idle(s)).cloned().collect();
    idle.sort_by_key(|s| of(&s.metadata));
    idle.truncate(idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
    idle
}

fn is_idle(set: &ReplicaSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    set.metadata.deletion_timestamp.is_none()
        && status.replicas == 0
        && set.spec.as_ref().and_then(|s| s.replicas) == Some(0)
        && set.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
}
