//! Cluster DNS: zone and answer (pure), sockets, forwarding.
