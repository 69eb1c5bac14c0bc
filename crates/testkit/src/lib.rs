//! For tests: builders, namespaces, clocks, seeds.
