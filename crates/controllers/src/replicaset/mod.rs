//! ReplicaSets: keep as many pods as asked for.

pub(crate) mod plan;
pub(crate) mod rank;
pub(crate) mod run;
