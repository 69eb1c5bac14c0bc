//! One parser under libFuzzer: the environment variable SKIFF_FUZZ names it. Built by `run`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("SKIFF_FUZZ").unwrap_or_default();
    let known = || TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("SKIFF_FUZZ={name:?} is none of {}", known())).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
