//! What Prometheus clients tell of their own process (proc(5)). Where several components share one process, it is that one.

use std::fs;

use crate::Page;

/// The unit of times in /proc, the same on every kernel that we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of /proc/PID/stat, counted from behind the process's name.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const START_TIME: usize = 19;

/// What cannot be read is left out.
pub fn process(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let booted = fs::read_to_string("/proc/stat").ok().and_then(|t| number_behind(&t, "btime "));
    let tick = |field| field_of(&stat, field).map(|n| n / TICKS_PER_SECOND);
    let cpu = tick(USER_TIME).zip(tick(SYSTEM_TIME)).map(|(user, system)| user + system);
    let started = booted.zip(tick(START_TIME)).map(|(boot, after)| boot + after);
    let bytes = |name| number_behind(&status, name).map(|kilobytes| kilobytes * 1024.0);
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let all = [
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", bytes("VmRSS:")),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", bytes("VmSize:")),
        ("process_open_fds", "gauge", "Number of open file descriptors.", open),
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", started),
    ];
    for (name, kind, help, value) in all {
        if let Some(value) = value {
            page.head(name, kind, help);
            page.value(name, "", value);
        }
    }
}

fn field_of(stat: &str, field: usize) -> Option<f64> {
    stat.rsplit_once(") ")?.1.split_whitespace().nth(field)?.parse().ok()
}

fn number_behind(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_figures() {
        let mut page = Page::default();
        process(&mut page);
        let text = page.text();
        let value = |name: &str| number_behind(&text, &format!("{name} ")).unwrap();
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_start_time_seconds") > 1e9);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_cpu_seconds_total") < 3600.0);
        assert_eq!(field_of("7 (a) b) S 1 2", 1), Some(1.0));
    }
}
