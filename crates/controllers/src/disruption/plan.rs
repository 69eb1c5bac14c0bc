//! What a budget's status says.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
    jiff::{SignedDuration, Timestamp},
};

use crate::object::{is_deleted, is_ready, labels, name, namespace, resolve, selector};

/// An evicted pod counts as gone before it is; after so long without its deletion it counts again.
const EVICTION_TIME: SignedDuration = SignedDuration::from_mins(2);

/// The size of what controls a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub uid: String,
    pub size: i32,
}

/// What controls a pod, as far as that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Managed {
    By(Scale),
    Nobody,
    /// By something that has no size, or that is not there.
    Unknown(String),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub status: PodDisruptionBudgetStatus,
    /// Evicted pods that were not deleted in time.
    pub late: Vec<Arc<Pod>>,
    /// Why the number of pods that should be there is unknown; then nothing may be evicted.
    pub problem: Option<String>,
    /// When time alone changes the answer.
    pub again: Option<Duration>,
}

pub(crate) fn selected(budget: &PodDisruptionBudget, pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    pods.into_iter().filter(|pod| selects(budget, pod)).collect()
}

/// An empty selector selects every pod of the namespace, none at all no pod.
pub(crate) fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    namespace(&budget.metadata) == namespace(&pod.metadata)
        && wanted.is_some_and(|s| selector(s).matches(labels(&pod.metadata)))
}

/// `pods` are those that the budget selects.
pub(crate) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    managed: impl Fn(&Pod) -> Managed,
    now: Timestamp,
) -> Plan {
    let evicted = Evicted::of(budget, pods, now);
    let expected = expected(budget, pods, managed);
    let have = budget.status.clone().unwrap_or_default();
    let (numbers, problem) = match expected {
        Ok(numbers) => (numbers, None),
        Err(why) => (
            Numbers { expected: have.expected_pods.unwrap_or(0), desired: have.desired_healthy.unwrap_or(0) },
            Some(why),
        ),
    };
    let healthy = pods.iter().filter(|pod| is_healthy(pod, &evicted)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = match (&problem, numbers.expected) {
        (None, 1..) => (healthy - numbers.desired).max(0),
        _ => 0,
    };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(budget, allowed, problem.as_deref(), now)]),
        current_healthy: Some(healthy),
        desired_healthy: Some(numbers.desired),
        disrupted_pods: (!evicted.waiting.is_empty()).then_some(evicted.waiting),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(numbers.expected),
        observed_generation: budget.metadata.generation,
    };
    Plan { status, late: evicted.late, problem, again: evicted.again }
}

fn is_healthy(pod: &Pod, evicted: &Evicted) -> bool {
    is_ready(pod) && !is_deleted(&pod.metadata) && !evicted.waiting.contains_key(name(&pod.metadata))
}

/// Pods whose eviction was allowed and that are not yet deleted.
#[derive(Default)]
struct Evicted {
    waiting: BTreeMap<String, Time>,
    late: Vec<Arc<Pod>>,
    again: Option<Duration>,
}

impl Evicted {
    fn of(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], now: Timestamp) -> Self {
        let noted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
        let mut evicted = Evicted::default();
        for pod in pods.iter().filter(|pod| !is_deleted(&pod.metadata)) {
            let Some(since) = noted.and_then(|n| n.get(name(&pod.metadata))) else { continue };
            let left = EVICTION_TIME - now.duration_since(since.0);
            match Duration::try_from(left) {
                Ok(left) if !left.is_zero() => {
                    evicted.waiting.insert(name(&pod.metadata).into(), since.clone());
                    evicted.again = Some(evicted.again.map_or(left, |again| again.min(left)));
                }
                _ => evicted.late.push(pod.clone()),
            }
        }
        evicted
    }
}

struct Numbers {
    expected: i32,
    desired: i32,
}

/// How many pods there should be, and how many of them healthy.
fn expected(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    managed: impl Fn(&Pod) -> Managed,
) -> Result<Numbers, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    if let Some(most) = &spec.max_unavailable {
        let expected = sizes(pods, managed)?;
        return Ok(Numbers { expected, desired: (expected - resolve(most, expected, true)).max(0) });
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => {
            Ok(Numbers { expected: i32::try_from(pods.len()).unwrap_or(i32::MAX), desired: *least })
        }
        Some(percent) => {
            let expected = sizes(pods, managed)?;
            Ok(Numbers { expected, desired: resolve(percent, expected, true) })
        }
        None => Ok(Numbers { expected: 0, desired: 0 }),
    }
}

/// The sizes of all that control the pods, each counted once.
fn sizes(pods: &[Arc<Pod>], managed: impl Fn(&Pod) -> Managed) -> Result<i32, String> {
    let mut scales = HashMap::new();
    for pod in pods {
        match managed(pod) {
            Managed::By(scale) => scales.insert(scale.uid, scale.size),
            Managed::Nobody => continue,
            Managed::Unknown(why) => return Err(why),
        };
    }
    Ok(scales.into_values().fold(0, i32::saturating_add))
}

fn condition(budget: &PodDisruptionBudget, allowed: i32, problem: Option<&str>, now: Timestamp) -> Condition {
    let (status, reason) = match (problem, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 1..) => ("True", "SufficientPods"),
        (None, _) => ("False", "InsufficientPods"),
    };
    let old = budget.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut same =
        old.filter(|c| c.type_ == "DisruptionAllowed" && c.status == status).map(|c| c.last_transition_time.clone());
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: problem.unwrap_or_default().into(),
        observed_generation: budget.metadata.generation,
        last_transition_time: same.next().unwrap_or(Time(now)),
    }
}
