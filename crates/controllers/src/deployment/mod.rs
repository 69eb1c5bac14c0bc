//! Deployments: a ReplicaSet for each version of the template, and the way from one to the next.

pub(crate) mod hash;
pub(crate) mod plan;
pub(crate) mod revision;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod status;
