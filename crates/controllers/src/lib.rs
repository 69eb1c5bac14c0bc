//! The controllers: each a pure plan and a run.
