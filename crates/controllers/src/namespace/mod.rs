//! Namespaces that are being deleted: everything in them goes first.

pub(crate) mod plan;
pub(crate) mod run;
