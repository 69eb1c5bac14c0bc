//! For tests: saying what a machine lacks, programs of the system, images made of Debian packages, a registry.

pub mod debian;
pub mod registry;
pub mod tools;
