//! watch: one feed per resource out of the store, decoded once, shared by all its watchers; each watcher applies its own
//! selectors and shape. A watcher that does not read falls behind the feed and is ended: the client lists anew.

mod change;
mod hub;
mod stream;

use std::collections::VecDeque;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use skiff_api::status::Status;
use skiff_store::Rev;
use tokio::time::{Duration, Instant};

pub(crate) use hub::Hubs;

use crate::call::Call;
use crate::encode::{self, Reply};
use crate::selection::Selection;
use crate::storage;
use crate::{BoxError, Result};
use stream::{Start, Watcher};

/// Where a watch starts.
#[derive(Debug, PartialEq, Eq)]
enum From {
    /// With the objects as they are now; a bookmark says where they end when the client asked for that.
    Now { bookmark: bool },
    /// With what happens from now on.
    Next,
    /// With what happened after a revision.
    After(Rev),
}

fn from(call: &Call) -> Result<From> {
    let q = &call.query;
    let rev: Option<Rev> = q.number("resourceVersion")?;
    let initial = q.has("sendInitialEvents").then(|| q.flag("sendInitialEvents"));
    match (initial, rev) {
        (Some(_), _) if q.text("resourceVersionMatch") != Some("NotOlderThan") => Err(Status::bad_request(
            "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
        (Some(true), _) => Ok(From::Now { bookmark: q.flag("allowWatchBookmarks") }),
        (Some(false), None | Some(0)) => Ok(From::Next),
        (None, None | Some(0)) => Ok(From::Now { bookmark: false }),
        (_, Some(rev)) => Ok(From::After(rev)),
    }
}

pub(crate) async fn serve(call: &Call) -> Result<Reply> {
    let seconds =
        call.query.number("timeoutSeconds")?.filter(|s| *s > 0).unwrap_or_else(|| rand::random_range(1800..3600u64));
    let deadline = Instant::now() + Duration::from_secs(seconds.min(24 * 3600));
    let start = start(call, from(call)?).await?;
    let watcher = Watcher::new(call, Selection::of(call)?, start, deadline);
    let media = watcher.media_type();
    let frames = futures::stream::unfold(watcher, |mut watcher| async move {
        let bytes: Bytes = watcher.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), watcher))
    });
    let mut response = encode::respond(StatusCode::OK, media, "");
    *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(frames));
    Ok(Reply::Raw(Box::new(response)))
}

/// The feed is opened before the list is read, so nothing falls between them.
async fn start(call: &Call, from: From) -> Result<Start> {
    let hubs = &call.server.hubs;
    let resource = call.resource();
    let newest = call.storage().0.revision().await.map_err(storage::status)?;
    match from {
        From::Now { bookmark } => {
            let feed = hubs.subscribe(resource, newest).await?;
            let (objects, rev) = call.storage().all(call.resource(), call.namespace()).await?;
            Ok(Start { feed: Ok(feed), objects: objects.into(), rev, end_bookmark: bookmark })
        }
        From::Next => {
            let feed = hubs.subscribe(resource, newest).await?;
            Ok(Start { feed: Ok(feed), objects: VecDeque::new(), rev: newest, end_bookmark: false })
        }
        From::After(asked) if asked > newest => {
            Err(storage::status(skiff_store::Error::Future { asked, newest }).retry_after(1))
        }
        // Too old a revision is told inside the stream, as the reference does.
        From::After(rev) => {
            let feed = hubs.subscribe(resource, rev).await;
            Ok(Start { feed, objects: VecDeque::new(), rev, end_bookmark: false })
        }
    }
}
