//! A bad connection between the controllers and the API server, from a seed: events come late and each kind at its own
//! pace, watches break and their place is forgotten, writes fail before or after they were carried out, and the
//! controllers die at a write.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::json;
use skiff_client::life::Stop;
use tower::BoxError;

pub(crate) type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// splitmix64
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// How bad it is. All zero: nothing happens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Badness {
    /// Of a hundred writes so many fail: half before, half after they were carried out.
    pub failures: u64,
    /// An event comes up to so many milliseconds late.
    pub lateness: u64,
    /// A watch breaks after up to so many events; 0: never.
    pub watch_length: u64,
    /// The controllers die at every so manieth write; 0: never.
    pub crash_every: u64,
    pub first_crash: u64,
}

pub(crate) struct Faults {
    badness: Badness,
    state: Mutex<State>,
}

struct State {
    random: Random,
    writes: u64,
    life: Option<Stop>,
    dead: bool,
}

enum Fate {
    Served,
    FailsBefore,
    FailsAfter,
}

impl Faults {
    pub(crate) fn new(seed: u64, badness: Badness) -> Arc<Self> {
        let state = State { random: Random(seed), writes: 0, life: None, dead: false };
        Arc::new(Faults { badness, state: Mutex::new(state) })
    }

    /// The controllers that die next.
    pub(crate) fn begin(&self, life: Stop) {
        let mut state = self.state();
        (state.life, state.dead) = (Some(life), false);
    }

    pub(crate) fn killed(&self) -> bool {
        self.state().dead
    }

    pub(crate) async fn serve(self: Arc<Self>, request: Request<Body>, server: impl Future<Output = Reply>) -> Reply {
        let query = request.uri().query().unwrap_or_default();
        if query.contains("watch=") {
            return self.watch(server).await;
        }
        if request.method() == Method::GET || request.uri().path().contains("/events") {
            return server.await;
        }
        let (fate, wait) = self.fate();
        tokio::time::sleep(wait).await;
        match fate {
            Fate::Served => server.await,
            Fate::FailsBefore => failure(StatusCode::SERVICE_UNAVAILABLE),
            Fate::FailsAfter => {
                server.await;
                failure(StatusCode::GATEWAY_TIMEOUT)
            }
        }
    }

    /// What becomes of a write, and how long it takes to arrive.
    fn fate(&self) -> (Fate, Duration) {
        let mut state = self.state();
        state.writes += 1;
        let wait = Duration::from_millis(state.random.below(self.badness.lateness / 4 + 1));
        let either = |before| if before { Fate::FailsBefore } else { Fate::FailsAfter };
        let crashes = self.badness.crash_every > 0
            && state.writes % self.badness.crash_every == self.badness.first_crash % self.badness.crash_every;
        if crashes && let Some(life) = state.life.take() {
            state.dead = true;
            let before = state.random.percent(50);
            if before {
                life.cancel();
                return (Fate::FailsBefore, wait);
            }
            // The write is carried out, and nobody is there to hear of it.
            life.cancel();
            return (Fate::FailsAfter, wait);
        }
        if state.random.percent(self.badness.failures) {
            let before = state.random.percent(50);
            return (either(before), wait);
        }
        (Fate::Served, wait)
    }

    async fn watch(self: Arc<Self>, server: impl Future<Output = Reply>) -> Reply {
        let length = match self.badness.watch_length {
            0 => u64::MAX,
            most => {
                let mut state = self.state();
                // Its place in the history is lost: the watcher has to list again.
                if state.random.percent(15) {
                    return failure(StatusCode::GONE);
                }
                1 + state.random.below(most)
            }
        };
        let (head, body) = server.await.into_parts();
        let frames = BodyStream::new(body).take(usize::try_from(length).unwrap_or(usize::MAX)).then(move |frame| {
            let late = Duration::from_millis(self.state().random.below(self.badness.lateness + 1));
            async move {
                tokio::time::sleep(late).await;
                frame
            }
        });
        Response::from_parts(head, StreamBody::new(frames).boxed_unsync())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(code: StatusCode) -> Reply {
    let reason = if code == StatusCode::GONE { "Expired" } else { "InternalError" };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "a fault of the test",
        "reason": reason, "code": code.as_u16()});
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {}).boxed_unsync();
    let reply = Response::builder().status(code).header("content-type", "application/json").body(body);
    reply.expect("a well-formed answer")
}
