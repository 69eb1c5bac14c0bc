//! nftables as values: table, diff, render, packet trace; one door to the kernel and one fake.
