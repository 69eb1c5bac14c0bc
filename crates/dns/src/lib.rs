//! Cluster DNS: zone and answer (pure), sockets, forwarding.

pub mod acl;
mod batch;
mod follow;
pub mod forward;
mod http;
pub mod metrics;
pub mod quick;
mod run;
pub mod search;
pub mod server;
pub mod why;
pub mod wire;
pub mod zone;

pub use run::{Config, Error, Probes, run};
