//! Cluster DNS: zone and answer (pure), sockets, forwarding.

pub mod forward;
mod run;
pub mod server;
pub mod wire;
pub mod zone;

pub use run::{Config, Error, run};
