//! The shim alone, for tests: the real binary answers to `skiff shim`.

fn main() {
    skiff_node::shim::main()
}
