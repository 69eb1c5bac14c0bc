//! Gives each node its range of pod addresses.

pub(crate) mod plan;
pub(crate) mod run;
