//! Garbage collection: what is owned goes with its owners.

pub(crate) mod graph;
pub(crate) mod plan;
pub(crate) mod run;
