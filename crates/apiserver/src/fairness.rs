//! Who is served when many ask at once. Requests are sorted into levels by who asks and for what; each level has seats, one
//! asker has at most half of them, and what waits is bounded: the rest is told to come back (429 with Retry-After, as by
//! the reference's priority and fairness). So neither a greedy client nor a greedy level takes health checks, leases or
//! the system's own work their turn. Watches and joined connections sit only while they begin.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use skiff_api::identity::Identity;
use skiff_api::status::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

use crate::Result;
use crate::authz::node_name;
use crate::call::Call;
use crate::metrics::Page;

/// How long a request waits for a seat.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests of one asker that wait.
const WAITING_EACH: usize = 1024;
/// Seconds after which one who was sent away may come back.
const COME_BACK: u32 = 1;

/// The levels, the reference's names where it has one, each with its seats and how many wait for them.
const LEVELS: [(&str, usize, usize); 5] = [
    ("leader-election", 32, 1024),
    ("system", 128, 4096),
    ("workload", 64, 4096),
    ("global-default", 64, 4096),
    ("catch-all", 8, 64),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Leases,
    System,
    Workload,
    Default,
    Anonymous,
}

/// Whose request it is, and for what.
fn place(who: &Identity, group: &str, resource: &str, subresource: &str) -> Place {
    const ACCOUNTS: &str = "system:serviceaccounts";
    let in_group = |group: &str| who.groups.iter().any(|g| g == group);
    let of_system = node_name(who).is_some()
        || in_group("system:serviceaccounts:kube-system")
        || matches!(
            who.name.as_str(),
            "system:kube-controller-manager" | "system:kube-scheduler" | "system:kube-proxy" | "system:kube-dns"
        );
    let heartbeat =
        resource == "leases" && group == "coordination.k8s.io" || resource == "nodes" && subresource == "status";
    match () {
        () if of_system && heartbeat => Place::Leases,
        () if of_system => Place::System,
        () if in_group(ACCOUNTS) => Place::Workload,
        () if in_group("system:unauthenticated") => Place::Anonymous,
        () => Place::Default,
    }
}

struct Level {
    name: &'static str,
    seats: Arc<Semaphore>,
    each: usize,
    most_waiting: usize,
    waiting: AtomicUsize,
    executing: AtomicUsize,
    served: AtomicU64,
    sent_away: AtomicU64,
    flows: Mutex<HashMap<String, Weak<Flow>>>,
}

/// One asker's part of a level.
struct Flow {
    seats: Arc<Semaphore>,
    waiting: AtomicUsize,
}

pub(crate) struct Fairness(Vec<Level>);

/// A request that is being served; its seat is free again when this is dropped.
pub(crate) struct Seat<'a> {
    level: &'a Level,
    _permits: [OwnedSemaphorePermit; 2],
    _flow: Arc<Flow>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.level.executing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// None when so many wait already.
    fn enter(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let waiting = Waiting(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Fairness {
    fn default() -> Self {
        Fairness(LEVELS.iter().map(|&(name, seats, waiting)| Level::new(name, seats, waiting)).collect())
    }
}

impl Fairness {
    /// Waits for a seat.
    ///
    /// # Errors
    /// 429 when too many wait already, or none was free for 15 seconds.
    pub(crate) async fn seat(&self, call: &Call) -> Result<Seat<'_>> {
        let resource = call.resource();
        let place = place(&call.identity, resource.group, resource.plural, call.subresource().unwrap_or_default());
        self.0[place as usize].seat(&call.identity.name).await
    }

    pub(crate) fn write(&self, page: &mut Page) {
        type Value = fn(&Level) -> u64;
        let figures: [(&str, &str, &str, Value); 4] = [
            ("apiserver_flowcontrol_current_executing_requests", "gauge", "Requests being served.", |l| {
                l.executing.load(Ordering::Relaxed) as u64
            }),
            ("apiserver_flowcontrol_current_inqueue_requests", "gauge", "Requests that wait for a seat.", |l| {
                l.waiting.load(Ordering::Relaxed) as u64
            }),
            ("apiserver_flowcontrol_dispatched_requests_total", "counter", "Requests that got a seat.", |l| {
                l.served.load(Ordering::Relaxed)
            }),
            ("apiserver_flowcontrol_rejected_requests_total", "counter", "Requests told to come back.", |l| {
                l.sent_away.load(Ordering::Relaxed)
            }),
        ];
        for (name, kind, help, value) in figures {
            page.head(name, kind, help);
            for level in &self.0 {
                page.line(format_args!("{name}{{priority_level=\"{}\"}} {}", level.name, value(level)));
            }
        }
    }
}

impl Level {
    fn new(name: &'static str, seats: usize, most_waiting: usize) -> Self {
        Level {
            name,
            seats: Arc::new(Semaphore::new(seats)),
            each: (seats / 2).max(1),
            most_waiting,
            waiting: AtomicUsize::new(0),
            executing: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            sent_away: AtomicU64::new(0),
            flows: Mutex::default(),
        }
    }

    async fn seat(&self, who: &str) -> Result<Seat<'_>> {
        let flow = self.flow(who);
        match timeout(PATIENCE, self.wait(&flow)).await {
            Ok(Some(permits)) => {
                self.executing.fetch_add(1, Ordering::Relaxed);
                self.served.fetch_add(1, Ordering::Relaxed);
                Ok(Seat { level: self, _permits: permits, _flow: flow })
            }
            Ok(None) | Err(_) => {
                self.sent_away.fetch_add(1, Ordering::Relaxed);
                let why = "Too many requests, please try again later.";
                Err(Status::too_many_requests(why, COME_BACK))
            }
        }
    }

    /// First for one of the asker's own seats, then for one of the level's: so at most half of the level's queue is his.
    async fn wait(&self, flow: &Flow) -> Option<[OwnedSemaphorePermit; 2]> {
        let _of_level = Waiting::enter(&self.waiting, self.most_waiting)?;
        let _of_flow = Waiting::enter(&flow.waiting, WAITING_EACH)?;
        let own = flow.seats.clone().acquire_owned().await.ok()?;
        Some([own, self.seats.clone().acquire_owned().await.ok()?])
    }

    /// Those who ask for nothing are forgotten.
    fn flow(&self, who: &str) -> Arc<Flow> {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flow) = flows.get(who).and_then(Weak::upgrade) {
            return flow;
        }
        if flows.len() >= self.most_waiting {
            flows.retain(|_, flow| flow.strong_count() > 0);
        }
        let flow = Arc::new(Flow { seats: Arc::new(Semaphore::new(self.each)), waiting: AtomicUsize::new(0) });
        flows.insert(who.into(), Arc::downgrade(&flow));
        flow
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn everybody_has_a_place() {
        let of = |who: &Identity, resource| {
            place(who, if resource == "leases" { "coordination.k8s.io" } else { "" }, resource, "")
        };
        let node = Identity::node("a");
        let controller = Identity::service_account("kube-system", "deployment-controller");
        assert_eq!([of(&node, "leases"), of(&node, "pods")], [Place::Leases, Place::System]);
        assert_eq!(
            [of(&controller, "pods"), of(&Identity::component("system:kube-scheduler"), "pods")],
            [Place::System; 2]
        );
        assert_eq!(of(&Identity::service_account("shop", "web"), "leases"), Place::Workload);
        assert_eq!([of(&Identity::admin(), "pods"), of(&Identity::component("jane"), "leases")], [Place::Default; 2]);
        assert_eq!(of(&Identity::anonymous(), "pods"), Place::Anonymous);
        assert_eq!(place(&node, "", "nodes", "status"), Place::Leases);
    }

    #[tokio::test(start_paused = true)]
    async fn the_greedy_leave_room_and_queues_end() {
        let level = Level::new("test", 8, 4096);
        let mut greedy: Vec<_> = (0..1200).map(|_| Box::pin(level.seat("greedy"))).collect();
        let mut seats = vec![];
        greedy.retain_mut(|wish| wish.now_or_never().map(|seat| seats.push(seat)).is_none());
        let refused = seats.iter().filter(|seat| seat.is_err()).count();
        assert_eq!(
            (seats.len() - refused, refused),
            (4, 1200 - 4 - WAITING_EACH),
            "half of the seats, a bounded queue"
        );
        let other = level.seat("other").now_or_never().expect("at once").expect("a seat is free");

        seats.clear();
        greedy.retain_mut(|wish| wish.now_or_never().map(|seat| seats.push(seat)).is_none());
        assert_eq!(seats.iter().filter(|seat| seat.is_ok()).count(), 4, "free seats go to those who wait");
        drop((other, greedy, seats));
        assert_eq!(level.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(level.executing.load(Ordering::Relaxed), 0);

        let _held: Vec<_> = (0..4).map(|_| level.seat("slow").now_or_never().expect("at once")).collect();
        let late = level.seat("slow").await;
        assert_eq!(late.err().map(|status| status.code()), Some(429), "nobody waits for ever");
    }
}
