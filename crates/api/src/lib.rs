//! What the Kubernetes API is: resources, schemas, defaults, validation, selectors, patches, columns.
//!
//! Pure: no I/O, no clock, no randomness. What varies comes in as an argument.

pub mod identity;
pub mod selector;
