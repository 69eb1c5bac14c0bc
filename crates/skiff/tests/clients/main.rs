//! Clients that nobody here wrote, on a real cluster: kubectl, kube-rs, Python.

#[path = "../common/mod.rs"]
mod common;
mod controller;
mod matrix;
mod python;
mod transcript;
mod typed;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Clusters of one host share its port 6443 and slow each other down: each test waits for its turn.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
