//! Control groups of containers: limits, use and out-of-memory kills, on cgroup v1, v2 and both at once.
