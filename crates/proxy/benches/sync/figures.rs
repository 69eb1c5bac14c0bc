//! What this process used, and how figures are told to the process that compares them.

use std::{fs, time::Duration};

/// A line of /proc/self/status in MB.
pub(crate) fn status_mb(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().find_map(|w| w.parse::<f64>().ok()).unwrap_or(0.0) / 1000.0
}

/// Forgets the highest mark of memory so far.
pub(crate) fn forget_peak() {
    // Where that cannot be, the mark is too high, never too low.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// User and system time of this process.
pub(crate) fn processor() -> [Duration; 2] {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |i: usize| after_name.split(' ').nth(i).and_then(|t| t.parse().ok()).unwrap_or(0);
    [11, 12].map(|i| Duration::from_millis(10 * ticks(i)))
}

/// Median and 99th percentile.
pub(crate) fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

pub(crate) const MARK: &str = "@ ";

/// For the process that compares.
pub(crate) fn tell(name: &str, took: Duration) {
    println!("{MARK}{name} {}", took.as_secs_f64());
}
