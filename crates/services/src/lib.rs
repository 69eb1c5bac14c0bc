//! What a Service means. Pure: the snapshot that proxy, DNS and explain share, endpoint choice, slices, allocation.

pub mod alloc;
pub mod choice;
pub mod endpoints;
pub mod model;
pub mod snapshot;
