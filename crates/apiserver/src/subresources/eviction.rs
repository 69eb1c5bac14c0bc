//! pods/eviction: a delete that disruption budgets may delay.

use serde_json::Value;
use skiff_api::resources;
use skiff_api::selector::Labels;
use skiff_api::status::Status;

use super::{read_body, success};
use crate::Result;
use crate::call::Call;
use crate::encode::Reply;
use crate::object;
use crate::verbs::delete::{self, Options};

pub(super) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let eviction = read_body(call, "policy/v1", "Eviction", body)?;
    let options = Options::of(&eviction["deleteOptions"], &call.query, call.dry_run)?;
    let name = call.name()?;
    let pod = call.storage().get(call.resource(), call.namespace(), name).await?;
    within_budgets(call, &pod.value).await?;
    delete::one(call, name, &options).await?;
    Ok(success())
}

/// A budget with no disruption left refuses; the client tries again.
async fn within_budgets(call: &Call, pod: &Value) -> Result<()> {
    let Some(budgets) = resources::find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    let (all, _) = call.storage().all(budgets, call.namespace()).await?;
    for budget in all {
        let selector = serde_json::from_value(budget.value["spec"]["selector"].clone()).unwrap_or_default();
        let selects = Labels::from_label_selector(&selector).is_ok_and(|l| l.matches_object(pod));
        let left = budget.value.pointer("/status/disruptionsAllowed").and_then(Value::as_i64).unwrap_or(0);
        if selects && left <= 0 {
            let why = "Cannot evict pod as it would violate the pod's disruption budget.";
            tracing::debug!(budget = object::name(&budget.value), "eviction refused");
            return Err(Status::too_many_requests(why, 10));
        }
    }
    Ok(())
}
