//! get and list.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_api::resources::Resource;
use skiff_api::status::Status;
use skiff_store::{Error, Page, Rev};

use crate::Result;
use crate::call::Call;
use crate::encode::Reply;
use crate::object::{self, Object};
use crate::selection::Selection;
use crate::storage;

/// How many entries are read at once while looking for matches.
const CHUNK: usize = 500;

pub(crate) async fn get(call: &Call) -> Result<Reply> {
    let name = call.name()?;
    reachable(call, call.query.number("resourceVersion")?).await?;
    Ok(Reply::ok(call.storage().get(call.resource(), call.namespace(), name).await?.value))
}

/// A revision that has not happened cannot be waited for: one store has one history.
async fn reachable(call: &Call, rev: Option<Rev>) -> Result<()> {
    let newest = call.storage().0.revision().await.map_err(storage::status)?;
    match rev {
        Some(asked) if asked > newest => Err(storage::status(Error::Future { asked, newest }).retry_after(1)),
        _ => Ok(()),
    }
}

/// Where a list starts: a revision (None: now) and the key after which it goes on.
#[derive(Debug, Default, PartialEq, Eq)]
struct From {
    at: Option<Rev>,
    after: Option<String>,
}

/// What a continue token says. Opaque to clients. Revision 0: the rest as it is now.
#[derive(Serialize, Deserialize)]
struct Token {
    rv: Rev,
    after: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Token> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        token.ok_or_else(|| Status::bad_request("continue key is not valid: it was not made by this server"))
    }
}

fn from(call: &Call) -> Result<From> {
    let q = &call.query;
    let (rv, how) = (q.text("resourceVersion"), q.text("resourceVersionMatch"));
    if let Some(token) = q.text("continue") {
        if rv.is_some_and(|rv| rv != "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = Token::decode(token)?;
        return Ok(From { at: Some(token.rv).filter(|rv| *rv > 0), after: Some(token.after) });
    }
    let rev: Option<Rev> = q.number("resourceVersion")?;
    match (how, rev) {
        (Some("Exact"), None | Some(0)) => Err(Status::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\" or unset",
        )),
        (Some("Exact"), at) => Ok(From { at, after: None }),
        (Some("NotOlderThan"), None) => Err(Status::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        // The first page of a list is of the revision that was asked for, as the following ones are.
        (None, Some(rev)) if rev > 0 && q.number("limit")?.is_some_and(|limit: usize| limit > 0) => {
            Ok(From { at: Some(rev), after: None })
        }
        (None | Some("NotOlderThan"), _) => Ok(From::default()),
        (Some(other), _) => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

pub(crate) async fn list(call: &Call) -> Result<Reply> {
    let found = find(call).await?;
    let items = found.objects.into_iter().map(|o| o.value).collect();
    Ok(Reply::List { items, metadata: found.metadata })
}

pub(crate) struct Found {
    pub objects: Vec<Object>,
    pub metadata: Value,
}

/// The objects that a list asks for, a page of them when it has a limit.
pub(crate) async fn find(call: &Call) -> Result<Found> {
    let selection = Selection::of(call)?;
    let limit: usize = call.query.number("limit")?.unwrap_or(0);
    let from = from(call)?;
    if from.at.is_none() {
        reachable(call, call.query.number("resourceVersion")?).await?;
    }
    let prefix = object::prefix(call.resource(), call.namespace());
    let continued = from.after.clone();
    let (mut at, mut after, mut objects) = (from.at, from.after, Vec::new());
    loop {
        let chunk = if limit == 0 { 0 } else { CHUNK.max(limit) };
        let page = call.storage().0.list(&prefix, after.as_deref(), chunk, at).await;
        let page = page.map_err(|e| list_error(e, continued.as_deref()))?;
        at = Some(page.rev);
        let read = take(call.resource(), &page, &selection, limit, &mut objects)?;
        let remaining = page.remaining + (page.entries.len() - read) as u64;
        after = read.checked_sub(1).map(|last| page.entries[last].key.to_string()).or(after);
        let full = limit > 0 && objects.len() >= limit;
        if remaining == 0 || full {
            return Ok(Found { objects, metadata: metadata(page.rev, remaining, after, &selection) });
        }
    }
}

/// Adds what matches until `limit` is reached; how many entries were looked at.
fn take(
    resource: &Resource,
    page: &Page,
    selection: &Selection,
    limit: usize,
    objects: &mut Vec<Object>,
) -> Result<usize> {
    for (i, entry) in page.entries.iter().enumerate() {
        if limit > 0 && objects.len() >= limit {
            return Ok(i);
        }
        let object = Object::decode(resource, entry)?;
        if selection.matches(&object.value) {
            objects.push(object);
        }
    }
    Ok(page.entries.len())
}

fn metadata(rev: Rev, remaining: u64, after: Option<String>, selection: &Selection) -> Value {
    let mut metadata = json!({"resourceVersion": rev.to_string()});
    if let (true, Some(after)) = (remaining > 0, after) {
        metadata["continue"] = Token { rv: rev, after }.encode().into();
        if selection.is_everything() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    metadata
}

/// A list that is too old to go on as of its revision can go on as things are now, by another token.
fn list_error(error: Error, continued: Option<&str>) -> Status {
    match (error, continued) {
        (Error::Compacted { .. }, Some(after)) => {
            let why = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                       without it, or use the continue token in this response to retrieve the remainder of the results: they \
                       then show what was created, changed and deleted meanwhile.";
            Status::expired(why).rest(Token { rv: 0, after: after.into() }.encode())
        }
        (other, _) => storage::status(other),
    }
}
