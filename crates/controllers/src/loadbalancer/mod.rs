//! Services of type LoadBalancer get addresses of a pool. Who answers for an address on the link is decided by the nodes
//! (`skiff_node::announce`); here it is only given out and taken back.

mod change;
mod plan;
mod pool;
pub(crate) mod run;

pub use pool::{Error as PoolError, Pool};
