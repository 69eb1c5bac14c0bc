//! The scheduler: filters the nodes that can take a pod, takes the best of them, binds.

pub(crate) mod affinity;
pub(crate) mod filter;
mod neighbours;
pub(crate) mod plan;
pub(crate) mod quantity;
pub(crate) mod run;
