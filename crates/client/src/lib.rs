//! How every component sees the cluster: a kube client over HTTPS or in process, with an identity of its own, and the
//! one reconcile loop. Components never reach around it, so they run unchanged against any conformant API server.

pub mod cache;
pub mod events;
pub mod farewell;
pub mod feed;
pub mod in_process;
pub mod life;
pub mod probes;
pub mod reconcile;
pub mod watch;
