//! What the Kubernetes API is: resources, schemas, defaults, validation, selectors, patches, columns.
//!
//! Pure: no I/O, no clock, no randomness. What varies comes in as an argument.

pub mod apply;
pub mod columns;
pub mod convert;
pub mod defaults;
pub mod discovery;
pub mod field;
pub mod identity;
pub mod json;
pub mod limits;
pub mod merge_keys;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod validate;
pub mod warnings;
pub mod yaml;
