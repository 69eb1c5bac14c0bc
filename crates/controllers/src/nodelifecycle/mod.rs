//! Nodes that stop reporting: their condition, their taints, and what becomes of their pods.

pub(crate) mod plan;
pub(crate) mod run;
