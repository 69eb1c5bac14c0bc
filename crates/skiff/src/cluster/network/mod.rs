//! The wires between the host and the cluster's nodes. The host gets one link named `skiffINDEX` and two routes; a node
//! is a network namespace; several nodes meet at a bridge in a namespace of its own.

pub(crate) mod apply;
pub(crate) mod forwarding;
pub(crate) mod nat;
pub(crate) mod netns;
pub(crate) mod plan;
