//! kubelet's place: pod state and plan (pure); runtime, images, volumes, network.

pub mod agent;
pub mod announce;
pub mod cgroup;
pub mod hostports;
pub mod image;
pub mod network;
pub mod pod;
pub mod probes;
pub mod runtime;
pub mod server;
pub mod shim;
pub mod volumes;

pub use agent::{Config, Dns, Error, LEASE, Tls, run};
