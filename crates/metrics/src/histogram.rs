//! How long things took, by bounds that are known beforehand.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::Page;

/// May be observed and read by several threads at once.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// By bucket, each observation in one.
    counts: Box<[AtomicU64]>,
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// Upper bounds in seconds, growing.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = bounds.iter().map(|_| AtomicU64::default()).collect();
        Histogram { bounds, counts, count: AtomicU64::default(), nanoseconds: AtomicU64::default() }
    }

    pub fn observe(&self, took: Duration) {
        self.observe_all(took, 1);
    }

    /// So many things that took this long each.
    pub fn observe_all(&self, took: Duration, times: u64) {
        let seconds = took.as_secs_f64();
        if let Some(count) = self.bounds.iter().position(|b| seconds <= *b).and_then(|i| self.counts.get(i)) {
            count.fetch_add(times, Relaxed);
        }
        self.count.fetch_add(times, Relaxed);
        self.nanoseconds.fetch_add((took.as_nanos() as u64).saturating_mul(times), Relaxed);
    }

    /// Its lines under the labels; the head is the caller's.
    pub fn write(&self, page: &mut Page, name: &str, labels: &str) {
        let (bucket, comma) = (format!("{name}_bucket"), if labels.is_empty() { "" } else { "," });
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count.load(Relaxed);
            page.value(&bucket, &format!("{labels}{comma}le=\"{bound}\""), below);
        }
        let count = self.count.load(Relaxed);
        page.value(&bucket, &format!("{labels}{comma}le=\"+Inf\""), count);
        page.value(&format!("{name}_sum"), labels, self.nanoseconds.load(Relaxed) as f64 / 1e9);
        page.value(&format!("{name}_count"), labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_counts_what_is_below() {
        let histogram = Histogram::new(&[0.001, 0.004]);
        [1, 3, 3, 60_000].iter().for_each(|ms| histogram.observe(Duration::from_millis(*ms)));
        histogram.observe_all(Duration::from_millis(2), 2);
        let mut page = Page::default();
        histogram.write(&mut page, "took", "kind=\"a\"");
        histogram.write(&mut page, "took", "");
        let text = page.text();
        for line in [
            "took_bucket{kind=\"a\",le=\"0.001\"} 1",
            "took_bucket{kind=\"a\",le=\"0.004\"} 5",
            "took_bucket{kind=\"a\",le=\"+Inf\"} 6",
            "took_sum{kind=\"a\"} 60.011",
            "took_bucket{le=\"0.004\"} 5",
            "took_count 6",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
