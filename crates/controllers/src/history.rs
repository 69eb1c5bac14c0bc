//! The revisions of a pod template, kept as ControllerRevisions: StatefulSets and DaemonSets roll from one to the next,
//! and `kubectl rollout history|undo` reads them.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::ControllerRevision,
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Error, Resource,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use skiff_client::cache::{Cache, Key};

use crate::{
    deployment::hash,
    object::{controller_ref, is_already_there, is_controlled_by, is_not_found, labels, name, namespace, uid},
};

/// On pods: the name (StatefulSet) or the hash (DaemonSet) of their revision.
pub(crate) const LABEL: &str = "controller-revision-hash";
const KEPT: usize = 10;

/// What a revision holds: a patch of the owner that brings its template back.
pub(crate) fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    serde_json::from_value(revision.data.as_ref()?.0.pointer("/spec/template")?.clone()).ok()
}

/// The template of the owner as a revision, and what has to be written for it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The revision of the template as it is now; to be created or renumbered when it is not in the history like this.
    pub update: ControllerRevision,
    pub write: Option<Write>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    /// An old template is wanted again: it becomes the newest revision.
    Renumber,
}

/// `owned` are the owner's revisions.
pub(crate) fn plan<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    owned: &[Arc<ControllerRevision>],
) -> Plan {
    let newest = owned.iter().map(|r| r.revision).max().unwrap_or(0);
    let wanted = data(template);
    let equal = owned.iter().filter(|r| r.data.as_ref().is_some_and(|d| d.0 == wanted)).max_by_key(|r| r.revision);
    match equal {
        Some(same) if same.revision == newest => Plan { update: (**same).clone(), write: None },
        Some(same) => Plan {
            update: ControllerRevision { revision: newest + 1, ..(**same).clone() },
            write: Some(Write::Renumber),
        },
        None => {
            let hash = hash::of(template, collisions);
            let mut labels = template.metadata.as_ref().map(labels).cloned().unwrap_or_default();
            labels.insert(LABEL.into(), hash.clone());
            let metadata = ObjectMeta {
                name: Some(format!("{}-{hash}", name(owner.meta()))),
                namespace: owner.meta().namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_ref(owner)]),
                ..Default::default()
            };
            let data = Some(k8s_openapi::apimachinery::pkg::runtime::RawExtension(wanted));
            let update = ControllerRevision { metadata, data, revision: newest + 1 };
            Plan { update, write: Some(Write::Create) }
        }
    }
}

/// Revisions beyond the limit that no pod has, the oldest first.
pub(crate) fn surplus(
    owned: &[Arc<ControllerRevision>],
    keep: &[&str],
    pods: &[Arc<Pod>],
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let limit = limit.and_then(|l| usize::try_from(l).ok()).unwrap_or(KEPT);
    let live: BTreeSet<&str> = pods
        .iter()
        .filter_map(|p| labels(&p.metadata).get(LABEL))
        .map(String::as_str)
        .chain(keep.iter().copied())
        .collect();
    let is_live = |r: &ControllerRevision| {
        live.contains(name(&r.metadata)) || labels(&r.metadata).get(LABEL).is_some_and(|h| live.contains(h.as_str()))
    };
    let mut old: Vec<_> = owned.iter().filter(|r| !is_live(r)).cloned().collect();
    old.sort_by_key(|r| r.revision);
    old.truncate(old.len().saturating_sub(limit));
    old
}

pub(crate) struct History {
    pub client: Client,
    pub cache: Arc<Cache<ControllerRevision>>,
}

impl History {
    pub(crate) fn of(&self, owner: &ObjectMeta) -> Vec<Arc<ControllerRevision>> {
        let mut all = self.cache.namespace(namespace(owner));
        all.retain(|r| is_controlled_by(&r.metadata, owner));
        all
    }

    /// Brings the revision into the store; as it stands there. None: the name is another template's, so that the owner
    /// must count a collision.
    pub(crate) async fn write(&self, plan: &Plan) -> Result<Option<ControllerRevision>, Error> {
        let api = self.api(namespace(&plan.update.metadata));
        let written = match plan.write {
            None => return Ok(Some(plan.update.clone())),
            Some(Write::Renumber) => {
                api.replace(name(&plan.update.metadata), &PostParams::default(), &plan.update).await?
            }
            Some(Write::Create) => match api.create(&PostParams::default(), &plan.update).await {
                Err(error) if is_already_there(&error) => {
                    // Our own, which the cache does not show yet, or a stranger's.
                    let there = api.get(name(&plan.update.metadata)).await?;
                    let owner = plan.update.metadata.owner_references.iter().flatten().next().map(|o| &o.uid);
                    let same_owner = there.metadata.owner_references.iter().flatten().any(|o| Some(&o.uid) == owner);
                    let same_data = there.data.as_ref().map(|d| &d.0) == plan.update.data.as_ref().map(|d| &d.0);
                    if !(same_owner && same_data) {
                        return Ok(None);
                    }
                    there
                }
                other => other?,
            },
        };
        self.cache.put(written.clone());
        Ok(Some(written))
    }

    pub(crate) async fn forget(&self, surplus: &[Arc<ControllerRevision>]) -> Result<(), Error> {
        for old in surplus {
            match self.api(namespace(&old.metadata)).delete(name(&old.metadata), &DeleteParams::default()).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => self.cache.remove(&Key::of(&**old), uid(&old.metadata)),
            }
        }
        Ok(())
    }

    fn api(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
