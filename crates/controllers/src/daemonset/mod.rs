//! One pod on every node that may have one.

mod plan;
mod pod;
pub(crate) mod run;
