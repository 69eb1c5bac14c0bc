//! kubelet's place: pod state and plan (pure); runtime, images, volumes, network.

pub mod cgroup;
pub mod image;
pub mod runtime;
pub mod shim;
