//! Pods that run to their end, as often as asked. No end is lost or counted twice: a finalizer holds each pod until the
//! status says that it was counted, and the list of those being counted stands in the same write as the counts.

mod indexes;
mod plan;
mod pod;
pub(crate) mod run;
