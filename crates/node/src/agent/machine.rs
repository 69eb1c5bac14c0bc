//! What the machine says of itself.

use std::{fs, path::Path};

use k8s_openapi::api::core::v1::NodeSystemInfo;

use super::object::KUBELET_VERSION;

fn read(path: &str) -> String {
    // Absent in some containers; the field then stays empty, as the API allows.
    fs::read_to_string(path).map(|t| t.trim().to_string()).unwrap_or_default()
}

pub(super) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Bytes of memory.
pub(super) fn memory() -> u64 {
    let info = read("/proc/meminfo");
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    total.and_then(|t| t.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bytes of the file system that holds the path.
pub(super) fn disk(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |s| s.f_blocks * s.f_frsize)
}

pub(super) fn info() -> NodeSystemInfo {
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    let uname = rustix::system::uname();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    NodeSystemInfo {
        architecture: architecture.into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("skiff://", env!("CARGO_PKG_VERSION")).into(),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: name.trim_matches('"').into(),
        system_uuid: read("/sys/class/dmi/id/product_uuid").to_lowercase(),
        ..Default::default()
    }
}
