//! HTTP to store: one implementation of each verb for every resource.

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod pki;
