//! For tests: saying what a machine lacks, programs of the system, images made of Debian packages, a registry, etcd.

pub mod debian;
pub mod etcd;
pub mod registry;
pub mod tools;
