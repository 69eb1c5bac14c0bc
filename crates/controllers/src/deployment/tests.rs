use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::{
    deployment::hash,
    fixture::{at, changed, now, object},
    object::uid,
};

/// A cluster with one Deployment whose pods become ready at once, driven by plans only.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    second: i64,
}

impl World {
    fn new(replicas: i32) -> Self {
        let deployment = crate::fixture::deployment(replicas, json!("25%"), json!("25%"));
        World { deployment, sets: vec![], second: 1_000_000 }
    }

    fn plan(&self) -> Plan {
        plan(&self.deployment, &self.sets, &[], at(self.second))
    }

    /// Carries out a plan, or only its first `writes` writes: a crash.
    fn step(&mut self, writes: usize) {
        self.second += 1;
        let plan = self.plan();
        let mut left = writes;
        let mut may = || {
            left = left.saturating_sub(1);
            left > 0
        };
        if let Some(mut set) = plan.create.filter(|_| may()) {
            set.metadata.uid = set.metadata.name.clone();
            set.metadata.creation_timestamp = Some(Time(at(self.second)));
            self.sets.push(Arc::new(set));
        }
        for update in plan.update {
            if may() {
                let at = self.sets.iter().position(|s| uid(&s.metadata) == uid(&update.set.metadata)).unwrap();
                self.sets[at] = Arc::new(update.set);
            }
        }
        if may() {
            self.sets.retain(|s| !plan.delete.iter().any(|d| uid(&d.metadata) == uid(&s.metadata)));
            self.deployment.status = Some(plan.status);
            if let Some(revision) = plan.revision {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(revision::REVISION.into(), revision);
            }
        }
        for set in &mut self.sets {
            let size = size(set);
            *set = changed(&**set, |s| {
                s.status = Some(object(json!({"replicas": size, "readyReplicas": size, "availableReplicas": size})));
            });
        }
    }

    fn settle(&mut self) {
        (0..60).for_each(|_| self.step(usize::MAX));
        let plan = self.plan();
        assert!(plan.create.is_none() && plan.update.is_empty() && plan.delete.is_empty() && plan.revision.is_none());
        assert_eq!(self.deployment.status.as_ref(), Some(&plan.status), "nothing to write at rest");
    }

    fn image(&mut self, image: &str) {
        self.deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    }

    /// "revision:size" of every set, by revision.
    fn show(&self) -> Vec<String> {
        let mut sets = self.sets.clone();
        sets.sort_by_key(|s| revision::of(&s.metadata));
        sets.iter().map(|s| format!("{}:{}", revision::of(&s.metadata), size(s))).collect()
    }

    fn reason(&self) -> String {
        let status = self.deployment.status.clone().unwrap_or_default();
        let found = status.conditions.into_iter().flatten().find(|c| c.type_ == "Progressing");
        found.and_then(|c| c.reason).unwrap_or_default()
    }
}

#[test]
fn first_rollout() {
    let mut world = World::new(4);
    let plan = world.plan();
    let set = plan.create.unwrap();
    let hash = hash::of(&world.deployment.spec.as_ref().unwrap().template, None);
    assert_eq!(name(&set.metadata), format!("web-{hash}"));
    assert_eq!(labels(&set.metadata)[hash::LABEL], hash);
    assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()[hash::LABEL], hash);
    assert_eq!(annotation(&set.metadata, revision::REVISION), Some("1"));
    assert_eq!(annotation(&set.metadata, revision::MAX), Some("5"));
    assert_eq!(plan.revision.as_deref(), Some("1"));
    world.settle();
    assert_eq!(world.show(), ["1:4"]);
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
    let status = world.deployment.status.unwrap();
    assert_eq!((status.replicas, status.updated_replicas, status.unavailable_replicas), (Some(4), Some(4), None));
}

#[test]
fn update_undo_and_history() {
    let mut world = World::new(3);
    world.settle();
    world.image("v2");
    world.step(usize::MAX);
    assert_eq!(world.reason(), "NewReplicaSetCreated");
    world.settle();
    assert_eq!(world.show(), ["1:0", "2:3"]);
    world.image("v1");
    world.settle();
    assert_eq!(world.show(), ["2:0", "3:3"], "the old set serves again under a new revision");
    let history = annotation(&world.sets[0].metadata, "deployment.kubernetes.io/revision-history");
    assert_eq!(history, Some("1"));
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    for image in ["v3", "v4", "v5"] {
        world.image(image);
        world.settle();
    }
    assert_eq!(world.show(), ["5:0", "6:3"]);
}

#[test]
fn scaling_and_pausing() {
    let mut world = World::new(2);
    world.settle();
    world.deployment.spec.as_mut().unwrap().replicas = Some(6);
    world.settle();
    assert_eq!(world.show(), ["1:6"]);
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.image("v2");
    world.deployment.spec.as_mut().unwrap().replicas = Some(1);
    world.settle();
    assert_eq!(world.show(), ["1:1"], "a paused Deployment scales but does not roll out");
    assert_eq!(world.reason(), "DeploymentPaused");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle();
    assert_eq!(world.show(), ["1:0", "2:1"]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(0);
    world.settle();
    assert_eq!(world.show(), ["1:0", "2:0"]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(2);
    world.deployment.spec.as_mut().unwrap().strategy = Some(object(json!({"type": "Recreate"})));
    world.settle();
    world.image("v2");
    let pod = Arc::new(crate::fixture::pod_of(&world.sets[0], "last"));
    world.step(usize::MAX);
    assert_eq!(world.show(), ["1:0"]);
    let waits = plan(&world.deployment, &world.sets, &[pod], now());
    assert!(waits.create.is_none());
    world.settle();
    assert_eq!(world.show(), ["1:0", "2:2"]);
}

/// Crash after any number of writes of any step: the end is the same.
#[test]
fn crashes_at_each_step_lead_to_the_same_end() {
    for crash_at in 0..8 {
        for writes in 0..4 {
            let mut world = World::new(5);
            world.settle();
            world.image("v2");
            (0..crash_at).for_each(|_| world.step(usize::MAX));
            world.step(writes);
            world.settle();
            assert_eq!(world.show(), ["1:0", "2:5"], "crash at {crash_at} after {writes}");
        }
    }
}

#[test]
fn no_progress_for_too_long_is_said() {
    let mut world = World::new(2);
    world.step(usize::MAX);
    let stuck = |w: &mut World| {
        for set in &mut w.sets {
            *set = changed(&**set, |s| s.status = Some(object(json!({"replicas": 2}))));
        }
    };
    stuck(&mut world);
    world.step(usize::MAX);
    stuck(&mut world);
    let plan = world.plan();
    world.deployment.status = Some(plan.status);
    assert!(plan.again.unwrap() <= Duration::from_secs(602));
    world.second += 700;
    let plan = world.plan();
    world.deployment.status = Some(plan.status);
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
    assert_eq!(world.plan().again, None);
}

#[test]
fn claims_by_selector_and_owner() {
    let mut world = World::new(1);
    world.settle();
    let ours = world.sets[0].clone();
    let orphan = changed(&*ours, |s| s.metadata.owner_references = None);
    let relabelled = changed(&*ours, |s| s.metadata.labels = None);
    let claim = |set: &Arc<ReplicaSet>| {
        let c = claim(&world.deployment, std::slice::from_ref(set));
        (c.owned.len(), c.adopt.len(), c.release.len())
    };
    assert_eq!(claim(&ours), (1, 0, 0));
    assert_eq!(claim(&orphan), (0, 1, 0));
    assert_eq!(claim(&relabelled), (0, 0, 1));
}
