//! Pods with names that last: NAME-0, NAME-1, …, made, changed and deleted in order.

mod plan;
mod pod;
pub(crate) mod run;
