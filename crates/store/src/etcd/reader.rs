//! Which head is the newest? Asked of etcd once for all who wait. A question that came while one was under way waits for
//! the next: only an answer to a question asked later is as new as its asker needs.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    READ, READERS,
    grpc::{Client, Failure},
    layout::Layout,
    not_now,
    wire::{self, KeyValue, Ranged, Read},
};
use crate::Result;

/// Where the answer goes: when the head was last written, in etcd's count.
pub(super) type Asked = oneshot::Sender<Result<u64>>;

pub(super) async fn run(client: Arc<Client>, layout: Layout, mut asked: mpsc::Receiver<Asked>) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, READERS).await > 0 {
        let head = with_another_try(&client, &layout).await;
        for asker in waiting.drain(..) {
            let answer = head.as_ref().map(|head| *head).map_err(|reason| not_now(reason.clone()));
            // One that no longer waits has dropped its end.
            let _ = asker.send(answer);
        }
    }
}

/// The first call after an endpoint has gone finds that out; the next endpoint is good for the second.
async fn with_another_try(client: &Client, layout: &Layout) -> Result<u64, String> {
    let told = match head(client, layout).await {
        Err(Failure::Unknown(_)) => head(client, layout).await,
        told => told,
    };
    match told {
        Ok((head, _)) => Ok(head.map_or(0, |head| head.modified)),
        Err(failure) => Err(format!("cannot read etcd: {failure}{}", failure.advice())),
    }
}

/// The head as a majority of etcd knows it, and etcd's newest revision.
pub(super) async fn head(client: &Client, layout: &Layout) -> Result<(Option<KeyValue>, u64), Failure> {
    let mut ranged = range(client, wire::range(layout.head().as_bytes(), &[], 1, 0)).await?;
    Ok((ranged.entries.pop(), ranged.revision))
}

pub(super) async fn range(client: &Client, message: wire::Message) -> Result<Ranged, Failure> {
    let answer = client.call("/etcdserverpb.KV/Range", message, READ).await?;
    Ranged::read(answer).ok_or_else(|| Failure::Unknown("an answer that is no RangeResponse".into()))
}
