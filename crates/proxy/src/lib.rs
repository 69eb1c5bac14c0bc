//! kube-proxy's place: it makes this node's kernel send what goes to a Service to one of its endpoints.
//!
//! `observe` (watches to snapshot) → `ruleset` (snapshot to rules, pure) → `sync` (rules to the kernel, by difference) →
//! `conntrack` (flows that the rules no longer mean); `health` and `metrics` tell others. The rules live in the kernel:
//! they outlast this program, and the next one takes them over.

mod addresses;
pub mod conntrack;
pub mod health;
pub mod metrics;
pub mod observe;
pub mod ruleset;
mod run;
mod surroundings;
pub mod sync;

/// The name of the tables (ip and ip6) in which the rules are.
pub const TABLE: &str = "skiff";

pub use run::{Config, DetectLocal, Error, remove_tables, run};
pub use surroundings::Surroundings;
pub use surroundings::node_ips;
