use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{core::v1::Pod, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::plan::{Managed, Plan, Scale, plan, selected};
use crate::fixture::{at, changed, now, object, pod_of, set};

fn budget(spec: Value) -> PodDisruptionBudget {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    object(json!({"metadata": {"name": "guard", "namespace": "ns", "generation": 3}, "spec": spec}))
}

fn pods(count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|n| Arc::new(pod_of(&set("web", 4), &format!("p{n}")))).collect()
}

fn of_four(_: &Pod) -> Managed {
    Managed::By(Scale { uid: "u".into(), size: 4 })
}

/// Healthy, desired, expected, allowed.
fn numbers(plan: &Plan) -> [i32; 4] {
    let s = &plan.status;
    [s.current_healthy, s.desired_healthy, s.expected_pods, s.disruptions_allowed].map(|n| n.expect("a number"))
}

#[test]
fn numbers_of_the_reference() {
    let check = |spec: Value, ready: usize, want: [i32; 4]| {
        assert_eq!(numbers(&plan(&budget(spec.clone()), &pods(ready), of_four, now())), want, "{spec} with {ready}");
    };
    check(json!({"minAvailable": 2}), 3, [3, 2, 3, 1]);
    check(json!({"minAvailable": 3}), 2, [2, 3, 2, 0]);
    check(json!({"minAvailable": "50%"}), 4, [4, 2, 4, 2]);
    check(json!({"minAvailable": "51%"}), 4, [4, 3, 4, 1]);
    check(json!({"maxUnavailable": 1}), 4, [4, 3, 4, 1]);
    check(json!({"maxUnavailable": 1}), 3, [3, 3, 4, 0]);
    check(json!({"maxUnavailable": "30%"}), 4, [4, 2, 4, 2]);
    check(json!({"maxUnavailable": 9}), 1, [1, 0, 4, 1]);
    check(json!({"minAvailable": 0}), 0, [0, 0, 0, 0]);
    check(json!({}), 2, [2, 0, 0, 0]);
}

#[test]
fn unready_and_ending_pods_are_not_healthy() {
    let three = pods(3);
    let unready = changed(&*three[0], |p| p.status = None);
    let ending = changed(&*three[1], |p| p.metadata.deletion_timestamp = Some(Time(now())));
    let plan = plan(&budget(json!({"minAvailable": 1})), &[unready, ending, three[2].clone()], of_four, now());
    assert_eq!(numbers(&plan), [1, 1, 3, 0]);
}

#[test]
fn an_evicted_pod_counts_as_gone_for_two_minutes() {
    let mut budget = budget(json!({"minAvailable": 1}));
    let noted = json!({"disruptedPods": {"p0": at(1_000_000 - 90).to_string(), "p1": at(1_000_000 - 120).to_string(),
        "gone": now().to_string()}, "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
    budget.status = Some(object(noted));
    let plan = plan(&budget, &pods(3), of_four, now());
    assert_eq!(numbers(&plan), [2, 1, 3, 1]);
    assert_eq!(plan.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p0"]);
    assert_eq!(plan.late.len(), 1);
    assert_eq!(plan.again, Some(Duration::from_secs(30)));
}

#[test]
fn without_the_expected_number_nothing_is_allowed() {
    let unknown = |_: &Pod| Managed::Unknown("found no size".into());
    let plan = plan(&budget(json!({"maxUnavailable": 1})), &pods(2), unknown, now());
    assert_eq!(plan.status.disruptions_allowed, Some(0));
    let condition = &plan.status.conditions.unwrap()[0];
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "SyncFailed"));
    assert_eq!(plan.problem.as_deref(), Some("found no size"));
}

#[test]
fn planned_again_nothing_changes() {
    let mut budget = budget(json!({"minAvailable": 1}));
    let first = plan(&budget, &pods(2), of_four, now()).status;
    assert_eq!(first.conditions.as_ref().unwrap()[0].reason, "SufficientPods");
    assert_eq!(first.observed_generation, Some(3));
    budget.status = Some(first.clone());
    assert_eq!(plan(&budget, &pods(2), of_four, at(2_000_000)).status, first);
}

#[test]
fn what_a_budget_selects() {
    let mut every = budget(json!({}));
    assert_eq!(selected(&every, pods(2)).len(), 2);
    every.spec.as_mut().unwrap().selector = Some(Default::default());
    assert_eq!(selected(&every, pods(2)).len(), 2, "an empty selector selects all");
    every.spec.as_mut().unwrap().selector = None;
    assert!(selected(&every, pods(2)).is_empty());
    every.metadata.namespace = Some("other".into());
    every.spec.as_mut().unwrap().selector = Some(Default::default());
    assert!(selected(&every, pods(2)).is_empty());
}
