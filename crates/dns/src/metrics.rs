//! Figures in the text format of Prometheus. They carry CoreDNS's names where they mean the same, so that its dashboards
//! work here.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use skiff_metrics::{Histogram, Page};

use crate::wire::{Rcode, rtype};

/// The types that are counted by name, as CoreDNS does.
const TYPES: [(u16, &str); 12] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::SRV, "SRV"),
    (rtype::PTR, "PTR"),
    (rtype::CNAME, "CNAME"),
    (rtype::NS, "NS"),
    (rtype::SOA, "SOA"),
    (rtype::TXT, "TXT"),
    (rtype::ANY, "ANY"),
    (15, "MX"),
    (65, "HTTPS"),
    (0, "other"),
];
const RCODES: usize = Rcode::ALL.len();
/// CoreDNS's bounds for answers, and for changes.
const BUCKETS: [f64; 16] = doubling(0.000_25);
const CHANGES: [f64; 20] = doubling(0.001);

/// Each twice the one before.
const fn doubling<const N: usize>(first: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut i = 1;
    while i < N {
        bounds[i] = bounds[i - 1] * 2.0;
        i += 1;
    }
    bounds
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Counts of one round, added to the whole at its end.
pub(crate) struct Tally {
    place: usize,
    types: [u32; TYPES.len()],
    rcodes: [u32; RCODES],
}

/// "udp", IPv4 first.
const PLACES: [(&str, &str); 4] = [("udp", "1"), ("udp", "2"), ("tcp", "1"), ("tcp", "2")];

impl Tally {
    pub(crate) fn new(transport: Transport, ipv6: bool) -> Self {
        let place = usize::from(transport == Transport::Tcp) * 2 + usize::from(ipv6);
        Tally { place, types: [0; TYPES.len()], rcodes: [0; RCODES] }
    }

    pub(crate) fn answered(&mut self, rtype: u16, rcode: Rcode) {
        self.types[TYPES.iter().position(|(t, _)| *t == rtype).unwrap_or(TYPES.len() - 1)] += 1;
        self.rcodes[rcode as usize] += 1;
    }
}

/// How long something took.
#[derive(Debug)]
pub(crate) struct Took(Histogram);

impl Default for Took {
    fn default() -> Self {
        Took(Histogram::new(&BUCKETS))
    }
}

impl Took {
    pub(crate) fn observe(&self, took: Duration, times: u64) {
        self.0.observe_all(took, times);
    }
}

/// From a change of endpoints to its names.
#[derive(Debug)]
struct Programmed(Histogram);

impl Default for Programmed {
    fn default() -> Self {
        Programmed(Histogram::new(&CHANGES))
    }
}

#[derive(Debug, Default)]
pub struct Metrics {
    requests: [[AtomicU64; TYPES.len()]; 4],
    responses: [AtomicU64; RCODES],
    duration: Took,
    rejected: AtomicU64,
    programmed: Programmed,
    pub(crate) forward: Took,
    pub(crate) forward_failures: AtomicU64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
    pub(crate) cache_prefetches: AtomicU64,
    pub(crate) cache_stale: AtomicU64,
    pub(crate) cache_entries: AtomicU64,
    pub(crate) upstreams_down: AtomicU64,
    aside: AtomicU64,
    /// When the API was last heard of, in seconds since 1970; 0: never.
    api_seen: AtomicU64,
    serial: AtomicU64,
    services: AtomicU64,
}

impl Metrics {
    /// What a round of so many questions counted, and how long it took.
    pub(crate) fn add(&self, tally: &Tally, times: usize, took: Duration) {
        let add = |to: &[AtomicU64], from: &[u32]| {
            let pairs = to.iter().zip(from).filter(|(_, n)| **n > 0);
            pairs.for_each(|(to, n)| {
                to.fetch_add(u64::from(*n), Relaxed);
            });
        };
        add(&self.requests[tally.place], &tally.types);
        add(&self.responses, &tally.rcodes);
        self.duration.observe(took, times as u64);
    }

    /// How many clients of an address are answered aside of the others.
    pub(crate) fn set_aside(&self, clients: usize) {
        self.aside.store(clients as u64, Relaxed);
    }

    pub(crate) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    pub(crate) fn saw_api(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.api_seen.store(now.as_secs(), Relaxed);
    }

    /// The names of a headless Service have followed its endpoints, so long after what changed them.
    pub(crate) fn programmed(&self, after: Duration) {
        self.programmed.0.observe_all(after, 1);
    }

    pub(crate) fn zone_is(&self, serial: u32, services: usize) {
        self.serial.store(serial.into(), Relaxed);
        self.services.store(services as u64, Relaxed);
    }

    /// How long ago the API was last heard of; None: never.
    pub fn zone_age(&self) -> Option<Duration> {
        let seen = Some(self.api_seen.load(Relaxed)).filter(|s| *s > 0)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(now.saturating_sub(Duration::from_secs(seen)))
    }

    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.render_questions(&mut page);
        let one = |page: &mut Page, name: &str, kind: &str, help: &str, value: &AtomicU64| {
            page.head(name, kind, help);
            page.value(name, "", value.load(Relaxed));
        };
        let name = "coredns_proxy_request_duration_seconds";
        page.head(name, "histogram", "How long upstreams took to answer.");
        self.forward.0.write(&mut page, name, "proxy_name=\"forward\"");
        let name = "coredns_kubernetes_dns_programming_duration_seconds";
        page.head(name, "histogram", "From a change of a headless Service's endpoints until its names followed.");
        self.programmed.0.write(&mut page, name, "service_kind=\"headless_with_selector\"");
        for (name, help, value) in [
            ("coredns_cache_hits_total", "Foreign names answered from the cache.", &self.cache_hits),
            ("coredns_cache_misses_total", "Foreign names that had to be asked for.", &self.cache_misses),
            ("coredns_cache_prefetch_total", "Foreign names asked again before they expired.", &self.cache_prefetches),
            ("coredns_cache_served_stale_total", "Expired answers given for want of new ones.", &self.cache_stale),
            ("coredns_forward_max_concurrent_rejects_total", "Questions refused: too many waited.", &self.rejected),
            ("skiff_dns_forward_failures_total", "Foreign names that no upstream answered.", &self.forward_failures),
        ] {
            one(&mut page, name, "counter", help, value);
        }
        for (name, help, value) in [
            ("coredns_cache_entries", "Foreign answers in the cache.", &self.cache_entries),
            ("skiff_dns_upstreams_down", "Upstreams that do not answer.", &self.upstreams_down),
            ("skiff_dns_clients_aside", "Clients that flood, answered aside of the others.", &self.aside),
            ("skiff_dns_zone_serial", "The zone's serial.", &self.serial),
            ("skiff_dns_services", "Services in the zone.", &self.services),
        ] {
            one(&mut page, name, "gauge", help, value);
        }
        if let Some(age) = self.zone_age() {
            page.head("skiff_dns_zone_age_seconds", "gauge", "Since the API was last heard of.");
            page.value("skiff_dns_zone_age_seconds", "", age.as_secs());
        }
        page.head("coredns_build_info", "gauge", "The version of this server.");
        page.value("coredns_build_info", concat!("version=\"skiff-", env!("CARGO_PKG_VERSION"), "\""), 1);
        page.text()
    }

    fn render_questions(&self, page: &mut Page) {
        let name = "coredns_dns_requests_total";
        page.head(name, "counter", "Questions, by how they came and what they asked for.");
        for ((proto, family), counts) in PLACES.iter().zip(&self.requests) {
            for ((_, rtype), count) in TYPES.iter().zip(counts).filter(|(_, n)| n.load(Relaxed) > 0) {
                let labels =
                    format!("server=\"dns://:53\",zone=\".\",proto=\"{proto}\",family=\"{family}\",type=\"{rtype}\"");
                page.value(name, &labels, count.load(Relaxed));
            }
        }
        let name = "coredns_dns_responses_total";
        page.head(name, "counter", "Answers, by their code.");
        for (rcode, count) in Rcode::ALL.iter().zip(&self.responses) {
            let labels = format!("server=\"dns://:53\",zone=\".\",rcode=\"{}\"", rcode.text());
            page.value(name, &labels, count.load(Relaxed));
        }
        let name = "coredns_dns_request_duration_seconds";
        page.head(name, "histogram", "How long answers took.");
        self.duration.0.write(page, name, "server=\"dns://:53\",zone=\".\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_prometheus_text() {
        let metrics = Metrics::default();
        let mut tally = Tally::new(Transport::Udp, true);
        tally.answered(rtype::AAAA, Rcode::NxDomain);
        tally.answered(999, Rcode::NoError);
        metrics.add(&tally, 2, Duration::from_micros(300));
        metrics.saw_api();
        metrics.programmed(Duration::from_millis(7));
        let text = metrics.render();
        for expect in [
            "proto=\"udp\",family=\"2\",type=\"AAAA\"} 1\n",
            "type=\"other\"} 1\n",
            "rcode=\"NXDOMAIN\"} 1\n",
            "coredns_dns_request_duration_seconds_bucket{server=\"dns://:53\",zone=\".\",le=\"0.0005\"} 2\n",
            "coredns_dns_request_duration_seconds_bucket{server=\"dns://:53\",zone=\".\",le=\"+Inf\"} 2\n",
            "skiff_dns_zone_age_seconds 0\n",
            "dns_programming_duration_seconds_bucket{service_kind=\"headless_with_selector\",le=\"0.004\"} 0\n",
            "dns_programming_duration_seconds_bucket{service_kind=\"headless_with_selector\",le=\"0.008\"} 1\n",
        ] {
            assert!(text.contains(expect), "{expect} is not in {text}");
        }
        for line in text.lines() {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(line.starts_with("# ") || (!name.is_empty() && value.parse::<f64>().is_ok()), "{line}");
        }
    }
}
