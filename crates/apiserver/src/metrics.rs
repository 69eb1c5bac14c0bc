//! What the server counts, in the text form of Prometheus; names as the reference has them where it has one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use skiff_metrics::{Histogram, Page, process};

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

#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(Kind, u16), u64>>,
    durations: Mutex<BTreeMap<Kind, Histogram>>,
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
            lock(&self.metrics.durations)
                .entry(self.kind.clone())
                .or_insert_with(|| Histogram::new(&BUCKETS))
                .observe(elapsed);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics.gauge(&self.kind).fetch_sub(1, Ordering::Relaxed);
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
            durations.write(page, name, &labels);
        }
        let name = "apiserver_current_inflight_requests";
        page.head(name, "gauge", "Requests being answered.");
        for (kind, gauge) in [("mutating", &self.mutating), ("readOnly", &self.read_only)] {
            page.line(format_args!("{name}{{request_kind=\"{kind}\"}} {}", gauge.load(Ordering::Relaxed)));
        }
    }
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
