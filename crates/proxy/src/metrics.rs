//! What kube-proxy's dashboards read: the same names. Both families are synced by one transaction, so both labels carry
//! the same figures.

use std::{fmt::Write, time::Duration};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const BUCKETS: usize = 15;

/// Buckets from one millisecond on, each twice the one before: kube-proxy's.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    count: u64,
    sum: f64,
}

impl Histogram {
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        for (i, count) in self.counts.iter_mut().enumerate() {
            *count += u64::from(seconds <= bound(i));
        }
    }
}

fn bound(i: usize) -> f64 {
    0.001 * f64::from(1u32 << i)
}

#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub sync: Histogram,
    pub sync_full: Histogram,
    pub sync_partial: Histogram,
    pub network_programming: Histogram,
    pub conntrack: Histogram,
    pub conntrack_deleted: u64,
    pub last_sync: f64,
    pub last_queued: f64,
    /// Unix seconds; when the API server was last heard of.
    pub last_news: f64,
    pub service_changes: u64,
    pub endpoint_changes: u64,
    pub service_pending: u64,
    pub endpoint_pending: u64,
    pub sync_failures: u64,
    pub repairs: u64,
    pub no_local_internal: i64,
    pub no_local_external: i64,
    pub healthz: [u64; 2],
    pub livez: [u64; 2],
}

impl Metrics {
    /// The text format of Prometheus.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let histograms = [
            ("sync_proxy_rules_duration_seconds", &self.sync),
            ("sync_full_proxy_rules_duration_seconds", &self.sync_full),
            ("sync_partial_proxy_rules_duration_seconds", &self.sync_partial),
            ("network_programming_duration_seconds", &self.network_programming),
            ("conntrack_reconciler_sync_duration_seconds", &self.conntrack),
        ];
        for (name, h) in histograms {
            histogram(&mut out, name, h);
        }
        let numbers = [
            ("sync_proxy_rules_last_timestamp_seconds", "gauge", self.last_sync),
            ("sync_proxy_rules_last_queued_timestamp_seconds", "gauge", self.last_queued),
            ("skiff_last_news_timestamp_seconds", "gauge", self.last_news),
            ("sync_proxy_rules_service_changes_total", "counter", self.service_changes as f64),
            ("sync_proxy_rules_endpoint_changes_total", "counter", self.endpoint_changes as f64),
            ("sync_proxy_rules_service_changes_pending", "gauge", self.service_pending as f64),
            ("sync_proxy_rules_endpoint_changes_pending", "gauge", self.endpoint_pending as f64),
            ("sync_proxy_rules_nftables_sync_failures_total", "counter", self.sync_failures as f64),
            ("conntrack_reconciler_deleted_entries_total", "counter", self.conntrack_deleted as f64),
            ("skiff_foreign_change_repairs_total", "counter", self.repairs as f64),
        ];
        for (name, kind, value) in numbers {
            header(&mut out, name, kind);
            for family in FAMILIES {
                let _ = writeln!(out, "kubeproxy_{name}{{ip_family=\"{family}\"}} {value}");
            }
        }
        self.labelled(&mut out);
        out
    }

    fn labelled(&self, out: &mut String) {
        header(out, "sync_proxy_rules_no_local_endpoints_total", "gauge");
        for (policy, n) in [("internal", self.no_local_internal), ("external", self.no_local_external)] {
            for family in FAMILIES {
                let labels = format!("ip_family=\"{family}\",traffic_policy=\"{policy}\"");
                let _ = writeln!(out, "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{{labels}}} {n}");
            }
        }
        for (name, counts) in [("proxy_healthz_total", self.healthz), ("proxy_livez_total", self.livez)] {
            header(out, name, "counter");
            for (code, n) in ["200", "503"].iter().zip(counts) {
                let _ = writeln!(out, "kubeproxy_{name}{{code=\"{code}\"}} {n}");
            }
        }
    }
}

fn header(out: &mut String, name: &str, kind: &str) {
    let _ = writeln!(out, "# TYPE kubeproxy_{name} {kind}");
}

fn histogram(out: &mut String, name: &str, h: &Histogram) {
    header(out, name, "histogram");
    for family in FAMILIES {
        let label = format!("ip_family=\"{family}\"");
        for (i, count) in h.counts.iter().enumerate() {
            let _ = writeln!(out, "kubeproxy_{name}_bucket{{{label},le=\"{}\"}} {count}", bound(i));
        }
        let _ = writeln!(out, "kubeproxy_{name}_bucket{{{label},le=\"+Inf\"}} {}", h.count);
        let _ = writeln!(out, "kubeproxy_{name}_sum{{{label}}} {}", h.sum);
        let _ = writeln!(out, "kubeproxy_{name}_count{{{label}}} {}", h.count);
    }
}
