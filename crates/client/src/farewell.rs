//! Between the node agents and the proxies of one process: a pod that is deleted is told to end when the proxies have heard of
//! it and send it no new connections. Proxies of other processes are not asked; they get the time that a change takes at most.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

/// A proxy is asked to answer when no ready endpoint has this address any more and its rules say so.
#[derive(Debug)]
pub struct Question {
    pub ip: IpAddr,
    answer: oneshot::Sender<()>,
}

impl Question {
    pub fn answer(self) {
        // The pod may have ended in the meantime.
        let _ = self.answer.send(());
    }

    /// Nobody waits for the answer any more.
    pub fn is_idle(&self) -> bool {
        self.answer.is_closed()
    }
}

/// Shared by all agents and proxies of the process. Without proxies nobody has to be waited for.
#[derive(Clone, Debug, Default)]
pub struct Farewells(Arc<Mutex<Vec<UnboundedSender<Question>>>>);

impl Farewells {
    /// A proxy's part; it leaves by dropping it. There are never more questions than pods that end.
    pub fn join(&self) -> UnboundedReceiver<Question> {
        let (ask, questions) = unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(ask);
        questions
    }

    /// Returns when every proxy has answered or left; the caller bounds the time.
    pub async fn heard_by_all(&self, ip: IpAddr) {
        let mut answers = vec![];
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|proxy| {
            let (answer, told) = oneshot::channel();
            answers.push(told);
            proxy.send(Question { ip, answer }).is_ok()
        });
        // An error means that the proxy has left: a new one begins with what is true by then.
        for answer in answers {
            let _ = answer.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use super::*;

    #[tokio::test]
    async fn every_proxy_that_is_there_answers() {
        let farewells = Farewells::default();
        let ip: IpAddr = "10.244.0.11".parse().unwrap();
        farewells.heard_by_all(ip).await;
        let (mut one, mut other, gone) = (farewells.join(), farewells.join(), farewells.join());
        drop(gone);
        let mut heard = pin!(farewells.heard_by_all(ip));
        let mut is_pending =
            async || std::future::poll_fn(|cx| Poll::Ready(heard.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending().await);
        let question = one.recv().await.unwrap();
        assert_eq!(question.ip, ip);
        question.answer();
        assert!(is_pending().await, "the other has not answered");
        drop(other.recv().await);
        assert!(!is_pending().await);
    }
}
