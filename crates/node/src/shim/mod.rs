//! The process beside each container: starts it, writes its log, waits for it, leaves its exit in a file.
//!
//! libcontainer must not run in a multi-threaded process (its cloned child may meet a held allocator lock), and a
//! container must outlive the agent: so the binary re-executes itself as a single-threaded `shim` for each.

/// The whole life of a shim process: `argv[1]` is `shim`. To be called first in `main`, before any thread exists.
pub fn main() -> ! {
    unimplemented!()
}
