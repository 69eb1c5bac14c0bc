//! Disruption budgets: how many of the pods that a budget selects may be evicted now. The API server refuses evictions
//! by what stands in the status, and counts those down that it allows.

pub(crate) mod plan;
pub(crate) mod run;
#[cfg(test)]
mod tests;
