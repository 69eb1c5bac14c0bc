//! The life of a component: it is told to stop by a token and says once that it is ready.

use tokio::sync::oneshot;
pub use tokio_util::sync::CancellationToken as Stop;

/// Given to a component's `run`; says that the component does its work from now on. Dropping it unsaid means that the
/// component failed before it got there.
#[derive(Debug)]
pub struct Ready(oneshot::Sender<()>);

/// The other end of [`Ready`].
#[derive(Debug)]
pub struct Readiness(oneshot::Receiver<()>);

pub fn readiness() -> (Ready, Readiness) {
    let (tx, rx) = oneshot::channel();
    (Ready(tx), Readiness(rx))
}

impl Ready {
    pub fn set(self) {
        // The receiver may be gone: nobody waits any more, which is fine.
        let _ = self.0.send(());
    }
}

impl Readiness {
    /// True when the component said so, false when it ended first.
    pub async fn wait(self) -> bool {
        self.0.await.is_ok()
    }
}
