//! What the server counts, in the text form of Prometheus; names as the reference has them where it has one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Duration;

use crate::call::Call;
use crate::route::Verb;

/// Upper bounds of the buckets of request durations, in seconds.
const BUCKETS: [f64; 14] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// What requests are counted by. All of it comes from tables, so there is an end to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    dry_run: bool,
    /// Watches and connections, which last as long as the client wants.
    long: bool,
}

#[derive(Clone, Debug, Default)]
struct Durations {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(Kind, u16), u64>>,
    durations: Mutex<BTreeMap<Kind, Durations>>,
    mutating: AtomicI64,
    read_only: AtomicI64,
    long_running: AtomicI64,
}

/// A request under way.
pub(crate) struct Running<'a> {
    metrics: &'a Metrics,
    kind: Kind,
    started: std::time::Instant,
}

impl Kind {
    pub(crate) fn of(call: &Call) -> Kind {
        let resource = call.resource();
        let subresource = call.subresource().and_then(|name| resource.subresource(name)).map_or("", |s| s.name);
        let named = call.target.name.is_some();
        Kind {
            verb: verb(call.verb, call.connects()),
            group: resource.group,
            version: resource.version,
            resource: resource.plural,
            subresource,
            scope: if named {
                "resource"
            } else if call.namespace().is_some() {
                "namespace"
            } else {
                "cluster"
            },
            dry_run: call.dry_run,
            long: call.verb == Verb::Watch || call.connects(),
        }
    }

    fn mutates(&self) -> bool {
        !matches!(self.verb, "GET" | "LIST" | "WATCH")
    }

    fn labels(&self) -> String {
        format!(
            "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.group, self.resource, self.scope, self.subresource, self.verb, self.version
        )
    }
}

fn verb(verb: Verb, connects: bool) -> &'static str {
    match verb {
        _ if connects => "CONNECT",
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    pub(crate) fn begin(&self, kind: Kind) -> Running<'_> {
        self.gauge(&kind).fetch_add(1, Ordering::Relaxed);
        Running { metrics: self, kind, started: std::time::Instant::now() }
    }

    fn gauge(&self, kind: &Kind) -> &AtomicI64 {
        match (kind.long, kind.mutates()) {
            (true, _) => &self.long_running,
            (false, true) => &self.mutating,
            (false, false) => &self.read_only,
        }
    }
}

impl Running<'_> {
    /// Answered.
    pub(crate) fn end(self, code: u16) {
        *lock(&self.metrics.requests).entry((self.kind.clone(), code)).or_default() += 1;
        if !self.kind.long {
            let elapsed = self.started.elapsed();
            lock(&self.metrics.durations).entry(self.kind.clone()).or_default().observe(elapsed);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics.gauge(&self.kind).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Durations {
    fn observe(&mut self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        for (count, bound) in self.buckets.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
    }
}

/// A text of metrics while it is written.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    pub(crate) fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    pub(crate) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    pub(crate) fn text(self) -> String {
        self.0
    }
}

impl Metrics {
    pub(crate) fn write(&self, page: &mut Page) {
        let name = "apiserver_request_total";
        page.head(name, "counter", "Requests by verb, group, version, resource, scope and answer.");
        for ((kind, code), count) in lock(&self.requests).iter() {
            let dry_run = if kind.dry_run { "All" } else { "" };
            let labels = kind.labels();
            page.line(format_args!(
                "{name}{{code=\"{code}\",component=\"apiserver\",dry_run=\"{dry_run}\",{labels}}} {count}"
            ));
        }
        let name = "apiserver_request_duration_seconds";
        page.head(name, "histogram", "Time to the answer, of requests that are no watches or connections.");
        for (kind, durations) in lock(&self.durations).iter() {
            let labels = format!("component=\"apiserver\",{}", kind.labels());
            for (bound, count) in BUCKETS.iter().zip(durations.buckets) {
                page.line(format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}"));
            }
            page.line(format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {}", durations.count));
            page.line(format_args!("{name}_sum{{{labels}}} {}", durations.sum));
            page.line(format_args!("{name}_count{{{labels}}} {}", durations.count));
        }
        let name = "apiserver_current_inflight_requests";
        page.head(name, "gauge", "Requests being answered.");
        for (kind, gauge) in [("mutating", &self.mutating), ("readOnly", &self.read_only)] {
            page.line(format_args!("{name}{{request_kind=\"{kind}\"}} {}", gauge.load(Ordering::Relaxed)));
        }
    }
}

/// Memory, time and start of this process; nothing where the system does not tell.
pub(crate) fn process(page: &mut Page) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The name of the command may hold spaces; the fields after it do not.
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or_default().split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 2).copied().unwrap_or_default();
    let (ticks, page_size) = (100.0, 4096.0);
    page.head("process_cpu_seconds_total", "counter", "CPU time of the process.");
    page.line(format_args!("process_cpu_seconds_total {}", (field(14) + field(15)) / ticks));
    page.gauge("process_resident_memory_bytes", "Memory of the process.", field(24) * page_size);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count());
    page.gauge("process_open_fds", "Open files of the process.", open);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(verb: &'static str) -> Kind {
        Kind {
            verb,
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            scope: "resource",
            dry_run: false,
            long: false,
        }
    }

    #[test]
    fn requests_are_counted_by_kind_and_answer() {
        let metrics = Metrics::default();
        metrics.begin(kind("GET")).end(200);
        metrics.begin(kind("GET")).end(404);
        let running = metrics.begin(kind("PUT"));
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.text();
        let labels = "group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"";
        for line in [
            format!("apiserver_request_total{{code=\"404\",component=\"apiserver\",dry_run=\"\",{labels}}} 1"),
            format!("apiserver_request_duration_seconds_count{{component=\"apiserver\",{labels}}} 2"),
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1".to_string(),
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0".to_string(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        drop(running);
        assert_eq!(metrics.mutating.load(Ordering::Relaxed), 0);
    }
}
