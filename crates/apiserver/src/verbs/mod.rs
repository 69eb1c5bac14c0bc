//! One implementation of each verb for every resource.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod update;
pub(crate) mod write;

use bytes::Bytes;
use skiff_api::status::Status;

use crate::call::Call;
use crate::encode::Reply;
use crate::route::Verb;
use crate::{Result, watch};

/// The verb on the resource itself (subresources go their own way).
pub(crate) async fn run(call: &Call, body: Bytes) -> Result<Reply> {
    if !call.resource().allows(call.verb.as_str()) {
        return Err(Status::method_not_allowed(Some(call.resource())));
    }
    match call.verb {
        Verb::Get => read::get(call).await,
        Verb::List => read::list(call).await,
        Verb::Watch => watch::serve(call).await,
        Verb::Create => create::run(call, &body).await,
        Verb::Update => update::run(call, &body).await,
        Verb::Patch => patch::run(call, &body).await,
        Verb::Delete => delete::run(call, &body).await,
        Verb::DeleteCollection => delete::collection(call, &body).await,
    }
}
