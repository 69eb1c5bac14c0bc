//! Clients that nobody here wrote, on a real cluster.

#[path = "../common/mod.rs"]
mod common;
mod matrix;
mod transcript;
