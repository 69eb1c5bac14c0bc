//! namespaces/finalize: the namespace's content is gone, its finalizers may go.

use serde_json::Value;
use skiff_api::status::Status;

use crate::Result;
use crate::call::Call;
use crate::decode::{self, Media};
use crate::encode::Reply;
use crate::object;
use crate::verbs::{update, write};

pub(super) async fn run(call: &Call, body: &[u8]) -> Result<Reply> {
    let mut value = decode::value(Media::of(&call.headers, Media::OBJECTS)?, body)?;
    decode::check_kind(call.resource(), &mut value)?;
    update::fit_name(call, &mut value)?;
    let how = write::How { subresource: Some("finalize"), ..write::How::SPEC };
    let change = |current: Option<&Value>| {
        let mut next = current.cloned().ok_or_else(|| Status::not_found(call.resource(), object::name(&value)))?;
        object::child(&mut next, "spec").insert("finalizers".into(), value["spec"]["finalizers"].clone());
        for field in ["resourceVersion", "uid"] {
            match value["metadata"][field].as_str() {
                Some(given) => object::meta_mut(&mut next).insert(field.into(), given.into()),
                None => object::meta_mut(&mut next).shift_remove(field),
            };
        }
        Ok(next)
    };
    Ok(Reply::ok(write::update(call, call.name()?, &how, change).await?.value()))
}
