//! Pods that nobody else will ever remove.

pub(crate) mod plan;
pub(crate) mod run;
