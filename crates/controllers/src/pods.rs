//! What every owner of pods does with them: make, delete, adopt, let go. The cache learns of each write at once.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Error, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use skiff_client::{
    cache::{Cache, Key},
    events::Recorder,
};

use crate::{
    object::{controller_ref, is_deleted, is_namespace_ending, is_not_found, name, namespace, uid},
    replicaset::run::text,
};

pub(crate) struct Pods {
    pub client: Client,
    pub cache: Arc<Cache<Pod>>,
    pub events: Recorder,
    pub words: Words,
}

/// How an owner speaks of its pods in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    Plain,
    StatefulSet,
}

#[derive(Clone, Copy)]
enum Deed {
    Create,
    Delete,
}

impl Pods {
    pub(crate) async fn create<O: Resource<DynamicType = ()>>(&self, owner: &O, pod: &Pod) -> Result<Pod, Error> {
        match self.api(owner).create(&PostParams::default(), pod).await {
            Ok(made) => {
                self.events.normal(owner, "SuccessfulCreate", self.done(Deed::Create, owner, name(&made.metadata)));
                self.cache.put(made.clone());
                Ok(made)
            }
            Err(error) => {
                if !is_namespace_ending(&error) {
                    let words = self.failed(Deed::Create, owner, name(&pod.metadata), &error);
                    self.events.warning(owner, "FailedCreate", words);
                }
                Err(error)
            }
        }
    }

    /// What is gone already is as good as deleted.
    pub(crate) async fn delete<O: Resource<DynamicType = ()>>(&self, owner: &O, pod: &Pod) -> Result<(), Error> {
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..Default::default() };
        match self.api(owner).delete(name(&pod.metadata), &params).await {
            Ok(answer) => {
                self.events.normal(owner, "SuccessfulDelete", self.done(Deed::Delete, owner, name(&pod.metadata)));
                match answer.left().filter(|p| is_deleted(&p.metadata)) {
                    Some(ending) => self.cache.put(ending),
                    None => self.cache.remove(&Key::of(pod), uid(&pod.metadata)),
                }
                Ok(())
            }
            Err(error) if is_not_found(&error) => {
                self.cache.remove(&Key::of(pod), uid(&pod.metadata));
                Ok(())
            }
            Err(error) => {
                let words = self.failed(Deed::Delete, owner, name(&pod.metadata), &error);
                self.events.warning(owner, "FailedDelete", words);
                Err(error)
            }
        }
    }

    pub(crate) async fn claim<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        adopt: &[Arc<Pod>],
        release: &[Arc<Pod>],
    ) -> Result<(), Error> {
        for pod in adopt {
            self.own(owner, pod, json!([controller_ref(owner)])).await?;
        }
        for pod in release {
            let gone = json!([{"$patch": "delete", "uid": uid(owner.meta())}]);
            match self.own(owner, pod, gone).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn own<O>(&self, owner: &O, pod: &Pod, references: serde_json::Value) -> Result<(), Error>
    where
        O: Resource<DynamicType = ()>,
    {
        let patch = Patch::Strategic(json!({"metadata": {"ownerReferences": references, "uid": pod.metadata.uid}}));
        let written = self.api(owner).patch(name(&pod.metadata), &PatchParams::default(), &patch).await?;
        self.cache.put(written);
        Ok(())
    }

    fn done<O: Resource<DynamicType = ()>>(&self, deed: Deed, owner: &O, pod: &str) -> String {
        match (self.words, deed) {
            (Words::Plain, Deed::Create) => format!("Created pod: {pod}"),
            (Words::Plain, Deed::Delete) => format!("Deleted pod: {pod}"),
            (Words::StatefulSet, deed) => format!("{} successful", stateful(deed, owner, pod)),
        }
    }

    fn failed<O: Resource<DynamicType = ()>>(&self, deed: Deed, owner: &O, pod: &str, error: &Error) -> String {
        match (self.words, deed) {
            (Words::Plain, Deed::Create) => format!("Error creating: {}", text(error)),
            (Words::Plain, Deed::Delete) => format!("Error deleting: {}", text(error)),
            (Words::StatefulSet, deed) => format!("{} failed error: {}", stateful(deed, owner, pod), text(error)),
        }
    }

    fn api<O: Resource<DynamicType = ()>>(&self, owner: &O) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace(owner.meta()))
    }
}

fn stateful<O: Resource<DynamicType = ()>>(deed: Deed, owner: &O, pod: &str) -> String {
    let verb = match deed {
        Deed::Create => "create",
        Deed::Delete => "delete",
    };
    format!("{verb} Pod {pod} in StatefulSet {}", name(owner.meta()))
}
