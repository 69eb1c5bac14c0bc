//! Of several servers of one cluster, one runs the controllers: the one whose name is in a Lease.
//!
//! ```text
//!            nobody's, or not renewed for its duration
//! candidate ────────────────────────────────────────────▶ leader: renews; its controllers run
//!     ▲                                                       │
//!     └──── renewed by another, or not renewed in time ───────┘  controllers have ended before
//! ```
//!
//! Clocks of several machines are never compared: whether a Lease is renewed is seen from its changes, by the own clock.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use skiff_client::life::Stop;
use tokio::time::{Instant, sleep, timeout};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "skiff-controllers";
/// How long a Lease holds without being renewed.
const DURATION: Duration = Duration::from_secs(10);
/// A leader that could not renew for so long ends its controllers: well before another takes over.
const DEADLINE: Duration = Duration::from_secs(6);
const EVERY: Duration = Duration::from_secs(1);

/// The newest version of the Lease that was seen, and when it was first seen.
struct Seen {
    version: Option<String>,
    since: Instant,
}

#[derive(Debug, PartialEq)]
enum Step {
    Make,
    Take,
    Wait,
}

/// What a candidate does about the Lease, which has been as it is for `unchanged`.
fn step(lease: Option<&LeaseSpec>, me: &str, unchanged: Duration) -> Step {
    let Some(lease) = lease else { return Step::Make };
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let holds = seconds.map_or(DURATION, Duration::from_secs);
    if holder.is_empty() || holder == me || unchanged >= holds { Step::Take } else { Step::Wait }
}

/// The Lease as its holder writes it.
fn held(before: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let mine = before.filter(|before| before.holder_identity.as_deref() == Some(me));
    let transitions = before.and_then(|before| before.lease_transitions).unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(DURATION.as_secs() as i32),
        acquire_time: mine.and_then(|mine| mine.acquire_time.clone()).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if mine.is_some() || before.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

struct Candidate<'a> {
    leases: Api<Lease>,
    me: &'a str,
    seen: Seen,
}

/// Runs `lead` whenever `me` is the leader, with the word to stop that ends its term; until told to stop.
pub async fn run<F: Future<Output = ()>>(client: Client, me: &str, stop: &Stop, lead: impl Fn(Stop) -> F) {
    let seen = Seen { version: None, since: Instant::now() };
    let mut candidate = Candidate { leases: Api::namespaced(client, NAMESPACE), me, seen };
    loop {
        let acquired = tokio::select! {
            acquired = candidate.acquire() => acquired,
            () = stop.cancelled() => return,
        };
        tracing::info!("this server ({me}) runs the controllers from now on");
        let term = stop.child_token();
        let (lease, ()) = tokio::join!(candidate.hold(acquired, &term), lead(term.clone()));
        if stop.is_cancelled() {
            return candidate.let_go(lease).await;
        }
        tracing::warn!("this server ({me}) runs the controllers no more");
    }
}

impl Candidate<'_> {
    async fn acquire(&mut self) -> Lease {
        loop {
            match self.try_acquire().await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {}
                Err(error) => tracing::warn!("cannot become the leader: {error}"),
            }
            sleep(EVERY).await;
        }
    }

    /// None: it is another's.
    async fn try_acquire(&mut self) -> kube::Result<Option<Lease>> {
        let found = self.leases.get_opt(NAME).await?;
        let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if self.seen.version != version {
            self.seen = Seen { version, since: Instant::now() };
        }
        let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
        let written = match step(spec, self.me, self.seen.since.elapsed()) {
            Step::Wait => return Ok(None),
            Step::Make if found.is_none() => {
                let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(held(None, self.me, Timestamp::now())) };
                self.leases.create(&PostParams::default(), &lease).await
            }
            Step::Make | Step::Take => self.write(&found.unwrap_or_default()).await,
        };
        match written {
            Ok(lease) => Ok(Some(lease)),
            // Another was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Over the very version that was read: of two who do so, one wins.
    async fn write(&self, lease: &Lease) -> kube::Result<Lease> {
        let spec = Some(held(lease.spec.as_ref(), self.me, Timestamp::now()));
        let lease = Lease { metadata: lease.metadata.clone(), spec };
        self.leases.replace(NAME, &PostParams::default(), &lease).await
    }

    /// Renews until it is another's, cannot be renewed in time, or the term ends; ends the term then.
    async fn hold(&self, mut lease: Lease, term: &Stop) -> Lease {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DEADLINE {
            tokio::select! {
                () = sleep(EVERY) => {}
                () = term.cancelled() => return lease,
            }
            let begun = Instant::now();
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.renew(&lease)).await {
                Ok(Ok(Some(next))) => (lease, renewed) = (next, begun),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => tracing::warn!("cannot renew the Lease {NAME}: {error}"),
                Err(_) => tracing::warn!("the Lease {NAME} was not renewed in time"),
            }
        }
        term.cancel();
        lease
    }

    /// None: it is another's.
    async fn renew(&self, lease: &Lease) -> kube::Result<Option<Lease>> {
        match self.write(lease).await {
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                // Perhaps an answer was lost, perhaps somebody edited it.
                let found = self.leases.get_opt(NAME).await?;
                let holder = found.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref());
                Ok(found.as_ref().filter(|_| holder == Some(self.me)).cloned())
            }
            written => written.map(Some),
        }
    }

    /// The next leader need not wait.
    async fn let_go(&self, lease: Lease) {
        let spec = lease.spec.map(|spec| LeaseSpec { holder_identity: None, ..spec });
        let lease = Lease { metadata: lease.metadata, spec };
        let written = timeout(EVERY, self.leases.replace(NAME, &PostParams::default(), &lease)).await;
        if !matches!(written, Ok(Ok(_))) {
            tracing::info!("the Lease {NAME} is left to run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> LeaseSpec {
        LeaseSpec { lease_transitions: Some(3), ..held(None, holder, Timestamp::UNIX_EPOCH) }
    }

    #[test]
    fn a_lease_is_taken_when_it_has_run_out() {
        let (fresh, old) = (DURATION / 2, DURATION);
        for (lease, unchanged, expected) in [
            (None, fresh, Step::Make),
            (Some(lease("other")), fresh, Step::Wait),
            (Some(lease("other")), old, Step::Take),
            (Some(LeaseSpec { holder_identity: None, ..lease("") }), fresh, Step::Take),
            (Some(lease("me")), fresh, Step::Take),
            (Some(LeaseSpec { lease_duration_seconds: Some(60), ..lease("other") }), old, Step::Wait),
            (Some(LeaseSpec { lease_duration_seconds: Some(-1), ..lease("other") }), old, Step::Take),
        ] {
            assert_eq!(step(lease.as_ref(), "me", unchanged), expected, "{lease:?} for {unchanged:?}");
        }
    }

    #[test]
    fn changes_of_the_holder_are_counted() {
        let now = Timestamp::UNIX_EPOCH + Duration::from_secs(5);
        let renewed = held(Some(&lease("me")), "me", now);
        assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(3), &lease("me").acquire_time));
        assert_eq!(renewed.renew_time, Some(MicroTime(now)));
        let taken = held(Some(&lease("other")), "me", now);
        assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(4), Some(MicroTime(now))));
    }
}
