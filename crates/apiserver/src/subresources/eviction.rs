//! pods/eviction: a delete that disruption budgets may delay. What a budget allows is counted down in its status before
//! the pod goes, so that of many evictions at once only as many succeed as it allows.

use serde_json::{Value, json};
use skiff_api::resources::{self, Resource};
use skiff_api::selector::Labels;
use skiff_api::status::Status;
use skiff_store::Expect;

use super::{read_body, success};
use crate::Result;
use crate::call::Call;
use crate::encode::Reply;
use crate::object::{self, Object};
use crate::storage::{ATTEMPTS, Miss};
use crate::verbs::delete::{self, Options};
use crate::verbs::write;

/// So many evictions wait for their deletion at most, for each budget.
const MOST_WAITING: usize = 2000;
const VIOLATION: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// While the controller has not looked at a new budget, the client is to come back.
const STILL_PROCESSED_SECONDS: u32 = 10;

pub(super) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let eviction = read_body(call, "policy/v1", "Eviction", body)?;
    let mut options = Options::of(&eviction["deleteOptions"], &call.query, call.dry_run)?;
    let name = call.name()?;
    if !["", name].contains(&object::name(&eviction)) {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let pod = call.storage().get(call.resource(), call.namespace(), name).await?.value;
    options.uid.get_or_insert_with(|| object::uid(&pod).to_owned());
    if !needs_no_budget(&pod) {
        ask_budget(call, &pod, options.dry_run).await?;
    }
    if !options.dry_run {
        mark(call, name).await?;
    }
    delete::one(call, name, &options).await?;
    Ok(success())
}

/// A pod that serves nobody can go at any time.
fn needs_no_budget(pod: &Value) -> bool {
    object::is_deleting(pod) || matches!(object::text(pod, "/status/phase"), "Pending" | "Succeeded" | "Failed")
}

async fn ask_budget(call: &Call, pod: &Value, dry_run: bool) -> Result<()> {
    let Some(budgets) = resources::find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    for _ in 0..ATTEMPTS {
        let (all, _) = call.storage().all(budgets, call.namespace()).await?;
        let mut matching = all.into_iter().filter(|budget| selects(&budget.value, pod));
        let Some(budget) = matching.next() else { return Ok(()) };
        if matching.next().is_some() {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "InternalError", why));
        }
        let Some(counted) = judge(budgets, &budget.value, pod, &object::time(call.now))? else { return Ok(()) };
        if dry_run {
            return Ok(());
        }
        match store(call, budgets, &budget, counted).await {
            Ok(()) => return Ok(()),
            Err(Miss::Lost | Miss::Companion(_)) => {}
            Err(Miss::Failed(status)) => return Err(status),
        }
    }
    Err(Status::too_many_requests(VIOLATION, STILL_PROCESSED_SECONDS))
}

fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    let selector = selector.is_object().then(|| serde_json::from_value(selector.clone()).ok()).flatten();
    selector.is_some_and(|s| Labels::from_label_selector(&s).is_ok_and(|l| l.matches_object(pod)))
}

/// The budget with one disruption less, or nothing when the pod may go without being counted.
fn judge(budgets: &Resource, budget: &Value, pod: &Value, now: &Value) -> Result<Option<Value>> {
    let (name, status) = (object::name(budget), &budget["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    if !is_ready(pod) && unready_may_go(budget) {
        return Ok(None);
    }
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Status::too_many_requests(VIOLATION, STILL_PROCESSED_SECONDS).cause("DisruptionBudget", &why, ""));
    }
    if status["disruptedPods"].as_object().is_some_and(|waiting| waiting.len() > MOST_WAITING) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(budgets, name, why));
    }
    if number("disruptionsAllowed") <= 0 {
        let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
        let why = format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently");
        return Err(Status::new(429, "TooManyRequests", VIOLATION).cause("DisruptionBudget", &why, ""));
    }
    Ok(Some(counted_down(budget, object::name(pod), now)))
}

/// Pods that are not ready anyway hold nobody up: always, or while enough others are healthy.
fn unready_may_go(budget: &Value) -> bool {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    match object::text(budget, "/spec/unhealthyPodEvictionPolicy") {
        "AlwaysAllow" => true,
        _ => number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy"),
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn counted_down(budget: &Value, pod: &str, now: &Value) -> Value {
    let mut next = budget.clone();
    let left = next["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) - 1;
    let status = object::child(&mut next, "status");
    status.insert("disruptionsAllowed".into(), left.into());
    let waiting = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(waiting) = waiting.as_object_mut() {
        waiting.insert(pod.into(), now.clone());
    }
    if left == 0 {
        let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter(|c| c["type"] == "DisruptionAllowed") {
            condition["status"] = "False".into();
            condition["reason"] = "InsufficientPods".into();
            condition["lastTransitionTime"] = now.clone();
        }
    }
    next
}

async fn store(call: &Call, budgets: &Resource, budget: &Object, next: Value) -> Result<(), Miss> {
    let key = object::key(budgets, call.namespace(), object::name(&budget.value));
    call.storage().put(budgets, &key, next, Expect::Rev(budget.rev)).await.map(drop)
}

/// Whoever looks at the ending pod sees why it ends.
async fn mark(call: &Call, name: &str) -> Result<()> {
    let how = write::How { subresource: Some("status"), ..write::How::SPEC };
    let now = object::time(call.now);
    let marked = |pod: Option<&Value>| {
        let mut next = pod.cloned().unwrap_or_default();
        let conditions = object::child(&mut next, "status").entry("conditions").or_insert_with(|| json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|c| c["type"] != "DisruptionTarget");
            conditions.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now}));
        }
        Ok(next)
    };
    write::update(call, name, &how, marked).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "guard", "generation": 2}, "status": status,
            "spec": {"selector": {"matchLabels": {"app": "web"}}}})
    }

    fn pod(ready: &str) -> Value {
        json!({"metadata": {"name": "p", "labels": {"app": "web"}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn check(status: Value, ready: &str) -> Result<Option<Value>> {
        let budgets = resources::find("policy", "v1", "poddisruptionbudgets").unwrap();
        judge(budgets, &budget(status), &pod(ready), &json!("now"))
    }

    #[test]
    fn what_is_allowed_is_counted_down() {
        let conditions = json!([{"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods"}]);
        let status = json!({"observedGeneration": 2, "disruptionsAllowed": 2, "conditions": conditions});
        let once = check(status, "True").unwrap().unwrap()["status"].clone();
        assert_eq!((&once["disruptionsAllowed"], &once["disruptedPods"]), (&json!(1), &json!({"p": "now"})));
        assert_eq!(once["conditions"][0]["status"], "True");
        let twice = check(once, "True").unwrap().unwrap();
        assert_eq!(twice["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = check(twice["status"].clone(), "True").unwrap_err();
        assert_eq!((refused.code(), refused.message()), (429, VIOLATION));
        assert!(
            refused.to_value()["details"].get("retryAfterSeconds").is_none(),
            "the client shows the refusal at once"
        );
    }

    #[test]
    fn refusals_say_why() {
        let new = check(json!({"observedGeneration": 1, "disruptionsAllowed": 1}), "True").unwrap_err().to_value();
        assert_eq!(new["details"]["retryAfterSeconds"], 10);
        assert_eq!(
            new["details"]["causes"][0]["message"],
            "The disruption budget guard is still being processed by the server."
        );
        let few = json!({"observedGeneration": 2, "disruptionsAllowed": 0, "desiredHealthy": 3, "currentHealthy": 2});
        assert_eq!(
            check(few, "True").unwrap_err().to_value()["details"]["causes"][0]["message"],
            "The disruption budget guard needs 3 healthy pods and has 2 currently"
        );
    }

    #[test]
    fn unready_pods_go_while_enough_are_healthy() {
        let enough =
            json!({"observedGeneration": 2, "disruptionsAllowed": 0, "desiredHealthy": 2, "currentHealthy": 2});
        assert_eq!(check(enough.clone(), "False").unwrap(), None);
        assert!(check(enough, "True").is_err());
        let few = json!({"observedGeneration": 2, "disruptionsAllowed": 0, "desiredHealthy": 2, "currentHealthy": 1});
        assert!(check(few, "False").is_err());
    }

    #[test]
    fn which_budgets_concern_a_pod() {
        assert!(selects(&budget(json!({})), &pod("True")));
        assert!(!selects(&json!({"spec": {}}), &pod("True")), "no selector selects nothing");
        assert!(selects(&json!({"spec": {"selector": {}}}), &pod("True")), "an empty one selects all");
        assert!(needs_no_budget(&json!({"status": {"phase": "Pending"}})));
        assert!(!needs_no_budget(&pod("False")));
    }
}
