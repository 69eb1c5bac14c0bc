//! nftables as values: a table is a value that can be compared, written as text, asked where a packet goes, and carried
//! to the kernel by the one door [`Kernel`], which has a real end (netlink, no `nft` process, no C library) and a fake.
//!
//! The room knows nothing of Kubernetes: it serves whoever keeps one table of its own and changes it while traffic flows.

mod batch;
pub mod conntrack;
mod decode;
mod diff;
mod encode;
mod expr;
mod fake;
mod kernel;
mod netlink;
mod packed;
mod render;
pub mod trace;
mod typeof_;
mod value;
pub mod wire;

pub use batch::{Batch, Change, State, StateError, apply};
pub use diff::{diff, diff_chains};
pub use expr::{CtKey, Expr, Header, Reg, Rejection, Target, Update};
pub use fake::Fake;
pub use kernel::{Error, Kernel, Parts};
pub use netlink::{Netlink, Ownership};
pub use packed::Packed;
pub use render::render;
pub use value::{
    BEFORE_TRACKING, Chain, Data, DataKind, Element, Family, Field, Hook, HookPoint, Layout, Rule, Set, SetSpec, Table,
    TableRef, Value, Verdict,
};
