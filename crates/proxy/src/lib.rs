//! kube-proxy's place: snapshot to ruleset (pure), sync, conntrack, health.

pub mod ruleset;
