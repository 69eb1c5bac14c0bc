//! One cluster on this machine: where it keeps things, how it is wired to the host, how it starts and ends.

pub(crate) mod agent;
pub(crate) mod backup;
pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod daemon;
pub(crate) mod dns_service;
pub(crate) mod kubeconfig;
pub(crate) mod lock;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod paths;
pub(crate) mod probe;
pub(crate) mod store;
pub(crate) mod sweep;
