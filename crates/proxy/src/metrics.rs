//! What kube-proxy's dashboards read: the same names, labels, texts and buckets. Both families are synced by one
//! transaction, so what is told of syncs is the same for both values of `ip_family`.

use skiff_metrics::{Histogram, Page, process};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// Buckets of the time that work takes: from one millisecond on, each twice the one before.
const WORK: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

/// Buckets of the time from a change to the rules that follow it: the reference's, which are fine up to a minute.
const PROGRAMMING: [f64; 80] = programming_buckets();

const fn programming_buckets() -> [f64; 80] {
    let mut bounds = [0.0; 80];
    (bounds[0], bounds[1]) = (0.25, 0.5);
    let mut i = 2;
    while i < 80 {
        bounds[i] = match i {
            2..=60 => (i - 1) as f64,
            61..=72 => 60.0 + 5.0 * (i - 61) as f64,
            _ => 120.0 + 30.0 * (i - 73) as f64,
        };
        i += 1;
    }
    bounds
}

#[derive(Debug)]
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
    /// Services whose clients find no local endpoint: by family, then by policy (internal, external).
    pub no_local: [[i64; 2]; 2],
    pub healthz: [u64; 2],
    pub livez: [u64; 2],
}

impl Default for Metrics {
    fn default() -> Self {
        let work = || Histogram::new(&WORK);
        Metrics {
            sync: work(),
            sync_full: work(),
            sync_partial: work(),
            network_programming: Histogram::new(&PROGRAMMING),
            conntrack: work(),
            conntrack_deleted: 0,
            last_sync: 0.0,
            last_queued: 0.0,
            last_news: 0.0,
            service_changes: 0,
            endpoint_changes: 0,
            service_pending: 0,
            endpoint_pending: 0,
            sync_failures: 0,
            repairs: 0,
            no_local: [[0; 2]; 2],
            healthz: [0; 2],
            livez: [0; 2],
        }
    }
}

/// Which label a number is told under.
enum Label {
    None,
    Family,
}

type Number = (&'static str, &'static str, &'static str, Label, f64);

impl Metrics {
    /// The text format of Prometheus.
    pub fn render(&self) -> String {
        let mut page = Page::default();
        for (name, help, histogram) in self.histograms() {
            page.head(name, "histogram", help);
            FAMILIES.iter().for_each(|f| histogram.write(&mut page, name, &family(f)));
        }
        for (name, kind, help, label, value) in self.numbers() {
            page.head(name, kind, help);
            match label {
                Label::None => page.value(name, "", value),
                Label::Family => FAMILIES.iter().for_each(|f| page.value(name, &family(f), value)),
            }
        }
        self.labelled(&mut page);
        process(&mut page);
        page.text()
    }

    fn histograms(&self) -> [(&'static str, &'static str, &Histogram); 5] {
        [
            ("kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", &self.sync),
            (
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                &self.sync_full,
            ),
            (
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                &self.sync_partial,
            ),
            (
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                &self.network_programming,
            ),
            (
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
                &self.conntrack,
            ),
        ]
    }

    #[rustfmt::skip] // A table: one line for each number.
    fn numbers(&self) -> [Number; 10] {
        use Label::{Family, None};
        [
            ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", "The last time proxy rules were successfully synced", Family, self.last_sync),
            ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge", "The last time a sync of proxy rules was queued", Family, self.last_queued),
            ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "counter", "Cumulative proxy nftables sync failures", Family, self.sync_failures as f64),
            ("kubeproxy_conntrack_reconciler_deleted_entries_total", "counter", "Cumulative conntrack flows deleted by conntrack reconciler", Family, self.conntrack_deleted as f64),
            ("kubeproxy_sync_proxy_rules_service_changes_total", "counter", "Cumulative proxy rules Service changes", None, self.service_changes as f64),
            ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge", "Pending proxy rules Service changes", None, self.service_pending as f64),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter", "Cumulative proxy rules Endpoint changes", None, self.endpoint_changes as f64),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge", "Pending proxy rules Endpoint changes", None, self.endpoint_pending as f64),
            ("skiff_proxy_foreign_change_repairs_total", "counter", "How often another program's change of the rules was undone", None, self.repairs as f64),
            ("skiff_proxy_last_news_timestamp_seconds", "gauge", "When the API server was last heard of", None, self.last_news),
        ]
    }

    fn labelled(&self, page: &mut Page) {
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        page.head(name, "gauge", "Number of services with a Local traffic policy and no endpoints");
        for (ip_family, counts) in FAMILIES.iter().zip(self.no_local) {
            for (policy, n) in ["internal", "external"].iter().zip(counts) {
                let labels = format!("{},traffic_policy=\"{policy}\"", family(ip_family));
                page.value(name, &labels, n);
            }
        }
        for (name, help, counts) in [
            ("kubeproxy_proxy_healthz_total", "Cumulative proxy healthz HTTP status", self.healthz),
            ("kubeproxy_proxy_livez_total", "Cumulative proxy livez HTTP status", self.livez),
        ] {
            page.head(name, "counter", help);
            for (code, n) in ["200", "503"].iter().zip(counts) {
                page.value(name, &format!("code=\"{code}\""), n);
            }
        }
    }
}

fn family(name: &str) -> String {
    format!("ip_family=\"{name}\"")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn buckets_are_the_references() {
        assert!(WORK.windows(2).all(|w| w[1] == 2.0 * w[0]));
        assert!(PROGRAMMING.windows(2).all(|w| w[0] < w[1]));
        for bound in [0.25, 0.5, 1.0, 59.0, 60.0, 65.0, 115.0, 120.0, 150.0, 300.0] {
            assert!(PROGRAMMING.contains(&bound), "{bound}");
        }
    }

    #[test]
    fn is_well_formed() {
        let text = Metrics::default().render();
        let mut families = HashSet::new();
        let mut series = HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(families.insert(rest.split(' ').next().unwrap()), "twice: {line}");
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(name), "twice: {line}");
            }
        }
        assert!(families.contains("process_resident_memory_bytes"));
    }
}
